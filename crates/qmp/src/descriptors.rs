use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;
use taptrail_kernel::device::Admitted;

use crate::error::QmpError;
use crate::monitor::Monitor;

impl Monitor {
    /// Passes a device's descriptor to QEMU (SCM_RIGHTS) under `name`. QEMU keeps it until a
    /// command uses the name, or until [`closefd`](Self::closefd), even over a reconnect.
    ///
    /// QEMU has its own copy; the caller's stays open. After [`QmpError::TimedOut`] and fatal
    /// errors QEMU may have the descriptor: `/proc/PID/fd` shows it.
    ///
    /// # Errors
    ///
    /// [`QmpError::BadArguments`] for a name that QEMU would refuse, or that can't be part of a
    /// list; others as for every operation.
    pub fn getfd(&mut self, name: &str, device: &Admitted, timeout: Duration) -> Result<(), QmpError> {
        check_name("getfd", name)?;
        // In tests: a descriptor that QEMU accepts, but can't use.
        fail::fail_point!("getfd::useless", |_| {
            let useless = std::fs::File::open("/dev/null")
                .map_err(|source| QmpError::Io { doing: "spoil a descriptor for", source })?;
            self.transact("getfd", json!({ "fdname": name }), Some(useless.as_fd()), timeout).map(drop)
        });
        self.transact("getfd", json!({ "fdname": name }), Some(device.as_fd()), timeout)?;
        Ok(())
    }

    /// Lets QEMU close a descriptor from [`getfd`](Self::getfd) that no command has used yet.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`] if there is none with that name; others as for every operation.
    pub fn closefd(&mut self, name: &str, timeout: Duration) -> Result<(), QmpError> {
        check_name("closefd", name)?;
        self.execute("closefd", json!({ "fdname": name }), timeout)?;
        Ok(())
    }
}

/// Checks a descriptor's name: QEMU takes a name that begins with a digit for the number of one of
/// its descriptors, and `:` separates the names in `fds`.
pub(crate) fn check_name(command: &str, name: &str) -> Result<(), QmpError> {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() <= 255 && name.bytes().all(fit) {
        return Ok(());
    }
    let shown = crate::error::escape_text(name);
    let why = format!(
        "a descriptor's name begins with a letter and has up to 255 letters, digits, '-', '_' and '.', not '{shown}'"
    );
    Err(QmpError::BadArguments { command: command.to_owned(), why })
}
