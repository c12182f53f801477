//! Changes settings of an interface while its guest runs.
//!
//! ```text
//!   check ─▶ ledger and audit: `updating` ─▶ set one after another, each read back ─▶ `update`, the new SPEC
//!                                                └─ refused: all that was set is set back ─▶ `update` failed
//! ```
//!
//! The SPEC on record is the old one until all is done. The next supervisor of one that ends in between
//! finds the intent, and sets back what the old SPEC and the old filter's rules say: a client without an
//! answer has changed nothing. What can't be set back has no outcome on record: it is not known.

use taptrail_kernel::filter::{FilterError, InterfaceFilter};
use taptrail_ledger::StepKey;
use taptrail_record::{Event, IfName, MacAddr, Outcome, Record, Requester, UpdatePhase};
use tracing::{info, warn};

use super::names::netdev_id;
use super::{Driver, MONITOR_TIMEOUT, log_error};
use crate::account::{LedgerBatch, stored_rules};
use crate::filter::FilterChoice;
use crate::host::LinkChange;
use crate::interface::Interface;
use crate::learning::Learning;
use crate::request::Failure;
use crate::spec::{NicSpec, Setting, SpecChange};
use crate::state::InterfaceInfo;

/// How often a filter is set again under the new name of a link that was renamed meanwhile.
const MAX_RENAMES: u32 = 5;

/// The settings that an interface has, or is to have.
#[derive(Debug, Clone)]
struct Target {
    spec: NicSpec,
    filter: Option<InterfaceFilter>,
    /// The MTU of the link; `None` where it is not known.
    mtu: Option<u32>,
}

/// Why a setting has another value than it was to have.
#[derive(Debug)]
enum SetError {
    Filter(FilterError),
    Other(String),
}

impl Driver {
    pub(super) fn update(
        &mut self,
        mac: MacAddr,
        change: &SpecChange,
        requester: Option<Requester>,
    ) -> Result<InterfaceInfo, Failure> {
        self.account.ready().map_err(|error| Failure::Refused(crate::chain(&error)))?;
        let Some(index) = self.holder(mac) else {
            return Err(Failure::Refused(format!(
                "This guest has no interface {mac} with devices: `taptrail nics` lists them"
            )));
        };
        let mut old = self.current(index);
        old.mtu = self.host.mtu_of(&self.interfaces[index].interface.resources).or(old.mtu);
        let new = self.prepare(index, &old, change)?;
        let settings = in_order(change, &new.spec);
        let interface = &self.interfaces[index].interface;
        let (key, device) = (interface.key, interface.devices.first().map(|of| of.device.clone()));
        let Some(device) = device else {
            return Err(Failure::Refused(format!("{mac} has no device: there is nothing to change")));
        };
        let event =
            |phase| Event::Update { mac, device: device.clone(), phase, settings: change.to_string().into() };
        let rules = new.filter.as_ref().map(|filter| stored_rules(&filter.rules)).transpose();
        let rules = rules.map_err(|error| Failure::Refused(crate::chain(&error)))?;
        let relearns = settings.contains(&Setting::Filter) && self.kept_learning(index, &new.spec).is_none();
        let learning = if relearns { self.new_learning(index, &new.spec)? } else { None };
        let begin = self.account.record(event(UpdatePhase::Begin), Outcome::Success, requester);
        let end = |driver: &Self, outcome| driver.account.record(event(UpdatePhase::End), outcome, requester);
        let step = match self.account.begin_update(mac, begin, &change.to_string()) {
            Ok(step) => step,
            Err(error) => {
                let failed = end(self, Outcome::Failed);
                log_error(self.account.post(LedgerBatch::default().record(failed)));
                return Err(Failure::Failed(format!("{}; nothing is changed", crate::chain(&error))));
            }
        };
        crash_point!("update::intended");
        for (count, setting) in (1..).zip(&settings) {
            if let Err(error) = self.set(index, *setting, &old, &new) {
                let texts = self.set_back(index, &settings[..count], &new, &old, Some(&error), requester);
                self.post_taken_back(step, texts.is_ok().then(|| end(self, Outcome::Failed)));
                let (Ok(text) | Err(text)) = texts;
                return Err(Failure::Failed(format!("{}; {text}", error.text(*setting))));
            }
            crash_point!("update::set");
        }
        let is_filtered = new.filter.is_some();
        let attached = &mut self.interfaces[index].interface;
        attached.spec.clone_from(&new.spec);
        let mut batch = LedgerBatch::default();
        if settings.contains(&Setting::Filter) {
            attached.resources.now_has(new.filter);
            if relearns {
                attached.resources.learning = learning;
            }
            let outcome = if is_filtered { Outcome::Success } else { Outcome::Failed };
            batch = batch.change_rules(key, rules).record(self.account.record(
                Event::Filter { mac, device: device.clone(), address: None },
                outcome,
                requester,
            ));
        }
        let batch = batch
            .record(end(self, Outcome::Success))
            .change_spec(key, new.spec.to_string())
            .complete_steps([&step], "success");
        log_error(self.account.post(batch));
        info!("{mac}: changed: {change}");
        Ok(self.interfaces[index].info())
    }

