use std::net::Ipv4Addr;

use jiff::Timestamp;
use proptest::prelude::*;
use taptrail_record::{
    Abend, AddressChange, BridgeClose, BridgeOpen, CloseDoubt, Denial, Descriptor, Device, DeviceKind, Event,
    FilterAddress, Fragment, GuestId, KernelOpen, MacAddr, Outcome, Rdev, Reason, Record, Requester,
    ResourceChange, UpdatePhase,
};
use uuid::Uuid;

use crate::{Content, Credentials, Gap, GapReason, LineRef};

#[allow(dead_code)] // Not all of them are needed here.
#[path = "../../../../record/tests/strategies/mod.rs"]
mod strategies;

use strategies::{device, name, record};

fn text() -> impl Strategy<Value = compact_str::CompactString> {
    name().prop_map(Into::into)
}

fn maybe_text() -> impl Strategy<Value = Option<compact_str::CompactString>> {
    proptest::option::of(text())
}

fn guest() -> impl Strategy<Value = GuestId> {
    (text(), any::<u128>()).prop_map(|(name, uuid)| GuestId { name, uuid: Uuid::from_u128(uuid) })
}

fn fragment() -> impl Strategy<Value = Fragment> {
    let uuid = proptest::option::of(any::<u128>().prop_map(Uuid::from_u128));
    let mac = proptest::option::of(any::<[u8; 6]>().prop_map(MacAddr));
    (maybe_text(), uuid, mac, proptest::option::of(device())).prop_map(|(name, uuid, mac, device)| Fragment {
        name,
        uuid,
        mac,
        device,
    })
}

fn resource() -> impl Strategy<Value = ResourceChange> {
    let details = prop::collection::vec((text(), text()), 0..4);
    (guest(), text(), text(), any::<bool>(), maybe_text(), maybe_text(), details).prop_map(
        |(guest, resource, reason, success, old, new, details)| {
            let outcome = if success { Outcome::Success } else { Outcome::Failed };
            ResourceChange { guest, resource, reason, outcome, old, new, details }
        },
    )
}

fn time() -> impl Strategy<Value = Timestamp> {
    let range = Timestamp::MIN.as_nanosecond()..=Timestamp::MAX.as_nanosecond();
    range.prop_map(|nanos| Timestamp::from_nanosecond(nanos).unwrap())
}

fn reason() -> impl Strategy<Value = GapReason> {
    prop::sample::select(GapReason::ALL.to_vec())
}

fn bridge_open() -> impl Strategy<Value = BridgeOpen> {
    let options = (
        proptest::option::of(device()),
        proptest::option::of(text()),
        proptest::option::of(any::<i32>()),
        proptest::option::of(any::<u64>()),
        proptest::option::of(text()),
        proptest::option::of(any::<u128>()),
    );
    (text(), options, any::<(u32, u32, u32)>(), any::<bool>()).prop_map(|(bridge, options, ids, success)| {
        let (device, refusal, errno, start_time, claimed_name, uuid) = options;
        BridgeOpen {
            bridge,
            device,
            refusal,
            errno,
            requester: Requester { uid: ids.0, auid: ids.1, pid: ids.2 },
            start_time,
            claimed_name,
            claimed_uuid: uuid.map(Uuid::from_u128),
            netns: start_time,
            ifindex: Some(ids.0),
            outcome: if success { Outcome::Success } else { Outcome::Failed },
        }
    })
}

