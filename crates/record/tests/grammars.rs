//! The same records in the grammars of all generations of libvirt, and as `ausearch -i` prints
//! them: each parses to the same record or is refused, whatever the names are.

#![allow(clippy::unwrap_used)]

mod strategies;

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use taptrail_record::{
    Descriptor, Device, Event, FilterAddress, GuestId, MacAddr, Outcome, Rdev, Reason, Record, RecordType,
    parse_interpreted, parse_text,
};

use strategies::{EXE, name, record};

const UUID: &str = "3a1aa618-e08b-4098-a0d3-3e9d14334e69";
const TAIL: &str = "exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success";

fn resource(text: &str) -> Record {
    parse_text(RecordType::VIRT_RESOURCE, format!("{text} {TAIL}").as_bytes()).unwrap().unwrap()
}

// Shows 10.4.
#[test]
fn three_generations_of_one_open_say_the_same() {
    let [first, second, third] = [
        format!("resrc=net reason=open vm=\"w\" uuid={UUID} net='52:54:00:00:00:01' path=\"/dev/net/tun\" rdev=0A:C8"),
        format!("virt=kvm resrc=net reason=open vm=\"w\" uuid={UUID} net=52:54:00:00:00:01 path=\"/dev/net/tun\" rdev=0A:C8"),
        format!("virt=qemu resrc=net reason=open vm=77 uuid={UUID} net=52:54:00:00:00:01 path=\"/dev/net/tun\" rdev=0A:C8"),
    ]
    .map(|text| resource(&text));
    let device = Device::new("/dev/net/tun", Some(Rdev::TUN), None);
    assert_eq!(first.event, Event::Open { mac: MacAddr::kvm([0, 0, 1]), device, queue: None });
    assert_eq!((&first, &second), (&second, &third));
}

#[test]
fn three_generations_of_a_change_say_the_same() {
    let records = [
        format!("resrc=net reason=detach vm=\"w\" uuid={UUID} old-net='52:54:00:00:00:01' new-net='?'"),
        format!("virt=kvm resrc=net reason=detach vm=\"w\" uuid={UUID} old-net=52:54:00:00:00:01 new-net=?"),
        format!("virt=kvm resrc=net reason=detach vm=\"w\" uuid={UUID} old-net=\"52:54:00:00:00:01\" new-net=\"?\""),
    ]
    .map(|text| resource(&text));
    assert!(
        matches!(records[0].event, Event::Detach { mac, forced: false, .. } if mac == MacAddr::kvm([0, 0, 1]))
    );
    assert_eq!(records, [records[0].clone(), records[0].clone(), records[0].clone()]);
}

#[test]
fn the_oldest_control_record_names_no_process() {
    let text = format!("op=start reason=booted vm=\"w\" uuid={UUID} {TAIL}");
    let record = parse_text(RecordType::VIRT_CONTROL, text.as_bytes()).unwrap().unwrap();
    assert_eq!(record.event, Event::GuestStart { reason: Reason::BOOTED, vm_pid: None });
}

fn older(record: &Record, generation: u8) -> String {
    let text = record.text(Path::new(EXE)).unwrap();
    let quote = if generation == 1 { "'" } else { "" };
    // Quoted names contain no blank and no double quote, so these replacements can't hit a name.
    let mac = record.event.mac().map_or("?".to_owned(), |mac| mac.to_string());
    let text = text
        .replacen(&format!("-net=\"{mac}\""), &format!("-net={quote}{mac}{quote}"), 1)
        .replacen("-net=\"?\"", &format!("-net={quote}?{quote}"), 1)
        .replacen(&format!(" net={mac} path="), &format!(" net={quote}{mac}{quote} path="), 1);
    if generation == 1 { text.strip_prefix("virt=kvm ").unwrap().to_owned() } else { text }
}

