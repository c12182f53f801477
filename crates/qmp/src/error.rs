use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why an operation on a monitor failed.
///
/// Three of these leave the monitor usable: [`Refused`](Self::Refused) and
/// [`BadArguments`](Self::BadArguments) mean that nothing was done; after
/// [`TimedOut`](Self::TimedOut) the outcome is unknown. All others poison the monitor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// No QEMU accepted the connection to the monitor's socket in time.
    #[error("Cannot connect to QEMU's monitor at '{path}'", path = path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// The kernel's error; `ETIMEDOUT` at the deadline.
        source: io::Error,
    },
    /// The socket failed.
    #[error("Cannot {doing} QEMU's monitor")]
    Io {
        /// "read from", "write to", "wait for".
        doing: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// QEMU closed the connection, or exited.
    #[error("QEMU closed its monitor")]
    Closed,
    /// QEMU sent no reply in time. **The command may have been executed, or may still be.**
    #[error("QEMU did not answer {awaited} within {after:?}")]
    TimedOut {
        /// "the greeting" or the command's name.
        awaited: String,
        /// How long the reply was awaited.
        after: Duration,
    },
    /// A line longer than [`MAX_LINE_BYTES`](crate::MAX_LINE_BYTES).
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
        /// The parser's error.
        source: serde_json::Error,
    },
    /// JSON that violates the protocol: no greeting at first, a reply to a command that was not
    /// sent, a result of another shape.
    #[error("QEMU's monitor broke the protocol: {expected} expected, got '{excerpt}'")]
    Unexpected {
        /// The expected message.
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
        /// The number of commands.
        unanswered: usize,
    },
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {desc}")]
    Refused {
        /// The command's name.
        command: String,
        /// QEMU's class of the error.
        class: ErrorClass,
        /// QEMU's message, shortened, control characters escaped.
        desc: String,
    },
    /// The arguments are invalid; nothing was sent.
    #[error("Arguments of {command} are wrong: {why}")]
    BadArguments {
        /// The command's name.
        command: String,
        /// What is wrong with the arguments.
        why: String,
    },
    /// An earlier error made the connection unusable.
    #[error("The connection to QEMU's monitor can't be used after an earlier error: {reason}")]
    Poisoned {
        /// The text of that earlier error.
        reason: String,
    },
}

impl QmpError {
    /// Whether the connection can't be used after this error.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::BadArguments { .. } | Self::TimedOut { .. })
    }

    /// Whether QEMU may have executed the command: only QEMU's process shows the outcome.
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
    /// `DeviceNotActive`: the device could not become active.
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

/// The beginning of a peer's line, safe for a terminal and a log.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const MAX_BYTES: usize = 80;
    let mut text = bytes.get(..MAX_BYTES).unwrap_or(bytes).escape_ascii().to_string();
    if bytes.len() > MAX_BYTES {
        text.push('…');
    }
    text
}

/// A peer's text: control characters escaped, and cut at 500 characters.
pub(crate) fn escape_text(text: &str) -> String {
    const MAX_CHARS: usize = 500;
    let mut clean = String::new();
    for c in text.chars().take(MAX_CHARS) {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    if text.chars().nth(MAX_CHARS).is_some() {
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
        assert_eq!(escape_text("no\u{1b}[31m é"), "no\\u{1b}[31m é");
        assert_eq!(escape_text(&"é".repeat(9000)).chars().count(), 501);
    }
}
