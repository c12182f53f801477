//! What the process that reads frames sends to the supervisor: one message of fixed length for each
//! sighting.

use std::net::Ipv4Addr;

use super::Sighting;

/// The length of a message.
pub(super) const LENGTH: usize = 16;

const LEASE: u8 = 1;
const ENDLESS_LEASE: u8 = 2;
const RELEASE: u8 = 3;
const FIRST: u8 = 4;

impl Sighting {
    pub(super) fn to_bytes(self) -> [u8; LENGTH] {
        let none = Ipv4Addr::UNSPECIFIED;
        let (kind, address, server, seconds) = match self {
            Self::Lease { address, server, seconds: Some(seconds) } => (LEASE, address, server, seconds),
            Self::Lease { address, server, seconds: None } => (ENDLESS_LEASE, address, server, 0),
            Self::Release { address } => (RELEASE, address, none, 0),
            Self::First { address } => (FIRST, address, none, 0),
        };
        let mut bytes = [0; LENGTH];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&address.octets());
        bytes[8..12].copy_from_slice(&server.octets());
        bytes[12..].copy_from_slice(&seconds.to_be_bytes());
        bytes
    }

    /// `None` for bytes that no sighting has.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let [kind, _, _, _, a, b, c, d, e, f, g, h, ref seconds @ ..] = *bytes;
        let (address, server) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
        let seconds = u32::from_be_bytes(*seconds);
        let sighting = match kind {
            LEASE => Self::Lease { address, server, seconds: Some(seconds) },
            ENDLESS_LEASE => Self::Lease { address, server, seconds: None },
            RELEASE => Self::Release { address },
            FIRST => Self::First { address },
            _ => return None,
        };
        (sighting.to_bytes() == *bytes).then_some(sighting)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Whatever a taken-over reader sends is a sighting, or nothing.
        #[test]
        fn a_message_is_exactly_one_sighting(bytes in prop::collection::vec(any::<u8>(), 0..20), kind in 0u8..6) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Some(sighting) = Sighting::from_bytes(&bytes) {
                prop_assert_eq!(&sighting.to_bytes()[..], &bytes);
            }
        }

        #[test]
        fn a_sighting_is_read_back(address: [u8; 4], server: [u8; 4], seconds: Option<u32>) {
            let (address, server) = (address.into(), server.into());
            for sighting in [
                Sighting::Lease { address, server, seconds },
                Sighting::Release { address },
                Sighting::First { address },
            ] {
                prop_assert_eq!(Sighting::from_bytes(&sighting.to_bytes()), Some(sighting));
            }
        }
    }
}
