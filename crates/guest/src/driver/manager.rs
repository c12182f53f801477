//! What the service manager above a driver is told of its guest, where there is one.

use std::time::{Duration, Instant};

use super::{Driver, Pending, QUIT};
use crate::request::OnTimeout;
use crate::service_manager::ServiceManager;

/// What a stop may take beyond the guest's patience and QEMU's: filters, links, the account.
const CLOSING: Duration = Duration::from_secs(60);

/// The service manager.
pub(super) struct Manager {
    manager: ServiceManager,
    /// The end of the stop that it was told of.
    deadline: Option<Instant>,
}

impl Manager {
    pub(super) fn new() -> Self {
        Self { manager: ServiceManager::of_environment(), deadline: None }
    }

    /// Says that the driver is alive, when it is time to. Only the driver's own loop says so.
    pub(super) fn ping(&mut self) {
        self.manager.ping();
    }

    /// How long the driver may sleep.
    pub(super) fn next_ping(&self) -> Option<Duration> {
        self.manager.next_ping()
    }

    /// Says what the guest is like now, once.
    pub(super) fn look_at(&mut self, driver: &Driver) {
        self.manager.status(status(driver));
        let deadline = forced_at(driver);
        if let Some(deadline) = deadline.filter(|_| deadline != self.deadline) {
            // The guest's own patience decides, not the unit's TimeoutStopSec.
            let left = deadline.saturating_duration_since(Instant::now()) + QUIT + CLOSING;
            if self.manager.tell(&format!("EXTEND_TIMEOUT_USEC={}", left.as_micros())).is_err() {
                return;
            }
        }
        self.deadline = deadline;
    }

    /// Says that the guest has ended. Not said of a guest that is only asked to: it may refuse, and the service manager
    /// would end us.
    pub(super) fn stopping(&self) {
        let _ = self.manager.tell("STOPPING=1\nSTATUS=The guest has ended");
    }
}

/// `web1 runs, QEMU has pid 7: 2 interfaces, 4 descriptors held`.
fn status(driver: &Driver) -> String {
    let does = match driver.pending {
        Some(Pending::Stop(_)) => "is asked to stop",
        _ if driver.paused => "is paused",
        _ => "runs",
    };
    let (name, pid) = (&driver.account.guest().name, driver.qemu_pid());
    let nics = driver.interfaces.len();
    let held = driver.interfaces.iter().map(|plugged| plugged.interface.devices.len()).sum();
    let (s, held) = (if nics == 1 { "" } else { "s" }, crate::descriptors(held));
    format!("{name} {does}, QEMU has pid {pid}: {nics} interface{s}, {held} held")
}

/// When a stop that waits turns into force, if it does.
fn forced_at(driver: &Driver) -> Option<Instant> {
    let Some(Pending::Stop(waits)) = &driver.pending else { return None };
    waits.iter().filter(|wait| wait.then == OnTimeout::Force).map(|wait| wait.deadline).min()
}
