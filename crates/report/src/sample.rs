//! Holdings and findings for tests.

use jiff::Timestamp;
use taptrail_record::{Device, GuestId, MacAddr, Rdev, Requester};
use taptrail_trail::{
    BridgeTap, BridgeTapEnd, Certainty, EndedBy, Finding, FindingKind, Holding, Incident, Proof, State,
};
use uuid::Uuid;

/// A time, in seconds since 1970.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn proof(time: Timestamp) -> Proof {
    Proof {
        serial: Some(7),
        time,
        source: "audit.log".into(),
        line: time.as_second().unsigned_abs(),
        copies: Vec::new(),
        unauthenticated: false,
    }
}

fn guest(name: &str) -> GuestId {
    GuestId { name: name.into(), uuid: Uuid::from_u128(name.bytes().map(u128::from).sum()) }
}

/// A tap of the guest's interface `mac`, granted a second after its open.
pub(crate) fn holding(name: &str, mac: u8, opened: i64, released: Option<i64>) -> Holding {
    Holding {
        host: "h1".into(),
        guest: guest(name),
        mac: MacAddr::kvm([0, 0, mac]),
        device: Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into())),
        queues: Some(1),
        opened: Some(at(opened)),
        granted: Some(at(opened + 1)),
        released: released.map(at),
        last_seen: None,
        end_doubt: None,
        uncertain_since: None,
        possibly_held: Vec::new(),
        state: if released.is_some() { State::Released } else { State::Held },
        ended_by: released.map(|_| EndedBy::Detach),
        certainty: Certainty::Inferred,
        pid: Some(4711),
        proof: [Some(opened), Some(opened + 1), released].into_iter().flatten().map(at).map(proof).collect(),
    }
}

/// A failed open of a guest's interface; without a MAC, a finding about the guest; without a name,
/// about no guest.
pub(crate) fn finding(name: Option<&str>, mac: Option<u8>, time: i64) -> Finding {
    Finding {
        kind: FindingKind::OpenFailed,
        host: "h1".into(),
        guest: name.map(guest),
        mac: mac.map(|mac| MacAddr::kvm([0, 0, mac])),
        device: mac.map(|_| Device::new("/dev/vhost-net", None, None)),
        time: at(time),
        text: format!("At {time} something was seen"),
        proof: vec![proof(at(time))],
        incident: Incident { number: time.unsigned_abs(), follows: false },
    }
}

/// A tap of the bridge helper's on br0, passed to a QEMU that claims to be web1.
pub(crate) fn bridge_tap(passed: i64, released: Option<i64>) -> BridgeTap {
    BridgeTap {
        host: "h1".into(),
        bridge: "br0".into(),
        device: Device::new("/dev/net/tun", Some(Rdev::TUN), Some("tap0".into())),
        requester: Requester { uid: 1000, auid: 1000, pid: 4711 },
        start_time: Some(778_899),
        claimed_name: Some("web1".into()),
        claimed_uuid: None,
        passed: at(passed),
        released: released.map(at),
        last_seen: None,
        uncertain_since: None,
        state: if released.is_some() { State::Released } else { State::Held },
        ended_by: released.map(|_| BridgeTapEnd::Close),
        proof: [Some(passed), released].into_iter().flatten().map(at).map(proof).collect(),
    }
}