    /// Sets back what an earlier supervisor had begun to change, on record.
    pub(super) fn take_back_update(&mut self, index: usize, step: StepKey, settings: &str) {
        let interface = &self.interfaces[index].interface;
        let (mac, device) = (interface.mac, interface.devices.first().map(|of| of.device.clone()));
        let old = self.current(index);
        let mut failed = None;
        match (settings.parse::<SpecChange>(), device) {
            (Ok(change), Some(device)) => {
                // What it says of filters does not count: the old filter is set.
                let spec = change.apply(&old.spec).unwrap_or_else(|_| old.spec.clone());
                let begun = Target { mtu: spec.mtu, spec, filter: None };
                let all = in_order(&change, &begun.spec);
                match self.set_back(index, &all, &begun, &old, None, None) {
                    Ok(text) => {
                        warn!("{mac}: a change was interrupted ({settings}): {text}");
                        let settings = settings.into();
                        let event = Event::Update { mac, device, phase: UpdatePhase::End, settings };
                        failed = Some(self.account.record(event, Outcome::Failed, None));
                    }
                    Err(text) => {
                        warn!("{mac}: a change was interrupted ({settings}), and is there in part: {text}")
                    }
                }
            }
            (Err(error), _) => warn!("{mac}: a change was interrupted, and can't be read: {error}"),
            (_, None) => {}
        }
        self.post_taken_back(step, failed);
    }

    fn post_taken_back(&mut self, step: StepKey, failed: Option<Record>) {
        let outcome = if failed.is_some() { "failed" } else { "unknown" };
        let batch = failed.into_iter().fold(LedgerBatch::default(), LedgerBatch::record);
        log_error(self.account.post(batch.complete_steps([&step], outcome)));
    }

    fn current(&self, index: usize) -> Target {
        let interface = &self.interfaces[index].interface;
        let (spec, filter) = (interface.spec.clone(), interface.resources.filter.clone());
        Target { mtu: spec.mtu, spec, filter }
    }

    /// What an interface is to have. Nothing is touched yet.
    fn prepare(&mut self, index: usize, old: &Target, change: &SpecChange) -> Result<Target, Failure> {
        let interface = &self.interfaces[index].interface;
        let mac = interface.mac;
        let spec = change.apply(&old.spec).map_err(|error| Failure::Refused(error.to_string()))?;
        let settings = change.settings();
        let link = interface.resources.link.clone();
        if link.is_none() && settings.iter().any(|setting| *setting != Setting::Carrier) {
            return Err(Failure::Refused(format!(
                "{mac} has no link on this host: there is nothing to change"
            )));
        }
        if settings.contains(&Setting::Mtu) && spec.model.is_virtio() {
            return Err(Failure::Refused(format!(
                "'mtu' of {mac} can't be changed while the guest runs: QEMU tells it to a virtio NIC when that is plugged; detach the interface, and attach it with the new value"
            )));
        }
        if settings.contains(&Setting::Mtu) && spec.mtu.is_none() {
            // A bridge has the lowest of its ports' MTUs: there is none to go back to.
            return Err(Failure::Refused(format!(
                "'mtu' of {mac} can't be 'none' while the guest runs: give one"
            )));
        }
        if settings.contains(&Setting::Port) {
            self.host.bridge_of(&spec).map_err(|error| Failure::Refused(crate::chain(&error)))?;
        }
        let mut filter = old.filter.clone();
        if let (true, Some(link)) = (settings.contains(&Setting::Filter), link) {
            let attachment = link.kind().attachment();
            let learnt = self.kept_learning(index, &spec).map(Learning::values).unwrap_or_default();
            let load = |choice: &FilterChoice| choice.load_rules(mac, attachment, &learnt);
            let rules = spec.filter.as_ref().map(load).transpose();
            let rules = rules.map_err(|error| Failure::Refused(crate::chain(&error)))?;
            filter = rules.map(|rules| link.filter(rules));
        }
        Ok(Target { mtu: spec.mtu, spec, filter })
    }

