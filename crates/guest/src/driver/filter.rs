//! Changes an interface's filter while its guest runs.
//!
//! ```text
//!   read the filters ─▶ ledger: the new SPEC ─▶ one transaction of nftables, read back ─▶ record
//!                                                   └─ refused: the old filter, the old SPEC
//! ```
//!
//! A supervisor that ends in between leaves the new SPEC, by which the next one sets the filter.

use std::sync::Arc;

use taptrail_kernel::filter::FilterError;
use taptrail_record::{MacAddr, Outcome, Requester};
use tracing::{info, warn};

use super::{Driver, log_error};
use crate::filter::FilterChoice;
use crate::host::interface_filter;
use crate::host_link::HostLink;
use crate::request::Failure;
use crate::spec::NicSpec;
use crate::state::InterfaceInfo;

impl Driver {
    pub(super) fn set_filter(
        &mut self,
        mac: MacAddr,
        filter: Option<FilterChoice>,
        requester: Option<Requester>,
    ) -> Result<InterfaceInfo, Failure> {
        self.account.ready().map_err(|error| Failure::Refused(crate::chain(&error)))?;
        let Some(index) = self.holder(mac) else {
            return Err(Failure::Refused(format!(
                "This guest has no interface {mac} with devices: `taptrail nics` lists them"
            )));
        };
        let interface = &self.interfaces[index].interface;
        let (key, old) = (interface.key, interface.spec.clone());
        let mut new = old.clone();
        new.filter.clone_from(&filter);
        // The ledger's SPEC is read again: what a SPEC may not have together is refused here, too.
        new.to_string().parse::<NicSpec>().map_err(|error| Failure::Refused(error.to_string()))?;
        let Some(link) = interface.resources.link.clone() else {
            return Err(Failure::Refused(format!("The link of {mac} is gone: there is nothing to filter")));
        };
        let rules = filter.as_ref().map(|choice| choice.load_rules(mac)).transpose();
        let rules = rules.map_err(|error| Failure::Refused(crate::chain(&error)))?;
        let failed = |error| Failure::Failed(crate::chain(&error));
        self.account.change_interface(key, &new.to_string(), rules.as_ref()).map_err(failed)?;
        let rules =
            rules.map(|rules| interface_filter(link.kind(), link.name().clone(), link.index(), rules));
        crash_point!("set-filter::intended");
        let done = match &rules {
            Some(rules) => self.host.nft().and_then(|nft| nft.replace(rules)),
            None => self.remove_filter(&link).map(|()| None),
        };
        match done {
            Ok(seen) => {
                let what = new.filter.as_ref().map_or("none".to_owned(), ToString::to_string);
                info!("{mac}: its filter is changed: {what}");
                let attached = &mut self.interfaces[index].interface;
                attached.spec = new;
                (attached.resources.filter_lost, attached.resources.unknown_filter) = (false, None);
                attached.resources.filter_seen = seen;
                let outcome = if rules.is_some() { Outcome::Success } else { Outcome::Failed };
                attached.resources.filter = rules;
                self.post_filter(index, outcome, requester);
                Ok(self.interfaces[index].info())
            }
            Err(error) => {
                let rules = self.interfaces[index].interface.resources.filter.as_ref();
                let rules = rules.map(|filter| Arc::clone(&filter.rules));
                log_error(self.account.change_interface(key, &old.to_string(), rules.as_deref()));
                Err(self.keep_filter(index, &error, requester))
            }
        }
    }

    fn remove_filter(&self, link: &HostLink) -> Result<(), FilterError> {
        self.host.nft()?.remove(link.index())
    }

    /// After a change that failed: the old filter stands, or is set again, or is lost, on record.
    fn keep_filter(&mut self, index: usize, error: &FilterError, requester: Option<Requester>) -> Failure {
        let why = crate::chain(error);
        let interface = &self.interfaces[index].interface;
        let mac = interface.mac;
        warn!("{mac}: its filter can't be changed: {why}");
        let Some(old) = interface.resources.filter.clone() else {
            let link = interface.resources.link.clone();
            let removed = link.map_or(Ok(()), |link| self.remove_filter(&link));
            return Failure::Failed(match removed {
                Ok(()) => format!("The filter can't be set: {why}; the interface has none, as before"),
                Err(left) => format!(
                    "The filter can't be set: {why}; what of it is left can't be removed: {}",
                    crate::chain(&left)
                ),
            });
        };
        if self.host.filter_is_in_force(&old).is_ok() {
            return Failure::Failed(format!("The filter can't be set: {why}; the old one is in force"));
        }
        // Something else than the old filter stands, or nothing.
        self.post_filter(index, Outcome::Failed, requester);
        Failure::Failed(match self.set_filter_again(index, &old) {
            Ok(()) => format!("The filter can't be set: {why}; the old one is set again"),
            Err(lost) => format!(
                "The filter can't be set: {why}; the old one is lost, and is tried again: {}",
                crate::chain(&lost)
            ),
        })
    }
}
