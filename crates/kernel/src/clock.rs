//! The state of the system's clock.

use std::io;

/// Whether the kernel's clock is synchronised, as a time daemon (chronyd, systemd-timesyncd, ntpd)
/// says by adjtimex(2). Reads, and changes nothing.
///
/// # Errors
///
/// A seccomp filter refuses the call.
pub fn is_synchronized() -> io::Result<bool> {
    // SAFETY: all fields are numbers, for which zero is a value; `modes` of zero only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one live timex.
    let outcome = unsafe { libc::adjtimex(&raw mut state) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(outcome != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_says_whether_it_is_synchronised() {
        // A machine's state is what it is; asking twice gives one answer.
        assert_eq!(super::is_synchronized().unwrap(), super::is_synchronized().unwrap());
    }
}
