use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why an operation on a monitor failed.
///
/// Three of these leave the monitor as it was: [`Refused`](Self::Refused) and
/// [`BadArguments`](Self::BadArguments) say that nothing was done, [`TimedOut`](Self::TimedOut)
/// leaves open whether it was. All others poison it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// Nobody listens on the monitor's socket, or not in time.
    #[error("Cannot connect to QEMU's monitor at '{path}'", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said; `ETIMEDOUT` when it was the deadline.
        source: io::Error,
    },
    /// The socket failed.
    #[error("Cannot {doing} QEMU's monitor")]
    Io {
        /// "read from", "write to", "wait for".
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// QEMU closed the connection, which is what its exit looks like from here.
    #[error("QEMU closed its monitor")]
    Closed,
    /// No answer in time. **The command may have been carried out, or still be.**
    #[error("QEMU did not answer {awaited} within {after:?}")]
    TimedOut {
        /// "the greeting" or the command's name.
        awaited: String,
        /// How long it was given.
        after: Duration,
    },
    /// A line longer than [`MAX_LINE`](crate::MAX_LINE).
    #[error("QEMU's monitor sent a line of more than {limit} bytes")]
    Oversized {
        /// The limit in bytes.
        limit: usize,
    },
    /// A line that is not JSON.
    #[error("QEMU's monitor sent invalid JSON: '{excerpt}'")]
    Garbage {
        /// The line's beginning, with all but printable ASCII escaped.
        excerpt: String,
        /// Where and why it is not.
        source: serde_json::Error,
    },
    /// JSON that has no place in the protocol, or not here: no greeting at first, a reply to what
    /// was never asked, a result of another shape.
    #[error("QEMU's monitor broke the protocol: {expected} expected, got '{excerpt}'")]
    Unexpected {
        /// What would have been right.
        expected: String,
        /// The line's beginning, with all but printable ASCII escaped.
        excerpt: String,
    },
    /// More events that must not be dropped than the queue holds.
    #[error("QEMU's monitor flooded the queue of events")]
    Flooded,
    /// Too many commands in a row went unanswered.
    #[error("QEMU's monitor left {unanswered} commands unanswered")]
    Unresponsive {
        /// How many.
        unanswered: usize,
    },
    /// QEMU understood the command and said no.
    #[error("QEMU refused {command}: {desc}")]
    Refused {
        /// The command's name.
        command: String,
        /// QEMU's class of the error.
        class: ErrorClass,
        /// QEMU's own words, shortened, control characters escaped.
        desc: String,
    },
    /// The arguments can't be sent; nothing was.
    #[error("Arguments of {command} are wrong: {why}")]
    BadArguments {
        /// The command's name.
        command: String,
        /// What is wrong with them.
        why: String,
    },
    /// An earlier error left the connection useless.
    #[error("The connection to QEMU's monitor can't be used after an earlier error: {reason}")]
    Poisoned {
        /// That error.
        reason: String,
    },
}

impl QmpError {
    /// The connection can't be used after this error.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::BadArguments { .. } | Self::TimedOut { .. })
    }

    /// The command was, or may have been, begun: only a look at the process tells what became of it.
    pub fn leaves_outcome_open(&self) -> bool {
        !matches!(
            self,
            Self::Refused { .. } | Self::BadArguments { .. } | Self::Poisoned { .. } | Self::Connect { .. }
        )
    }
}

/// The class of a refusal (QEMU's `qapi/error.json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// `CommandNotFound`: unknown to this QEMU.
    CommandNotFound,
    /// `DeviceNotActive`.
    DeviceNotActive,
    /// `DeviceNotFound`: no device, backend or descriptor of that name.
    DeviceNotFound,
    /// `GenericError`, and any class that is none of the others.
    Generic,
}

impl ErrorClass {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "CommandNotFound" => Self::CommandNotFound,
            "DeviceNotActive" => Self::DeviceNotActive,
            "DeviceNotFound" => Self::DeviceNotFound,
            _ => Self::Generic,
        }
    }
}

/// The beginning of what a peer sent, fit for a terminal and a log.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 80;
    let mut text = bytes.get(..SHOWN).unwrap_or(bytes).escape_ascii().to_string();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

/// A peer's prose: control characters escaped, and cut at a length nobody needs to exceed.
pub(crate) fn prose(text: &str) -> String {
    const SHOWN: usize = 500;
    let mut clean = String::new();
    for c in text.chars().take(SHOWN) {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sends_reaches_no_terminal_raw() {
        assert_eq!(excerpt(b"\x1b[2J\xff"), r"\x1b[2J\xff");
        assert_eq!(excerpt(&[b'a'; 200]).chars().count(), 81);
        assert_eq!(prose("no\u{1b}[31m é"), "no\\u{1b}[31m é");
        assert_eq!(prose(&"é".repeat(9000)).chars().count(), 501);
    }
}