    /// What an interface has learnt, if it goes on learning in the same way with this SPEC.
    fn kept_learning(&self, index: usize, spec: &NicSpec) -> Option<&Learning> {
        let interface = &self.interfaces[index].interface;
        let reader = spec.filter.as_ref()?.frame_reader(interface.mac)?;
        interface.resources.learning.as_ref().filter(|known| known.reader == reader)
    }

    /// What learns the addresses of an interface with another SPEC, if they are learnt; started.
    fn new_learning(&self, index: usize, spec: &NicSpec) -> Result<Option<Learning>, Failure> {
        let Interface { mac, resources, .. } = &self.interfaces[index].interface;
        let reader = spec.filter.as_ref().and_then(|choice| choice.frame_reader(*mac));
        let Some((reader, link)) = reader.zip(resources.link.as_ref()) else { return Ok(None) };
        let mut learning = Learning::new(reader, link.kind().attachment(), link.index());
        match learning.start() {
            Ok(()) => Ok(Some(learning)),
            Err(error) => {
                Err(Failure::Failed(format!("Addresses can't be learnt: {}", crate::chain(&error))))
            }
        }
    }

    /// Sets one setting to what `to` has, and reads it back.
    fn set(&mut self, index: usize, setting: Setting, from: &Target, to: &Target) -> Result<(), SetError> {
        if setting == Setting::Filter {
            return self.set_filter_to(index, to.filter.clone()).map_err(SetError::Filter);
        }
        let attached = &self.interfaces[index];
        let (mac, guest) = (attached.interface.mac, self.account.guest().clone());
        if setting == Setting::Carrier {
            let (id, nic) = (attached.interface.id.clone(), attached.nic);
            let up = !to.spec.host.link_down;
            // QEMU has no command that shows it: its answer counts.
            let set = self.qemu.monitor.set_link(&netdev_id(&id), up, MONITOR_TIMEOUT);
            let set = set.and_then(|()| match nic {
                true => self.qemu.monitor.set_link(&id, up, MONITOR_TIMEOUT),
                false => Ok(()),
            });
            return set.map_err(|error| SetError::Other(crate::chain(&error)));
        }
        let Some(link) = attached.interface.resources.link.clone() else {
            return Err(SetError::Other("its link is gone".to_owned()));
        };
        let done = match setting {
            Setting::Port => self.host.set_port(&guest, &to.spec, mac, &link),
            Setting::Bandwidth => self.host.set_bandwidth(&from.spec, &to.spec, &link),
            Setting::Mtu => self.host.set_mtu(&guest, (&to.spec, to.mtu), mac, &link),
            Setting::RxFrames => self.host.set_rx_frames(&to.spec, &link),
            Setting::Carrier | Setting::Filter => Ok(()),
        };
        done.map_err(|error| SetError::Other(crate::chain(&error)))
    }

    /// Sets a filter in place of another, or removes it. nftables hooks a filter to a name, and the
    /// link may be renamed at any time: it is set again, until the name is that of the link's number.
    pub(super) fn set_filter_to(
        &mut self,
        index: usize,
        filter: Option<InterfaceFilter>,
    ) -> Result<(), FilterError> {
        let Some(mut filter) = filter else {
            let link = self.interfaces[index].interface.resources.link.clone();
            let nft = self.host.nft()?;
            return link.map_or(Ok(()), |link| nft.remove(link.index()));
        };
        let mut renames = 0;
        loop {
            match self.host.nft().and_then(|nft| nft.replace(&filter)) {
                Ok(seen) => {
                    self.interfaces[index].interface.resources.filter_seen = seen;
                    return Ok(());
                }
                Err(error) => {
                    renames += 1;
                    match self.follow_name(index) {
                        Some(name) if renames <= MAX_RENAMES => filter.ifname = name,
                        _ => return Err(error),
                    }
                }
            }
        }
    }

