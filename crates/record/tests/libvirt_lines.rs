//! Lines that libvirtd 9.0 wrote, for guests with names that try to deceive parsers.

#![allow(clippy::unwrap_used)]

use taptrail_record::{DeviceKind, Event, Line, Outcome, ParseError, Rdev, Record, RecordType, parse_text};

const UUID: &str = "3a1aa618-e08b-4098-a0d3-3e9d14334e69";

fn read(record_type: &str, pairs: &str, res: &str) -> Result<Option<Record>, ParseError> {
    let line = format!(
        "type={record_type} msg=audit(1795460387.016:3425): pid=29897 uid=0 auid=4294967295 ses=4294967295 \
         msg='virt=kvm {pairs} exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res={res}'\
         \u{1d}UID=\"root\" AUID=\"unset\""
    );
    Line::parse(line.as_bytes())?.record()
}

fn net(pairs: &str, res: &str) -> Record {
    read("VIRT_RESOURCE", pairs, res).unwrap().unwrap()
}

#[test]
fn an_open_names_interface_path_and_number() {
    let pairs = format!(
        "resrc=net reason=open vm=\"web1\" uuid={UUID} net=52:54:00:00:23:00 path=\"/dev/net/tun\" rdev=0A:C8"
    );
    let record = net(&pairs, "success");
    let Event::Open { mac, device, queue } = record.event else { panic!("{record:?}") };
    assert_eq!(mac.to_string(), "52:54:00:00:23:00");
    assert_eq!(
        (device.kind, device.path.as_str(), device.rdev),
        (DeviceKind::Tun, "/dev/net/tun", Some(Rdev::TUN))
    );
    assert_eq!((device.dev, queue), (None, None));
}

#[test]
fn an_unknown_number_is_none_and_a_bare_interface_is_a_macvtap() {
    let pairs =
        format!("resrc=net reason=open vm=\"m\" uuid={UUID} net=52:54:00:00:23:00 path=\"macvtap0\" rdev=?");
    let device = net(&pairs, "success").event.device().cloned().unwrap();
    assert_eq!((device.kind, device.path.as_str(), device.rdev), (DeviceKind::Macvtap, "macvtap0", None));
}

// Shows 3.15, 10.5.
#[test]
fn no_name_changes_what_is_claimed() {
    for (vm, name) in [
        ("\"x'res=failed'\"", "x'res=failed'"),
        ("\"v'UID=nobody\"", "v'UID=nobody"),
        ("\"a res=failed uuid=0 b\"", "a res=failed uuid=0 b"),
        ("\"DEADBEEF\"", "DEADBEEF"),
        ("FF41", "\u{fffd}A"),
        ("\"(null)\"", "(null)"),
        ("776562207365727665722031", "web server 1"),
        ("7122756F7465", "q\"uote"),
        ("C3BC6EC3AF636F64652DE5908D", "ünïcode-名"),
        (
            "7820757569643D30303030303030302D303030302D303030302D303030302D303030303030303030303030207265733D6661696C6564",
            "x uuid=00000000-0000-0000-0000-000000000000 res=failed",
        ),
    ] {
        let pairs =
            format!("resrc=net reason=start vm={vm} uuid={UUID} old-net=\"?\" new-net=\"52:54:00:00:23:00\"");
        let record = net(&pairs, "success");
        assert_eq!(record.guest.name, name);
        assert_eq!(record.guest.uuid.to_string(), UUID);
        assert_eq!(record.outcome, Outcome::Success);
    }
}

#[test]
fn a_number_is_never_hex() {
    let pairs = format!("op=start reason=booted vm=\"w\" uuid={UUID} vm-pid=2252");
    let record = read("VIRT_CONTROL", &pairs, "success").unwrap().unwrap();
    assert!(matches!(record.event, Event::GuestStart { vm_pid: Some(2252), .. }), "{record:?}");
    let pairs = format!("op=stop reason=destroyed vm=\"w\" uuid={UUID} vm-pid=0");
    let record = read("VIRT_CONTROL", &pairs, "success").unwrap().unwrap();
    assert!(matches!(record.event, Event::GuestStop { vm_pid: None, .. }), "{record:?}");
}

#[test]
fn other_resources_and_other_programs_are_passed_over() {
    let mem = format!("resrc=mem reason=start vm=\"w\" uuid={UUID} old-mem=0 new-mem=163840");
    assert_eq!(read("VIRT_RESOURCE", &mem, "success"), Ok(None));
    let init = format!("op=init vm=\"w\" uuid={UUID} vm-pid=3 init-pid=4");
    assert_eq!(read("VIRT_CONTROL", &init, "success"), Ok(None));
    let docker = "reason=api vm-pid=10657 hostname=1235c5a6476b op=resize vm=centos:7 user=origin auid=1000 \
                  exe=sleep  exe=\"/usr/bin/dockerd-current\" hostname=? addr=? terminal=? res=success";
    assert_eq!(parse_text(RecordType::VIRT_CONTROL, docker.as_bytes()), Ok(None));
    assert_eq!(read("VIRT_MACHINE_ID", "vm=\"w\"", "success"), Ok(None));
}

#[test]
fn a_container_has_no_devices_of_a_qemus() {
    let start = format!(
        "virt=lxc resrc=net reason=start vm=\"w\" uuid={UUID} old-net=\"?\" new-net=\"52:54:00:00:23:00\" \
         exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success"
    );
    assert_eq!(parse_text(RecordType::VIRT_RESOURCE, start.as_bytes()), Ok(None));
    let bare = start.replace('"', "");
    assert_eq!(taptrail_record::parse_interpreted(RecordType::VIRT_RESOURCE, bare.as_bytes()), Ok(None));
}

#[test]
fn what_cannot_be_believed_is_named() {
    let start = |more: &str| format!("resrc=net reason=start vm=\"w\" uuid={UUID} old-net=\"?\" {more}");
    let mac = "new-net=\"52:54:00:00:23:00\"";
    let error = |pairs: &str, res: &str| read("VIRT_RESOURCE", pairs, res).unwrap_err();
    assert_eq!(error(&start(mac), "succes"), ParseError::Truncated);
    assert_eq!(error(&start(""), "success"), ParseError::Missing { key: "new-net" });
    assert_eq!(error(&start(&format!("{mac} {mac}")), "success"), ParseError::Duplicate { key: "new-net" });
    assert_eq!(error(&start("new-net=\"?\""), "success").to_string(), "Record has an invalid 'new-net=?'");
    assert_eq!(error(&start(mac), "perhaps").to_string(), "Record has an invalid 'res=perhaps'");
    let strange = format!("resrc=net reason=borrow vm=\"w\" uuid={UUID}");
    assert_eq!(error(&strange, "success").to_string(), "Record has an invalid 'reason=borrow'");
    let bare = format!("resrc=net reason=start vm=web1 uuid={UUID} {mac}");
    assert_eq!(error(&bare, "success").to_string(), "Record has an invalid 'vm=web1'");
}

// Shows 3.16.
#[test]
fn a_text_that_the_kernel_would_cut_is_refused() {
    let pairs = format!("op=stop reason=destroyed vm=\"w\" uuid={UUID} vm-pid=0");
    let mut record = read("VIRT_CONTROL", &pairs, "success").unwrap().unwrap();
    record.guest.name = "n".repeat(8000).into();
    let exe = std::path::Path::new("/usr/bin/taptrail");
    assert!(record.text(exe).is_ok());
    record.guest.name = " ".repeat(8000).into();
    let error = record.text(exe).unwrap_err();
    assert!(error.len > taptrail_record::MAX_TEXT_BYTES && error.guest.len() == 64);
}
