//! Notifies the service manager, if there is one, of a driver's guest.

use std::time::{Duration, Instant};

use super::{Driver, Pending, QUIT_TIMEOUT};
use crate::request::OnTimeout;
use crate::service_manager::ServiceManager;

/// Time for filters, links and the account after the guest's and QEMU's own timeouts.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Notifies the service manager of one guest.
pub(super) struct Manager {
    manager: ServiceManager,
    /// The deadline of the stop that was last sent.
    deadline: Option<Instant>,
}

impl Manager {
    pub(super) fn new() -> Self {
        Self { manager: ServiceManager::of_environment(), deadline: None }
    }

    /// Sends the watchdog ping when it is due. Only the driver's own loop calls this.
    pub(super) fn ping(&mut self) {
        self.manager.ping();
    }

    /// How long the driver may sleep until the next ping is due.
    pub(super) fn next_ping(&self) -> Option<Duration> {
        self.manager.next_ping()
    }

    /// Sends the guest's status and the deadline of its stop, if they have changed.
    pub(super) fn update(&mut self, driver: &Driver) {
        self.manager.status(status(driver));
        let deadline = forced_at(driver);
        if let Some(deadline) = deadline.filter(|_| deadline != self.deadline) {
            // The guest's own timeout decides, not the unit's TimeoutStopSec.
            let left = deadline.saturating_duration_since(Instant::now()) + QUIT_TIMEOUT + CLEANUP_TIMEOUT;
            if self.manager.notify(&format!("EXTEND_TIMEOUT_USEC={}", left.as_micros())).is_err() {
                return;
            }
        }
        self.deadline = deadline;
    }

    /// Sends that the guest has ended. Not while the guest is only asked to stop: it may refuse,
    /// and the service manager would kill us.
    pub(super) fn stopping(&self) {
        let _ = self.manager.notify("STOPPING=1\nSTATUS=The guest has ended");
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
    let held = driver.interfaces.iter().map(|attached| attached.interface.devices.len()).sum();
    let (s, held) = (if nics == 1 { "" } else { "s" }, crate::descriptors(held));
    format!("{name} {does}, QEMU has pid {pid}: {nics} interface{s}, {held} held")
}

/// When a pending stop becomes a forced one, if it does.
fn forced_at(driver: &Driver) -> Option<Instant> {
    let Some(Pending::Stop(waits)) = &driver.pending else { return None };
    waits.iter().filter(|wait| wait.then == OnTimeout::Force).map(|wait| wait.deadline).min()
}
