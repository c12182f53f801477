//! The service manager above us, where there is one: sd_notify(3).
//!
//! Best effort throughout: nobody who does work here waits for a manager that hangs.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The service manager.
#[derive(Debug, Default)]
pub struct ServiceManager {
    /// Where it hears, if there is one.
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it is told that we are alive; it never asks where this is `None`.
    interval: Option<Duration>,
    /// When it was told last.
    pinged: Option<Instant>,
    /// The state it was told last.
    status: String,
}

impl ServiceManager {
    /// The one that our environment names, if it names one (NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID).
    pub fn of_environment() -> Self {
        // Twice in its interval, as sd_watchdog_enabled(3) advises.
        let interval = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name).ok());
        Self { socket, interval, ..Self::default() }
    }

    /// Says that the caller is alive, when it is time to. Only the loop that does the work says so: one that
    /// hangs is to be noticed.
    pub fn ping(&mut self) {
        if self.next_ping().is_some_and(|left| left.is_zero()) {
            self.pinged = Some(Instant::now());
            // One that is lost had others before it, that nobody took.
            let _ = self.tell("WATCHDOG=1");
        }
    }

    /// How long the caller may sleep.
    pub fn next_ping(&self) -> Option<Duration> {
        let interval = self.interval?;
        Some(self.pinged.map_or(Duration::ZERO, |pinged| interval.saturating_sub(pinged.elapsed())))
    }

    /// Says how things are now, once.
    pub fn status(&mut self, status: String) {
        if status != self.status && self.tell(&format!("STATUS={status}")).is_ok() {
            self.status = status;
        }
    }

    /// Sends assignments, one on each line, without waiting: sd_notify(3) itself waits for a manager that
    /// does not read.
    ///
    /// # Errors
    /// They could not be sent.
    pub fn tell(&self, text: &str) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &OsStr) -> ServiceManager {
        let (interval, socket) = (Some(Duration::from_secs(60)), Some(connect(name).unwrap()));
        ServiceManager { socket, interval, ..ServiceManager::default() }
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