fn content() -> impl Strategy<Value = Content> {
    let number = || proptest::option::of(any::<i32>());
    let kernel_open =
        (any::<u32>(), proptest::option::of(any::<u32>()), text(), device(), number(), number());
    let denial = (any::<u32>(), text(), text(), text(), device());
    let gap = (proptest::option::of(time()), proptest::option::of(any::<(u32, u32)>()), reason());
    prop_oneof![
        4 => record().prop_map(Content::Record),
        1 => kernel_open.prop_map(|(pid, ppid, exe, device, fd, errno)| {
            Content::KernelOpen(KernelOpen { pid, ppid, exe, device, fd, errno })
        }),
        1 => bridge_open().prop_map(Content::BridgeOpen),
        1 => (bridge_open(), text(), proptest::option::of(any::<u64>())).prop_map(|(open, dev, last_seen)| {
            let BridgeOpen { bridge, requester, start_time, .. } = open;
            Content::BridgeClose(BridgeClose { bridge, dev, requester, start_time, last_seen })
        }),
        1 => (any::<u32>(), text(), text(), any::<u32>()).prop_map(|(pid, comm, exe, signal)| {
            Content::Abend(Abend { pid, comm, exe, signal })
        }),
        1 => denial.prop_map(|(pid, comm, access, label, device)| {
            Content::Denial(Denial { pid, comm, access, label, device })
        }),
        1 => resource().prop_map(Content::Resource),
        1 => fragment().prop_map(Content::Truncated),
        1 => fragment().prop_map(Content::Unsent),
        1 => fragment().prop_map(Content::Missing),
        1 => gap.prop_map(|(since, serials, why)| Content::Gap(Gap { since, serials, why })),
        1 => reason().prop_map(Content::RecordingStopped),
        1 => reason().prop_map(Content::RecordingResumed),
        1 => Just(Content::Boot),
        1 => text().prop_map(|exe| Content::Foreign { exe }),
    ]
}

fn has_null(json: &serde_json::Value) -> bool {
    match json {
        serde_json::Value::Null => true,
        serde_json::Value::Array(values) => values.iter().any(has_null),
        serde_json::Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}

/// JSON near the stored form, and far from it.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let cut = (content(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(content, at, byte)| {
        let mut json = serde_json::to_vec(&content).unwrap();
        let at = at.index(json.len());
        if byte & 1 == 0 {
            json.truncate(at)
        } else {
            json[at] = byte
        }
        json
    });
    let words =
        r#"(\{|\}|\[|\]|:|,|"record"|"event"|"open"|"guest"|"mac"|"boot"|"gap"|null|1e999|-1|"\\ud800")"#;
    let tokens = prop::collection::vec(words, 0..40).prop_map(|all| all.concat().into_bytes());
    prop_oneof![cut, tokens, prop::collection::vec(any::<u8>(), 0..60)]
}

proptest! {
    #[test]
    fn what_is_stored_is_read_again(content in content()) {
        let json = serde_json::to_string(&content).unwrap();
        prop_assert!(!has_null(&serde_json::to_value(&content).unwrap()), "{}", json);
        let read: Content = serde_json::from_str(&json).map_err(|error| TestCaseError::fail(format!("{error}: {json}")))?;
        prop_assert_eq!(&read, &content);
        prop_assert_eq!(serde_json::from_slice::<Content>(json.as_bytes()).unwrap(), content);
    }

    #[test]
    fn hostile_text_is_an_error_or_a_content(json in hostile()) {
        if let Ok(content) = serde_json::from_slice::<Content>(&json) {
            let again = serde_json::to_string(&content).unwrap();
            prop_assert_eq!(serde_json::from_str::<Content>(&again).unwrap(), content);
        }
    }
}

fn a_guest() -> GuestId {
    GuestId { name: "web 1".into(), uuid: "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e".parse().unwrap() }
}

const GUEST: &str = r#""guest":{"name":"web 1","uuid":"2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e"}"#;

/// A name for each kind of event: the compiler asks for those of new kinds.
fn event_kind(event: &Event) -> &'static str {
    match event {
        Event::Open { .. } => "open",
        Event::Start { .. } => "start",
        Event::Attach { .. } => "attach",
        Event::Detach { .. } => "detach",
        Event::Keep { .. } => "keep",
        Event::Close { .. } => "close",
        Event::Filter { .. } => "filter",
        Event::Mac { .. } => "mac",
        Event::Update { phase, .. } => phase.as_str(),
        Event::Seen(_) => "seen",
        Event::Gone(_) => "gone",
        Event::GuestStart { .. } => "guest-start",
        Event::GuestStop { .. } => "guest-stop",
        Event::GuestGone { .. } => "guest-gone",
    }
}

const EVENT_KINDS: usize = 15;

/// A name for each kind of content, likewise.
fn content_kind(content: &Content) -> &'static str {
    match content {
        Content::Record(_) => "record",
        Content::KernelOpen(_) => "kernel-open",
        Content::BridgeOpen(_) => "bridge-open",
        Content::BridgeClose(_) => "bridge-close",
        Content::Abend(_) => "abend",
        Content::Denial(_) => "denial",
        Content::Resource(_) => "resource",
        Content::Truncated(_) => "truncated",
        Content::Unsent(_) => "unsent",
        Content::Missing(_) => "missing",
        Content::Gap(_) => "gap",
        Content::RecordingStopped(_) => "recording-stopped",
        Content::RecordingResumed(_) => "recording-resumed",
        Content::Boot => "boot",
        Content::Foreign { .. } => "foreign",
    }
}

