use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// What changed an interface's filter, where the filter learns the interface's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FilterAddress {
    /// The address that the filter lets the guest use, or does not let it use any more: `ip=`.
    pub ip: Ipv4Addr,
    /// Why: `ip-change=`.
    pub change: AddressChange,
}

/// Why a filter lets a guest use an address, or does not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressChange {
    /// A DHCP server gave it to the guest.
    Leased {
        /// The server, or its relay: `dhcp-server=`.
        server: Ipv4Addr,
        /// When the lease ends unless it is prolonged, in milliseconds since 1970: `lease-end=`.
        /// Without, it does not end.
        until: Option<u64>,
    },
    /// The guest sent from it first.
    Seen,
    /// Its lease has ended.
    Expired,
    /// The guest gave it up, or found that another host has it.
    Released,
}

/// The words in records, and in archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ChangeWord {
    Leased,
    Seen,
    Expired,
    Released,
}

impl ChangeWord {
    pub(crate) fn from_word(word: &[u8]) -> Option<Self> {
        let all = [Self::Leased, Self::Seen, Self::Expired, Self::Released];
        all.into_iter().find(|change| change.as_str().as_bytes() == word)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::Seen => "seen",
            Self::Expired => "expired",
            Self::Released => "released",
        }
    }
}

impl AddressChange {
    /// The word in the record.
    pub fn as_str(self) -> &'static str {
        self.word().as_str()
    }

    pub(crate) fn word(self) -> ChangeWord {
        match self {
            Self::Leased { .. } => ChangeWord::Leased,
            Self::Seen => ChangeWord::Seen,
            Self::Expired => ChangeWord::Expired,
            Self::Released => ChangeWord::Released,
        }
    }

    /// The DHCP server, of a lease.
    pub fn server(self) -> Option<Ipv4Addr> {
        match self {
            Self::Leased { server, .. } => Some(server),
            _ => None,
        }
    }

    /// When the lease ends, if it does.
    pub fn until(self) -> Option<u64> {
        match self {
            Self::Leased { until, .. } => until,
            _ => None,
        }
    }

    /// From the values of a record's pairs; `None` if they contradict each other.
    pub(crate) fn of(word: ChangeWord, server: Option<Ipv4Addr>, until: Option<u64>) -> Option<Self> {
        Some(match (word, server, until) {
            (ChangeWord::Leased, Some(server), until) => Self::Leased { server, until },
            (ChangeWord::Seen, None, None) => Self::Seen,
            (ChangeWord::Expired, None, None) => Self::Expired,
            (ChangeWord::Released, None, None) => Self::Released,
            _ => return None,
        })
    }
}

impl FilterAddress {
    /// From the values of a record's pairs: the outer `None` if they contradict each other.
    pub(crate) fn of(
        ip: Option<Ipv4Addr>,
        word: Option<ChangeWord>,
        server: Option<Ipv4Addr>,
        until: Option<u64>,
    ) -> Option<Option<Self>> {
        match (ip, word) {
            (None, None) => (server.is_none() && until.is_none()).then_some(None),
            (Some(ip), Some(word)) => {
                AddressChange::of(word, server, until).map(|change| Some(Self { ip, change }))
            }
            _ => None,
        }
    }
}
