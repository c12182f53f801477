//! What the service manager above us is told, where there is one: sd_notify(3).
//!
//! Best effort throughout: a guest needs no service manager, and does not wait for one that hangs.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::{Driver, Pending, QUIT};
use crate::request::OnTimeout;

/// What a stop may take beyond the guest's patience and QEMU's: filters, links, the account.
const CLOSING: Duration = Duration::from_secs(60);

/// The service manager.
pub(super) struct Manager {
    /// Where it hears, if there is one.
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it is told that the driver is alive; it never asks where this is `None`.
    interval: Option<Duration>,
    /// When it was told last.
    pinged: Option<Instant>,
    /// The state it was told last.
    status: String,
    /// The end of the stop that it was told of.
    deadline: Option<Instant>,
}

impl Manager {
    pub(super) fn new() -> Self {
        // Twice in its interval, as sd_watchdog_enabled(3) advises.
        let interval = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name).ok());
        Self { socket, interval, pinged: None, status: String::new(), deadline: None }
    }

    /// Says that the driver is alive, when it is time to. Only the driver's own loop says so: one that
    /// hangs is to be noticed.
    pub(super) fn ping(&mut self) {
        if self.next_ping().is_some_and(|left| left.is_zero()) {
            self.pinged = Some(Instant::now());
            // One that is lost had others before it, that nobody took.
            let _ = self.tell("WATCHDOG=1");
        }
    }

    /// How long the driver may sleep.
    pub(super) fn next_ping(&self) -> Option<Duration> {
        let interval = self.interval?;
        Some(self.pinged.map_or(Duration::ZERO, |pinged| interval.saturating_sub(pinged.elapsed())))
    }

    /// Says what the guest is like now, once.
    pub(super) fn look_at(&mut self, driver: &Driver) {
        let status = status(driver);
        if status != self.status && self.tell(&format!("STATUS={status}")).is_ok() {
            self.status = status;
        }
        let deadline = forced_at(driver);
        if let Some(deadline) = deadline.filter(|_| deadline != self.deadline) {
            // The guest's own patience decides, not the unit's TimeoutStopSec.
            let left = deadline.saturating_duration_since(Instant::now()) + QUIT + CLOSING;
            if self.tell(&format!("EXTEND_TIMEOUT_USEC={}", left.as_micros())).is_err() {
                return;
            }
        }
        self.deadline = deadline;
    }

    /// Says that the guest has ended. Not said of a guest that is only asked to: it may refuse, and the service manager
    /// would end us.
    pub(super) fn stopping(&self) {
        let _ = self.tell("STOPPING=1\nSTATUS=The guest has ended");
    }

    /// Sends without waiting: sd_notify(3) itself waits for a manager that does not read.
    fn tell(&self, text: &str) -> io::Result<()> {
        let Some((socket, address)) = &self.socket else { return Ok(()) };
        socket.send_to_addr(text.as_bytes(), address).map(drop)
    }
}

/// A socket to NOTIFY_SOCKET: a path, or a name behind an `@`.
fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &OsStr) -> Manager {
        let (interval, socket) = (Some(Duration::from_secs(60)), Some(connect(name).unwrap()));
        Manager { socket, interval, pinged: None, status: String::new(), deadline: None }
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.as_os_str());
        let full = (0..100_000).find_map(|_| manager.tell("STATUS=x").err());
        assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn a_manager_behind_an_abstract_name_hears_of_life_at_once_and_then_in_time() {
        let name = format!("taptrail-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut manager = manager(OsStr::new(&format!("@{name}")));
        manager.ping();
        let mut told = [0; 32];
        let length = socket.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"WATCHDOG=1");
        manager.ping();
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut told).is_err(), "it is not time yet");
        assert!(manager.next_ping().unwrap() > Duration::from_secs(30));
    }
}
