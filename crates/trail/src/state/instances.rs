//! One uuid on one host: usually one guest; two while it migrates between two daemons there.

use std::collections::VecDeque;

use taptrail_record::{Event, GuestId};

use crate::FindingKind;
use crate::model::entry::RecordEntry;
use crate::output::{GuestRef, Output};
use crate::state::guest::Guest;

/// The guests with one uuid on one host, oldest first, distinguished by the writer of their
/// records.
#[derive(Debug, Default)]
pub(crate) struct GuestInstances {
    guests: Vec<Guest>,
}

/// How many writers may have records of one uuid at once.
const MAX_INSTANCES: usize = 8;

/// The daemons of one host whose restart was reported: each took over a running guest.
#[derive(Debug, Default)]
pub(crate) struct RestartedDaemons {
    reported: VecDeque<u32>,
}

impl RestartedDaemons {
    const MAX_REPORTED: usize = 64;

    fn report_restart(&mut self, entry: &RecordEntry<'_>, writer: u32, guest: &Guest, out: &mut Output) {
        if self.reported.contains(&writer) {
            return;
        }
        if self.reported.len() == Self::MAX_REPORTED {
            self.reported.pop_front();
        }
        self.reported.push_back(writer);
        let guest_ref = GuestRef { host: &guest.host, guest: &guest.id };
        let before = guest.writer.map_or(String::new(), |before| format!(" as process {before} did before"));
        let text = format!(
            "Process {writer} speaks for the running guest '{}'{before}: its manager restarted",
            guest.id.name
        );
        out.report_for_guest(FindingKind::DaemonRestarted, guest_ref, None, &entry.proof(), text);
    }
}