    /// The new name of an interface's link, if it was renamed.
    fn follow_name(&mut self, index: usize) -> Option<IfName> {
        let interface = &mut self.interfaces[index].interface;
        let Ok(LinkChange::Renamed(name)) = self.host.refresh_link(&mut interface.resources) else {
            return None;
        };
        self.renamed(index, name.clone());
        // A chain loses an interface that is renamed.
        if self.interfaces[index].interface.resources.filter.is_some() {
            self.filter_is_lost(index, "its link was renamed");
        }
        Some(name)
    }

    /// Sets settings back to what `to` has, after an error or another supervisor's end. Returns what
    /// there is then, in words; as an error if something can't be set back.
    fn set_back(
        &mut self,
        index: usize,
        settings: &[Setting],
        from: &Target,
        to: &Target,
        cause: Option<&SetError>,
        requester: Option<Requester>,
    ) -> Result<String, String> {
        let (mut texts, mut left) = (Vec::new(), false);
        let key = self.interfaces[index].interface.key;
        for setting in settings.iter().rev() {
            // It is revoked where its filter can't be set again, if that was asked for.
            if self.interfaces.get(index).is_none_or(|of| of.interface.key != key) {
                texts.push("its devices are revoked".to_owned());
                left = true;
                break;
            }
            let done = match setting {
                Setting::Filter => self.set_filter_back(index, requester),
                _ => self
                    .set(index, *setting, from, to)
                    .map(|()| format!("{} as before", setting.name()))
                    .map_err(|error| format!("{} can't be set back: {}", setting.name(), error.cause())),
            };
            left |= done.is_err();
            let (Ok(text) | Err(text)) = done;
            texts.push(text);
        }
        if left && cause.is_some() {
            let mac = self.interfaces[index].interface.mac;
            warn!("{mac}: a change that failed could not be taken back: {}", texts.join("; "));
        }
        let text = texts.join("; ");
        if left { Err(text) } else { Ok(text) }
    }

    /// The old filter stands, or is set again, or is lost, on record.
    fn set_filter_back(&mut self, index: usize, requester: Option<Requester>) -> Result<String, String> {
        let resources = &self.interfaces[index].interface.resources;
        if resources.unknown_filter.is_some() {
            return Err("the rules of the old filter are not known, and what there is stays".to_owned());
        }
        let Some(old) = resources.filter.clone() else {
            return match self.set_filter_to(index, None) {
                Ok(()) => Ok("the interface has no filter, as before".to_owned()),
                Err(left) => {
                    Err(format!("what of the filter is left can't be removed: {}", crate::chain(&left)))
                }
            };
        };
        if self.host.filter_is_in_force(&old).is_ok() {
            return Ok("the old filter is in force".to_owned());
        }
        // Something else than the old filter stands, or nothing.
        if !self.interfaces[index].interface.resources.filter_lost {
            self.post_filter(index, Outcome::Failed, requester);
        }
        match self.set_filter_again(index, &old) {
            Ok(()) => Ok("the old filter is set again".to_owned()),
            Err(lost) => Err(format!("the old filter is lost, and is tried again: {}", crate::chain(&lost))),
        }
    }
}

/// The settings of a change, in an order in which the guest never has more than before and after: a
/// filter comes first and goes last, as does a link that is set down and up.
fn in_order(change: &SpecChange, to: &NicSpec) -> Vec<Setting> {
    let (goes_up, is_unfiltered) = (!to.host.link_down, to.filter.is_none());
    let mut all: Vec<Setting> = change.settings().into_iter().collect();
    all.sort_by_key(|setting| match setting {
        Setting::Carrier if goes_up => 3,
        Setting::Carrier => 0,
        Setting::Filter if is_unfiltered => 2,
        _ => 1,
    });
    all
}

impl Setting {
    /// As it begins a sentence's part.
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "the filter",
            Self::Bandwidth => "the bandwidth",
            Self::Mtu => "the MTU",
            Self::RxFrames => "rx-frames",
            Self::Port => "the bridge's port",
            Self::Carrier => "the link's state",
        }
    }
}

impl SetError {
    fn cause(&self) -> String {
        match self {
            Self::Filter(error) => crate::chain(error),
            Self::Other(text) => text.clone(),
        }
    }

    fn text(&self, setting: Setting) -> String {
        let name = setting.name();
        let name =
            name.chars().next().map_or(String::new(), |first| first.to_uppercase().to_string()) + &name[1..];
        format!("{name} can't be changed: {}", self.cause())
    }
}
