//! Notifications to the service manager, if there is one: sd_notify(3).
//!
//! Best effort: a service manager that hangs blocks nothing.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The service manager's socket, and what was sent to it.
#[derive(Debug, Default)]
pub struct ServiceManager {
    /// Our socket and the manager's address; `None` without a service manager.
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often to send the watchdog ping; `None` without a watchdog.
    interval: Option<Duration>,
    /// When the last ping was sent.
    last_ping: Option<Instant>,
    /// The status that was sent last.
    status: String,
}

impl ServiceManager {
    /// The service manager that the environment names, if any (NOTIFY_SOCKET, WATCHDOG_USEC,
    /// WATCHDOG_PID).
    pub fn of_environment() -> Self {
        // Twice in its interval, as sd_watchdog_enabled(3) advises.
        let interval = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name).ok());
        Self { socket, interval, ..Self::default() }
    }

    /// Sends the watchdog ping when it is due. Only the main loop calls this, so that the manager
    /// notices when that hangs.
    pub fn ping(&mut self) {
        if self.next_ping().is_some_and(|left| left.is_zero()) {
            self.last_ping = Some(Instant::now());
            // It is lost only if the socket is full of earlier ones.
            let _ = self.notify("WATCHDOG=1");
        }
    }

    /// How long the caller may sleep until the next ping is due.
    pub fn next_ping(&self) -> Option<Duration> {
        let interval = self.interval?;
        Some(self.last_ping.map_or(Duration::ZERO, |last_ping| interval.saturating_sub(last_ping.elapsed())))
    }

    /// Sends the status, if it has changed.
    pub fn status(&mut self, status: String) {
        if status != self.status && self.notify(&format!("STATUS={status}")).is_ok() {
            self.status = status;
        }
    }

    /// Sends assignments, one on each line, without blocking: sd_notify(3) itself blocks if the
    /// manager does not read.
    ///
    /// # Errors
    /// When they could not be sent.
    pub fn notify(&self, text: &str) -> io::Result<()> {
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

    // Shows 12.10.
    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.as_os_str());
        let full = (0..100_000).find_map(|_| manager.notify("STATUS=x").err());
        assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn a_manager_behind_an_abstract_name_hears_of_life_at_once_and_then_in_time() {
        let name = format!("taptrail-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut manager = manager(OsStr::new(&format!("@{name}")));
        manager.ping();
        let mut received = [0; 32];
        let length = socket.recv(&mut received).unwrap();
        assert_eq!(&received[..length], b"WATCHDOG=1");
        manager.ping();
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut received).is_err(), "it is not time yet");
        assert!(manager.next_ping().unwrap() > Duration::from_secs(30));
    }
}