impl GuestInstances {
    pub(crate) fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> &mut Guest {
        &mut self.guests[at]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Guest> {
        self.guests.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Guest> {
        self.guests.iter_mut()
    }

    pub(crate) fn into_guests(self) -> Vec<Guest> {
        self.guests
    }

    pub(crate) fn newest(&self) -> Option<&GuestId> {
        self.guests.last().map(|guest| &guest.id)
    }

    pub(crate) fn remove(&mut self, at: usize) -> Guest {
        let guest = self.guests.remove(at);
        if let [only] = &mut self.guests[..] {
            only.tentative = false;
        }
        guest
    }

    /// Removes the guest whose QEMU has this pid.
    pub(crate) fn remove_by_pid(&mut self, pid: u32) -> Option<Guest> {
        let at = self.guests.iter().position(|guest| guest.pid == Some(pid))?;
        Some(self.remove(at))
    }

    /// The guest that runs as this process; or the newest running one whose pid is not known.
    pub(crate) fn get_by_pid(&mut self, pid: u32) -> Option<&mut Guest> {
        let at = self.position_by_pid(pid)?;
        self.guests.get_mut(at)
    }

    /// The newest instance of which this process writes the records.
    pub(crate) fn newest_of(&mut self, writer: Option<u32>) -> Option<&mut Guest> {
        self.guests
            .iter_mut()
            .rfind(|guest| writer.is_none() || guest.writer.is_none() || guest.writer == writer)
    }

    fn position_by_pid(&self, pid: u32) -> Option<usize> {
        let runs = |guest: &Guest| guest.running && guest.pid.is_none();
        let own = self.guests.iter().position(|guest| guest.pid == Some(pid));
        own.or_else(|| self.guests.iter().rposition(runs))
    }

    /// Removes the guest that ran as this process.
    pub(crate) fn remove_running_as(&mut self, pid: u32) -> Option<Guest> {
        let at = self.position_by_pid(pid)?;
        Some(self.remove(at))
    }

    /// The guest that a watcher saw running as this process. If the holding had `ended`, a guest
    /// without a known pid is a newer one, and is not meant.
    pub(crate) fn get_or_add_running(
        &mut self,
        entry: &RecordEntry<'_>,
        pid: u32,
        ended: bool,
        out: &mut Output,
    ) -> &mut Guest {
        let unknown = |guest: &Guest| !ended && guest.pid.is_none();
        let known = self.position_by_pid(pid).or_else(|| self.guests.iter().rposition(unknown));
        let at = known.unwrap_or_else(|| {
            if self.guests.len() == MAX_INSTANCES {
                self.remove(0).stop_tracking(entry.time, out);
            }
            self.guests.push(Guest::running(entry));
            self.guests.len() - 1
        });
        &mut self.guests[at]
    }

    /// Removes the guests for which no record is awaited. Returns whether none is left.
    pub(crate) fn remove_idle(&mut self) -> bool {
        while let Some(idle) = self.guests.iter().position(Guest::is_idle) {
            self.remove(idle);
        }
        self.guests.is_empty()
    }

    /// The guest that a record is about.
    ///
    /// A writer that is new to the uuid has either taken over the running guest, as a daemon that
    /// restarted, or is about to start a second one. What it opens may be for either, so it is
    /// tracked apart until a hot-plug or a start record decides.
    pub(crate) fn find_or_add(
        &mut self,
        entry: &RecordEntry<'_>,
        daemons: &mut RestartedDaemons,
        out: &mut Output,
    ) -> usize {
        let Some(newest) = self.guests.len().checked_sub(1) else {
            self.guests.reserve_exact(1);
            self.guests.push(Guest::new(entry, false));
            return 0;
        };
        let Some(writer) = entry.writer else { return newest };
        let own = self.guests.iter().position(|guest| guest.writer == Some(writer));
        match own {
            Some(at) => {
                if !self.guests[at].tentative || !implies_running_guest(entry, Some(&self.guests[at])) {
                    return at;
                }
            }
            None => {
                if let Some(at) = self.guests.iter().position(|guest| guest.writer.is_none()) {
                    self.guests[at].writer = Some(writer);
                    return at;
                }
                if !implies_running_guest(entry, None) {
                    if self.guests.len() == MAX_INSTANCES {
                        self.remove(0).finish(entry.time, out);
                    }
                    self.guests.push(Guest::new(entry, true));
                    return self.guests.len() - 1;
                }
            }
        }
        let tentative = own.map(|at| self.guests.remove(at));
        let running = self.guests.iter().rposition(|guest| guest.running);
        let at = running.unwrap_or(self.guests.len() - 1);
        let guest = &mut self.guests[at];
        if guest.running {
            daemons.report_restart(entry, writer, guest, out);
        }
        (guest.writer, guest.tentative) = (Some(writer), false);
        for (mac, interface) in tentative.into_iter().flat_map(|tentative| tentative.interfaces) {
            guest.interface(mac, out).merge(interface);
        }
        at
    }

    /// A start record shows that this guest runs. Returns the guests that must have ended unseen:
    /// all others, except while it migrates and runs twice.
    pub(crate) fn take_replaced(&mut self, at: usize, entry: &RecordEntry<'_>) -> Vec<Guest> {
        self.guests[at].tentative = false;
        let migrates =
            matches!(&entry.record.event, Event::GuestStart { reason, .. } if reason.as_str() == "migrated");
        if self.guests.len() == 1 || migrates {
            return Vec::new();
        }
        let runs = self.guests.remove(at);
        std::mem::replace(&mut self.guests, vec![runs])
    }
}

/// Whether a record can only be about a guest that runs already, and not about `own`, one that its
/// writer is about to start.
fn implies_running_guest(entry: &RecordEntry<'_>, own: Option<&Guest>) -> bool {
    match &entry.record.event {
        Event::Attach { .. }
        | Event::Detach { .. }
        | Event::Filter { .. }
        | Event::Mac { .. }
        | Event::Update { .. }
        | Event::GuestStop { .. } => true,
        Event::Keep { mac, device, queue, .. } | Event::Close { mac, device, queue } => {
            !own.is_some_and(|own| own.has_open(*mac, device, *queue))
        }
        Event::Open { .. } | Event::Start { .. } | Event::GuestStart { .. } => false,
        Event::Seen(_) | Event::Gone(_) | Event::GuestGone { .. } => false,
    }
}