/// The record as `ausearch -i` prints it.
fn interpreted(record: &Record) -> String {
    let mut text = "virt=kvm".to_owned();
    let net = |reason: &str| format!(" resrc=net reason={reason}");
    let (kind, pairs) = match &record.event {
        Event::Open { mac, device, queue } => (net("open"), opened(*mac, device, *queue)),
        Event::Close { mac, device, queue } => (net("close"), opened(*mac, device, *queue)),
        Event::Keep { mac, device, queue, vm_pid } => {
            (net("keep"), opened(*mac, device, *queue) + &maybe("vm-pid", *vm_pid))
        }
        Event::Filter { mac, device, address } => {
            let learnt = address.map(|FilterAddress { ip, change }| {
                let end = change.until().map(|time| format!("{}.{:03}", time / 1000, time % 1000));
                format!(" ip={ip} ip-change={}", change.as_str())
                    + &maybe("dhcp-server", change.server())
                    + &maybe("lease-end", end)
            });
            (net("filter"), opened(*mac, device, None) + &learnt.unwrap_or_default())
        }
        Event::Mac { mac, device } => (net("mac"), opened(*mac, device, None)),
        Event::Update { mac, device, phase, settings } => (
            net(phase.as_str()),
            opened(*mac, device, None) + &maybe("settings", Some(format!("\"{settings}\""))),
        ),
        Event::Start { mac, vm_pid, fds } => (net("start"), changed("?", mac, *vm_pid, *fds)),
        Event::Attach { mac, vm_pid, fds } => (net("attach"), changed("?", mac, *vm_pid, *fds)),
        Event::Detach { mac, vm_pid, fds, forced } => {
            let forced = if *forced { " forced=yes" } else { "" };
            (net("detach"), changed(mac, "?", *vm_pid, *fds) + forced)
        }
        Event::Seen(descriptor) => (net("seen"), held(descriptor)),
        Event::Gone(descriptor) => (net("close"), held(descriptor)),
        Event::GuestStart { reason, vm_pid } => {
            (format!(" op=start reason={reason}"), format!(" vm-pid={}", vm_pid.unwrap_or(0)))
        }
        Event::GuestStop { reason, vm_pid } => {
            (format!(" op=stop reason={reason}"), format!(" vm-pid={}", vm_pid.unwrap_or(0)))
        }
        Event::GuestGone { vm_pid } => (" op=gone reason=exited".to_owned(), format!(" vm-pid={vm_pid}")),
    };
    write!(
        text,
        "{kind} vm={} uuid={}{pairs}{}",
        record.guest.name,
        record.guest.uuid,
        maybe("errno", record.errno)
            + &maybe("last-seen", record.last_seen.map(|time| format!("{}.{:03}", time / 1000, time % 1000)))
            + &maybe("doubt", record.doubt)
    )
    .unwrap();
    if let Some(by) = record.requester {
        write!(text, " req-uid={} req-auid={} req-pid={}", by.uid, by.auid, by.pid).unwrap();
    }
    write!(text, " exe={EXE} hostname=? addr=? terminal=? res={}", record.outcome.as_str()).unwrap();
    text
}

fn held(descriptor: &Descriptor) -> String {
    let Descriptor { mac, device, queue, vm_pid, fd } = descriptor;
    let mac = mac.map_or("?".to_owned(), |mac| mac.to_string());
    opened(mac, device, *queue) + &format!(" vm-pid={vm_pid} fd={fd}")
}

fn opened(mac: impl std::fmt::Display, device: &Device, queue: Option<u32>) -> String {
    let rdev = device.rdev.map_or("?".to_owned(), |rdev| rdev.to_string());
    let dev = device.dev.as_ref().map(|dev| format!("\"{dev}\""));
    format!(" net={mac} path={} rdev={rdev}", device.path) + &maybe("dev", dev) + &maybe("queue", queue)
}

fn changed(
    old: impl std::fmt::Display,
    new: impl std::fmt::Display,
    vm_pid: Option<u32>,
    fds: Option<u32>,
) -> String {
    format!(" old-net={old} new-net={new}") + &maybe("vm-pid", vm_pid) + &maybe("fds", fds)
}

