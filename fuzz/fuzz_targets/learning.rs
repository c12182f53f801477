//! Any frame on an interface that learns its addresses: no panic, a lease only on its way to the guest and
//! from a server that is believed, and no address that a host can't have.

#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use taptrail_guest::learning::{FrameReader, Method, Sighting};
use taptrail_record::MacAddr;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fuzz_target!(|frame: &[u8]| {
    for method in Method::ALL {
        for servers in [Vec::new(), vec![SERVER]] {
            let believes_all = servers.is_empty();
            let reader = FrameReader { mac: MacAddr([0x52, 0x54, 0, 0, 0, 1]), method, servers };
            for to_guest in [false, true] {
                let Some(said) = reader.read(frame, to_guest) else { continue };
                let address = said.address();
                assert!(!matches!(address.octets()[0], 0 | 127 | 224..), "{said:?}");
                match said {
                    Sighting::Lease { server, seconds, .. } => {
                        assert!(to_guest && method == Method::Dhcp && (believes_all || server == SERVER));
                        assert_ne!(seconds, Some(0));
                        // The guest's own frame is no server's.
                        assert_ne!(frame[6..12], reader.mac.0);
                    }
                    Sighting::Release { .. } => assert!(!to_guest && method == Method::Dhcp),
                    Sighting::First { .. } => assert!(!to_guest && method == Method::Any),
                }
            }
        }
    }
});
