//! What others change of the guest's links and filters while it runs.

use taptrail_kernel::changes::Changes;
use taptrail_record::{Event, Outcome};
use tracing::{info, warn};

use super::{Driver, said};
use crate::account::Posting;
use crate::interface::LinkChange;

/// Subscribes to what the kernel announces. Without it nothing else is lost.
pub(super) fn subscribe() -> Option<Changes> {
    Changes::subscribe().inspect_err(|error| warn!("changes of links and filters are not seen: {error}")).ok()
}

impl Driver {
    /// Looks at the links and filters of this guest that were changed.
    pub(super) fn look_at_changes(&mut self) {
        let Some(changes) = &mut self.changes else { return };
        let changed = match changes.take() {
            Ok(changed) => changed,
            Err(error) => {
                warn!("changes of links and filters are not seen any more: {error}");
                self.changes = None;
                return;
            }
        };
        for index in 0..self.interfaces.len() {
            let lasting = &self.interfaces[index].interface.lasting;
            let Some(number) = lasting.link.as_ref().map(|link| link.index()) else { continue };
            let link = changed.lost || changed.links.contains(&number);
            let renamed = link && self.link_changed(index);
            let filter = changed.lost || changed.filters.contains(&number);
            if filter || renamed {
                self.filter_changed(index);
            }
        }
    }

    /// Tells what became of an interface's link, and whether it has another name.
    fn link_changed(&mut self, index: usize) -> bool {
        let interface = &mut self.interfaces[index].interface;
        let mac = interface.mac;
        match self.host.look_at_link(&mut interface.lasting) {
            Ok(LinkChange::None) => false,
            Ok(LinkChange::Renamed(name)) => {
                info!("{mac}: link '{}' was renamed: it is '{name}' now", interface.ifname);
                interface.ifname = name;
                self.publish();
                true
            }
            Ok(LinkChange::Moved(namespace, name)) => {
                warn!(
                    "{mac}: link '{}' was moved to another network namespace (number {namespace} here), where it is '{name}': its filter stays here",
                    interface.ifname
                );
                false
            }
            Ok(LinkChange::Gone) => {
                warn!("{mac}: link '{}' was deleted: no frame passes any more", interface.ifname);
                false
            }
            Err(error) => {
                warn!("{mac}: its link can't be looked at: {}", crate::chain(&error));
                false
            }
        }
    }

    /// Sets an interface's filter again if it is not in force any more.
    fn filter_changed(&mut self, index: usize) {
        let interface = &self.interfaces[index].interface;
        let mac = interface.mac;
        let Some(filter) = interface.lasting.filter.clone() else { return };
        let Err(lost) = self.host.filter_is_in_force(&filter) else { return };
        warn!("{mac}: its filter is not in force: {}", crate::chain(&lost));
        self.post_filter(index, Outcome::Failed);
        match self.host.set_filter(&filter) {
            Ok(()) => {
                warn!("{mac}: its filter is set again; frames may have passed without it");
                self.post_filter(index, Outcome::Success);
            }
            Err(error) => {
                warn!("{mac}: its filter can't be set again: {}", crate::chain(&error));
                if self.revoke_unfiltered {
                    match self.release(index, true, None) {
                        Ok(_) => warn!("{mac}: revoked, for want of its filter"),
                        Err(error) => warn!("{mac}: {error}"),
                    }
                    self.publish();
                }
            }
        }
    }

    fn post_filter(&mut self, index: usize, outcome: Outcome) {
        let interface = &self.interfaces[index].interface;
        let Some(device) = interface.devices.first() else { return };
        let event = Event::Filter { mac: interface.mac, device: device.device.clone() };
        let record = self.account.record(event, outcome, None);
        said(self.account.post(Posting::default().says(record)));
    }
}