fn maybe(key: &str, value: Option<impl std::fmt::Display>) -> String {
    value.map(|value| format!(" {key}={value}")).unwrap_or_default()
}

/// A name that imitates the pairs behind it, some or all of them.
fn imitation() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(" uuid=00000000-0000-0000-0000-000000000001"),
        Just(" old-net=? new-net=52:54:00:00:00:66"),
        Just(" old-net='?' new-net='52:54:00:00:00:66'"),
        Just(" net=52:54:00:00:00:66 path=/dev/net/tun"),
        Just(" rdev=0A:C8"),
        Just(" vm-pid=66"),
        Just(" exe=/a"),
        Just(" hostname=? addr=? terminal=? res=failed"),
        Just("'"),
        Just("\""),
        Just(" foo='"),
        Just("x"),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    // Shows 10.4.
    #[test]
    fn older_texts_of_a_record_say_the_same(record in record(), generation in 1_u8..=2) {
        let text = older(&record, generation);
        prop_assert_eq!(parse_text(record.record_type(), text.as_bytes()), Ok(Some(record)), "{}", text);
    }

    // Shows 10.5.
    #[test]
    fn a_nested_name_says_what_it_is_or_nothing(name in prop_oneof![name(), imitation()], open in any::<bool>()) {
        let (mac, device) = (MacAddr::kvm([0, 0, 1]), Device::new("/dev/net/tun", Some(Rdev::TUN), None));
        let (reason, pairs, event) = if open {
            let pairs = format!("net='{mac}' path=\"/dev/net/tun\" rdev=0A:C8");
            ("open", pairs, Event::Open { mac, device, queue: None })
        } else {
            ("start", format!("old-net='?' new-net='{mac}'"), Event::Start { mac, vm_pid: None, fds: None })
        };
        let text = format!("resrc=net reason={reason} vm='{name}' uuid={UUID} {pairs} {TAIL}");
        let guest = GuestId { name: name.into(), uuid: UUID.parse().unwrap() };
        match parse_text(RecordType::VIRT_RESOURCE, text.as_bytes()) {
            Ok(record) => prop_assert_eq!(record, Some(Record::success(guest, event))),
            Err(_) => prop_assert!(guest.name.contains("' uuid=")),
        }
    }

    // Shows 10.5.
    #[test]
    fn an_interpreted_record_says_the_same_or_nothing(record in record(), imitation in imitation(), deceive in any::<bool>()) {
        let mut record = record;
        if deceive {
            record.guest.name = imitation.into();
        }
        match parse_interpreted(record.record_type(), interpreted(&record).as_bytes()) {
            Ok(read) => prop_assert_eq!(read, Some(record)),
            Err(_) => {
                // Only a name or path with blanks or quotes can make a record invalid.
                let device = record.event.device();
                let strings = [Some(&record.guest.name), device.map(|device| &device.path), device.and_then(|device| device.dev.as_ref())];
                let settings = match &record.event {
                    Event::Update { settings, .. } => Some(settings),
                    _ => None,
                };
                let strings = strings.into_iter().chain([settings]).flatten();
                prop_assert!(strings.into_iter().any(|string| string.contains([' ', '"'])));
            }
        }
    }

    #[test]
    fn a_path_that_imitates_deceives_nobody(path in imitation(), name in imitation()) {
        let (mac, device) = (MacAddr::kvm([0, 0, 1]), Device::new(path, Some(Rdev::TUN), None));
        let guest = GuestId { name: name.into(), uuid: UUID.parse().unwrap() };
        let record = Record { outcome: Outcome::Success, ..Record::success(guest, Event::Open { mac, device, queue: None }) };
        let read = parse_interpreted(RecordType::VIRT_RESOURCE, interpreted(&record).as_bytes());
        if let Ok(read) = read {
            prop_assert_eq!(read, Some(record));
        }
    }
}
