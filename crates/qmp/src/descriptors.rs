use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;
use taptrail_kernel::device::Admitted;

use crate::error::QmpError;
use crate::monitor::Monitor;

impl Monitor {
    /// Gives QEMU a device under `name`, which it keeps until a command uses the name up or
    /// [`closefd`](Self::closefd) is sent; a reconnect does not end it.
    ///
    /// QEMU has its own copy: the caller's stays open. On [`QmpError::TimedOut`] and fatal errors
    /// QEMU may have the descriptor: `/proc/PID/fd` tells.
    ///
    /// # Errors
    /// [`QmpError::BadArguments`] for a name that QEMU would not take or that can't stand in a
    /// list; others as for every operation.
    pub fn getfd(&mut self, name: &str, device: &Admitted, timeout: Duration) -> Result<(), QmpError> {
        check_name("getfd", name)?;
        // A test's way to a descriptor that QEMU takes and then finds useless.
        fail::fail_point!("getfd::useless", |_| {
            let useless = std::fs::File::open("/dev/null")
                .map_err(|source| QmpError::Io { doing: "spoil a descriptor for", source })?;
            self.transact("getfd", json!({ "fdname": name }), Some(useless.as_fd()), timeout).map(drop)
        });
        self.transact("getfd", json!({ "fdname": name }), Some(device.as_fd()), timeout)?;
        Ok(())
    }

    /// Has QEMU close a descriptor that [`getfd`](Self::getfd) gave and nothing has used up yet.
    ///
    /// # Errors
    /// [`QmpError::Refused`] when there is none of that name; others as for every operation.
    pub fn closefd(&mut self, name: &str, timeout: Duration) -> Result<(), QmpError> {
        check_name("closefd", name)?;
        self.execute("closefd", json!({ "fdname": name }), timeout)?;
        Ok(())
    }
}

/// QEMU takes what begins with a digit for a number of a descriptor it has already, and `:` parts
/// the names in `fds`.
pub(crate) fn check_name(command: &str, name: &str) -> Result<(), QmpError> {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() <= 255 && name.bytes().all(fit) {
        return Ok(());
    }
    let shown = crate::error::prose(name);
    let why = format!(
        "a descriptor's name begins with a letter and has up to 255 letters, digits, '-', '_' and '.', not '{shown}'"
    );
    Err(QmpError::BadArguments { command: command.to_owned(), why })
}
