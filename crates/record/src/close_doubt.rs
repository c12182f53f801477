use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a close does not show that nobody holds the device any more: `doubt=` of its record.
///
/// A close without a doubt rests on the kernel's counts. A doubt says what the writer checked and
/// could not exclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseDoubt {
    /// Another process was seen to hold a copy of the descriptor.
    HeldElsewhere,
    /// The kernel counts a queue of the interface that no visible descriptor accounts for.
    Attached,
    /// QEMU holds descriptors that can't be inspected: in flight on a unix socket, or registered
    /// with io_uring.
    Hidden,
    /// The interface was moved to another network namespace or changed by another program, and
    /// can't be found: it may still exist, and be held.
    LinkUnknown,
    /// The kernel's count of the driver's open files does not show that the writer saw all of them,
    /// or the kernel has no such count.
    Uncounted,
    /// The descriptors of some processes could not be read.
    Unseen,
}

crate::word_table! {
    CloseDoubt:
    /// All of them, the most certain that the device is held first.
    ALL,
    /// The word in records and JSON.
    as_str,
    {
        HeldElsewhere = "held-elsewhere",
        Attached = "attached",
        Hidden = "hidden",
        LinkUnknown = "link-unknown",
        Uncounted = "uncounted",
        Unseen = "unseen",
    }
}

impl CloseDoubt {
    /// Whether the device is probably held: a holder was seen or counted, or the link can't be
    /// found. With the other doubts, it is only not shown that nobody holds it.
    pub fn needs_attention(self) -> bool {
        matches!(self, Self::HeldElsewhere | Self::Attached | Self::Hidden | Self::LinkUnknown)
    }

    /// What it means, as the rest of a sentence that begins with "The close is inferred:".
    pub fn sentence(self) -> &'static str {
        match self {
            Self::HeldElsewhere => "another process was seen to hold a copy of the descriptor",
            Self::Attached => "the kernel counts a queue that no visible descriptor accounts for",
            Self::Hidden => {
                "QEMU holds descriptors that can't be looked at, in flight on a socket or registered with io_uring"
            }
            Self::LinkUnknown => {
                "the interface was moved to another network namespace or changed by others, and can't be found"
            }
            Self::Uncounted => "the kernel's count of open files does not show that all of them were seen",
            Self::Unseen => "some processes could not be looked into",
        }
    }
}

impl fmt::Display for CloseDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