const CONTENT_KINDS: usize = 15;

fn is_stored_as(content: Content, json: &str) {
    assert_eq!(serde_json::to_string(&content).unwrap(), json);
    assert_eq!(serde_json::from_str::<Content>(json).unwrap(), content);
}

// Archives are read by later versions: a form that has been written is never changed.
#[test]
fn each_event_has_its_form() {
    let mac: MacAddr = "52:54:00:12:34:56".parse().unwrap();
    let tun = || Device::new("/dev/net/tun", Some(Rdev::TUN), Some("vnet0".into()));
    let vhost = || Device::new("/dev/vhost-net", None, None);
    let descriptor = |mac| Descriptor { mac, device: tun(), queue: Some(1), vm_pid: 9, fd: 31 };
    let tun_json = r#""device":{"kind":"tun","path":"/dev/net/tun","rdev":"0A:C8","dev":"vnet0"}"#;
    let vhost_json = r#""device":{"kind":"vhost-net","path":"/dev/vhost-net"}"#;
    let mac_json = r#""mac":"52:54:00:12:34:56""#;
    let all = [
        (
            Event::Open { mac, device: tun(), queue: Some(0) },
            format!(r#""event":"open",{mac_json},{tun_json},"queue":0"#),
        ),
        (
            Event::Open { mac, device: vhost(), queue: None },
            format!(r#""event":"open",{mac_json},{vhost_json}"#),
        ),
        (
            Event::Start { mac, vm_pid: Some(9), fds: Some(2) },
            format!(r#""event":"start",{mac_json},"vm_pid":9,"fds":2"#),
        ),
        (Event::Attach { mac, vm_pid: None, fds: None }, format!(r#""event":"attach",{mac_json}"#)),
        (
            Event::Detach { mac, vm_pid: Some(9), fds: Some(2), forced: true },
            format!(r#""event":"detach",{mac_json},"vm_pid":9,"fds":2,"forced":true"#),
        ),
        (
            Event::Detach { mac, vm_pid: None, fds: None, forced: false },
            format!(r#""event":"detach",{mac_json}"#),
        ),
        (
            Event::Keep { mac, device: tun(), queue: Some(1), vm_pid: Some(9) },
            format!(r#""event":"keep",{mac_json},{tun_json},"queue":1,"vm_pid":9"#),
        ),
        (
            Event::Close { mac, device: tun(), queue: None },
            format!(r#""event":"close",{mac_json},{tun_json}"#),
        ),
        (
            Event::Filter { mac, device: tun(), address: None },
            format!(r#""event":"filter",{mac_json},{tun_json}"#),
        ),
        (
            Event::Filter {
                mac,
                device: tun(),
                address: Some(FilterAddress {
                    ip: Ipv4Addr::new(192, 0, 2, 5),
                    change: AddressChange::Leased {
                        server: Ipv4Addr::new(192, 0, 2, 1),
                        until: Some(1_795_460_022_944),
                    },
                }),
            },
            format!(
                r#""event":"filter",{mac_json},{tun_json},"ip":"192.0.2.5","ip_change":"leased","dhcp_server":"192.0.2.1","lease_end_ms":1795460022944"#
            ),
        ),
        (Event::Mac { mac, device: tun() }, format!(r#""event":"mac",{mac_json},{tun_json}"#)),
        (
            Event::Update { mac, device: tun(), phase: UpdatePhase::Begin, settings: "vlan=7".into() },
            format!(r#""event":"updating",{mac_json},{tun_json},"settings":"vlan=7""#),
        ),
        (
            Event::Update { mac, device: tun(), phase: UpdatePhase::End, settings: "vlan=7".into() },
            format!(r#""event":"update",{mac_json},{tun_json},"settings":"vlan=7""#),
        ),
        (
            Event::Seen(descriptor(Some(mac))),
            format!(r#""event":"seen",{mac_json},{tun_json},"queue":1,"vm_pid":9,"fd":31"#),
        ),
        (Event::Gone(descriptor(None)), format!(r#""event":"gone",{tun_json},"queue":1,"vm_pid":9,"fd":31"#)),
        (
            Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(9) },
            r#""event":"guest-start","vm_pid":9,"reason":"booted""#.to_owned(),
        ),
        (
            Event::GuestStop { reason: Reason::SHUTDOWN, vm_pid: None },
            r#""event":"guest-stop","reason":"shutdown""#.to_owned(),
        ),
        (Event::GuestGone { vm_pid: 9 }, r#""event":"guest-gone","vm_pid":9"#.to_owned()),
    ];
    let mut kinds: Vec<_> = all.iter().map(|(event, _)| event_kind(event)).collect();
    for (event, json) in all {
        assert!(json.contains(event_kind(&event)));
        let content = Content::Record(Record::success(a_guest(), event));
        is_stored_as(content, &format!(r#"{{"record":{{{GUEST},{json},"outcome":"success"}}}}"#));
    }
    kinds.dedup();
    assert_eq!(kinds.len(), EVENT_KINDS);
    let record = Record {
        outcome: Outcome::Failed,
        requester: Some(Requester { uid: 1000, auid: Requester::UNSET, pid: 77 }),
        errno: Some(16),
        last_seen: Some(1_795_460_022_944),
        doubt: Some(CloseDoubt::HeldElsewhere),
        ..Record::success(a_guest(), Event::GuestGone { vm_pid: 9 })
    };
    is_stored_as(
        Content::Record(record),
        &format!(
            r#"{{"record":{{{GUEST},"event":"guest-gone","vm_pid":9,"outcome":"failed","requester":{{"uid":1000,"auid":4294967295,"pid":77}},"errno":16,"last_seen_ms":1795460022944,"doubt":"held-elsewhere"}}}}"#
        ),
    );
}

#[test]
fn each_content_has_its_form() {
    let fragment = || Fragment {
        name: Some("web 1".into()),
        uuid: Some(a_guest().uuid),
        mac: Some(MacAddr([1, 2, 3, 4, 5, 255])),
        device: Some(Device::new("macvtap0", None, None)),
    };
    let fragment_json = r#"{"name":"web 1","uuid":"2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e","mac":"01:02:03:04:05:ff","device":{"kind":"macvtap","path":"macvtap0"}}"#;
    let resource = |old: Option<&str>, details: Vec<(&str, &str)>| ResourceChange {
        guest: a_guest(),
        resource: "dev".into(),
        reason: "attach".into(),
        outcome: Outcome::Success,
        old: old.map(Into::into),
        new: old.map(|_| "b".into()),
        details: details.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
    };
    let resource_json = format!(r#"{GUEST},"resource":"dev","reason":"attach","outcome":"success""#);
    let all = [
        (
            Content::Record(Record::success(a_guest(), Event::GuestGone { vm_pid: 1 })),
            format!(r#"{{"record":{{{GUEST},"event":"guest-gone","vm_pid":1,"outcome":"success"}}}}"#),
        ),
        (
            Content::KernelOpen(KernelOpen {
                pid: 7,
                ppid: Some(1),
                exe: "/usr/sbin/libvirtd".into(),
                device: Device::new("/dev/tap7", Some(Rdev { major: 246, minor: 1 }), None),
                fd: Some(30),
                errno: None,
            }),
            r#"{"kernel-open":{"pid":7,"ppid":1,"exe":"/usr/sbin/libvirtd","device":{"kind":"macvtap","path":"/dev/tap7","rdev":"F6:01"},"fd":30}}"#.to_owned(),
        ),
        (
            Content::KernelOpen(KernelOpen {
                pid: 7,
                ppid: None,
                exe: "".into(),
                device: Device::new("/dev/net/tun", Some(Rdev::TUN), None),
                fd: None,
                errno: Some(16),
            }),
            r#"{"kernel-open":{"pid":7,"device":{"kind":"tun","path":"/dev/net/tun","rdev":"0A:C8"},"errno":16}}"#.to_owned(),
        ),
        (
            Content::BridgeOpen(BridgeOpen {
                bridge: "br0".into(),
                device: Some(Device::new("/dev/net/tun", Some(Rdev::TUN), Some("tap0".into()))),
                refusal: None,
                errno: None,
                requester: Requester { uid: 1000, auid: 1000, pid: 7 },
                start_time: Some(99),
                claimed_name: Some("web 1".into()),
                claimed_uuid: Some(a_guest().uuid),
                netns: Some(4_026_531_840),
                ifindex: Some(7),
                outcome: Outcome::Success,
            }),
            r#"{"bridge-open":{"bridge":"br0","device":{"kind":"tun","path":"/dev/net/tun","rdev":"0A:C8","dev":"tap0"},"requester":{"uid":1000,"auid":1000,"pid":7},"start_time":99,"claimed_name":"web 1","claimed_uuid":"2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e","netns":4026531840,"ifindex":7,"outcome":"success"}}"#.to_owned(),
        ),
        (
            Content::BridgeClose(BridgeClose {
                bridge: "br0".into(),
                dev: "tap0".into(),
                requester: Requester { uid: 1000, auid: 1000, pid: 7 },
                start_time: Some(99),
                last_seen: Some(1_795_000_000_017),
            }),
            r#"{"bridge-close":{"bridge":"br0","dev":"tap0","requester":{"uid":1000,"auid":1000,"pid":7},"start_time":99,"last_seen_ms":1795000000017}}"#.to_owned(),
        ),
        (
            Content::Abend(Abend { pid: 9, comm: "CPU 0/KVM".into(), exe: "/usr/bin/qemu".into(), signal: 11 }),
            r#"{"abend":{"pid":9,"comm":"CPU 0/KVM","exe":"/usr/bin/qemu","signal":11}}"#.to_owned(),
        ),
        (
            Content::Abend(Abend { pid: 9, comm: "kvm".into(), exe: "".into(), signal: 6 }),
            r#"{"abend":{"pid":9,"comm":"kvm","signal":6}}"#.to_owned(),
        ),
        (
            // Its path does not show its kind.
            Content::Denial(Denial {
                pid: 9,
                comm: "qemu-kvm".into(),
                access: "attach_queue".into(),
                label: "system_u:system_r:svirt_t:s0".into(),
                device: Device { kind: DeviceKind::Tun, path: "".into(), rdev: None, dev: None },
            }),
            r#"{"denial":{"pid":9,"comm":"qemu-kvm","access":"attach_queue","label":"system_u:system_r:svirt_t:s0","device":{"kind":"tun","path":""}}}"#.to_owned(),
        ),
        (Content::Resource(resource(None, Vec::new())), format!(r#"{{"resource":{{{resource_json}}}}}"#)),
        (
            Content::Resource(resource(Some("a"), vec![("bus", "usb"), ("bus", "pci")])),
            format!(r#"{{"resource":{{{resource_json},"old":"a","new":"b","details":[["bus","usb"],["bus","pci"]]}}}}"#),
        ),
        (Content::Truncated(Fragment::default()), r#"{"truncated":{}}"#.to_owned()),
        (Content::Truncated(fragment()), format!(r#"{{"truncated":{fragment_json}}}"#)),
        (Content::Unsent(fragment()), format!(r#"{{"unsent":{fragment_json}}}"#)),
        (Content::Missing(fragment()), format!(r#"{{"missing":{fragment_json}}}"#)),
        (
            Content::Gap(Gap { since: None, serials: None, why: GapReason::Damaged }),
            r#"{"gap":{"why":"damaged"}}"#.to_owned(),
        ),
        (
            Content::Gap(Gap {
                since: Some("2026-11-23T20:31:05.017Z".parse().unwrap()),
                serials: Some((3, 9)),
                why: GapReason::NeverWritten,
            }),
            r#"{"gap":{"since":"2026-11-23T20:31:05.017Z","serials":[3,9],"why":"never-written"}}"#.to_owned(),
        ),
        (
            Content::RecordingStopped(GapReason::AuditdStopped),
            r#"{"recording-stopped":{"why":"auditd-stopped"}}"#.to_owned(),
        ),
        (
            Content::RecordingResumed(GapReason::AuditingOff),
            r#"{"recording-resumed":{"why":"auditing-off"}}"#.to_owned(),
        ),
        (Content::Boot, r#"{"boot":{}}"#.to_owned()),
        (
            Content::Foreign { exe: "/usr/bin/crun".into() },
            r#"{"foreign":{"exe":"/usr/bin/crun"}}"#.to_owned(),
        ),
        (Content::Foreign { exe: "".into() }, r#"{"foreign":{}}"#.to_owned()),
    ];
    let mut kinds: Vec<_> = all.iter().map(|(content, _)| content_kind(content)).collect();
    kinds.dedup();
    assert_eq!(kinds.len(), CONTENT_KINDS);
    for (content, json) in all {
        assert!(json.starts_with(&format!(r#"{{"{}":{{"#, content_kind(&content))));
        is_stored_as(content, &json);
    }
}

#[test]
fn credentials_and_copies_have_their_forms() {
    let credentials = Credentials { uid: 0, auid: u32::MAX, ses: 3 };
    let json = r#"{"uid":0,"auid":4294967295,"ses":3}"#;
    assert_eq!(serde_json::to_string(&credentials).unwrap(), json);
    assert_eq!(serde_json::from_str::<Credentials>(json).unwrap(), credentials);
    let copy = LineRef { source: "audit.log.1".into(), line: 7 };
    let json = r#"{"source":"audit.log.1","line":7}"#;
    assert_eq!(serde_json::to_string(&copy).unwrap(), json);
    assert_eq!(serde_json::from_str::<LineRef>(json).unwrap(), copy);
}

#[test]
fn fields_of_later_versions_are_skipped() {
    for (json, content) in [
        (r#"{"boot":{"later":[1,{"a":null}]}}"#.to_owned(), Content::Boot),
        (
            r#"{"recording-stopped":{"later":1,"why":"suspended"}}"#.to_owned(),
            Content::RecordingStopped(GapReason::Suspended),
        ),
        (
            format!(
                r#"{{"record":{{"later":{{}},{GUEST},"event":"guest-gone","vm_pid":1,"outcome":"success"}}}}"#
            ),
            Content::Record(Record::success(a_guest(), Event::GuestGone { vm_pid: 1 })),
        ),
        (r#"{"truncated":{"later":"x","name":null}}"#.to_owned(), Content::Truncated(Fragment::default())),
        (format!(r#"{{"boot":{{"later":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000)), Content::Boot),
    ] {
        assert_eq!(serde_json::from_str::<Content>(&json).unwrap(), content, "{json}");
    }
}

#[test]
fn what_is_no_content_is_named() {
    let record = |rest: &str| format!(r#"{{"record":{{{GUEST},{rest},"outcome":"success"}}}}"#);
    let mac = r#""mac":"52:54:00:12:34:56""#;
    for (json, reason) in [
        (r#"{"teleported":{}}"#.to_owned(), "unknown variant `teleported`"),
        (r#""boot""#.to_owned(), "invalid type"),
        (r#"{"recording-stopped":{"why":"bored"}}"#.to_owned(), "unknown variant `bored`"),
        (record(r#""event":"borrow""#), "unknown variant `borrow`"),
        (record(r#""event":"start""#), "missing field `mac`"),
        (record(&format!(r#""event":"open",{mac}"#)), "missing field `device`"),
        (record(r#""event":"gone","vm_pid":1,"device":{"kind":"tun","path":"/t"}"#), "missing field `fd`"),
        (record(r#""event":"guest-gone""#), "missing field `vm_pid`"),
        (record(r#""event":"guest-stop""#), "missing field `reason`"),
        (record(r#""event":"guest-stop","reason":"a b""#), "'a b' can't be a reason"),
        (record(r#""event":"start","mac":"52:54""#), "'52:54' is not a MAC address"),
        (
            record(&format!(r#""event":"filter",{mac},"device":{{"kind":"tun","path":"/t","rdev":"x"}}"#)),
            "'x' is not a device number",
        ),
        (
            record(&format!(r#""event":"filter",{mac},"device":{{"kind":"lamp","path":"/t"}}"#)),
            "unknown variant `lamp`",
        ),
        (record(r#""event":"guest-gone","vm_pid":4294967296"#), "invalid value: integer `4294967296`"),
        (record(r#""event":"guest-gone","vm_pid":1,"doubt":"none""#), "unknown variant `none`"),
        (record(r#""event":"guest-gone","vm_pid":1,"vm_pid":2"#), "duplicate field `vm_pid`"),
        (r#"{"gap":{"why":"damaged","since":"yesterday"}}"#.to_owned(), "four digit integer as year"),
        (r#"{"boot":{},"boot":{}}"#.to_owned(), "expected value"),
        (format!(r#"{{"boot":{{"x":{}}}}}"#, "[".repeat(100_000)), "expected value"),
    ] {
        let error = serde_json::from_str::<Content>(&json).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}: {}", &json[..json.len().min(300)]);
    }
}
