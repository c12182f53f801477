use super::*;
use crate::{Event, MacAddr, parse_text};

const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
const OTHER: &str = "00000000-0000-0000-0000-000000000001";
const END: &str = "exe=/usr/sbin/libvirtd hostname=? addr=? terminal=? res=success";

fn net(name: &str, reason: &str, pairs: &str) -> Result<Option<Record>, ParseError> {
    let text = format!("virt=kvm resrc=net reason={reason} vm={name} uuid={UUID} {pairs} {END}");
    parse_interpreted(RecordType::VIRT_RESOURCE, text.as_bytes())
}

fn start(name: &str) -> Result<Option<Record>, ParseError> {
    net(name, "start", "old-net=? new-net=52:54:00:00:00:01")
}

fn open(name: &str, path: &str) -> Result<Option<Record>, ParseError> {
    net(name, "open", &format!("net=52:54:00:00:00:01 path={path} rdev=0A:C8"))
}

#[test]
fn a_name_may_hold_blanks_quotes_and_imitated_pairs() {
    for name in [
        "",
        "web 1 ",
        "it's \"q\"",
        "x'res=failed'",
        "x uuid=0 res=failed",
        &format!("x uuid={OTHER} res=failed"),
        &format!("x uuid={OTHER} old-net=? new-net=52:54:00:00:00:02"),
        "x exe=/a hostname=? addr=? terminal=? res=failed",
        "ünï",
    ] {
        let record = start(name).unwrap().unwrap();
        assert_eq!((record.guest.name.as_str(), record.guest.uuid.to_string()), (name, UUID.to_owned()));
        assert_eq!(record.outcome, Outcome::Success);
        assert_eq!(record.event.mac(), Some(MacAddr::kvm([0, 0, 1])));
        assert_eq!(open(name, "/dev/my tun").unwrap().unwrap().guest.name, name);
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let change = format!("x uuid={OTHER} old-net=? new-net=52:54:00:00:00:02 exe=/a");
    assert_eq!(start(&change), Err(ParseError::Ambiguous));
    let path = format!("x uuid={OTHER} net=52:54:00:00:00:02 path=/a");
    assert_eq!(open(&path, "/dev/net/tun"), Err(ParseError::Ambiguous));
    assert_eq!(open("x", "/a rdev=? exe=/a"), Err(ParseError::Ambiguous));
    // The last uuid is within the path, and no valid tail follows it.
    let inner = format!("/a uuid={OTHER}");
    assert_eq!(open("x", &inner), Err(ParseError::Order));
    let inner = format!("/a uuid={OTHER} net=52:54:00:00:00:02 path=/b");
    assert_eq!(open("x", &inner), Err(ParseError::Ambiguous));
}

#[test]
fn a_true_tail_that_is_not_understood_makes_no_imitation_true() {
    let name = format!("x uuid={OTHER} old-net=? new-net=52:54:00:00:00:02 exe=/a");
    let odd = net(&name, "start", "old-net=? new-net=52:54:00:00:00:01 colour=blue");
    assert_eq!(odd, Err(ParseError::Order));
    let odd = net("x", "open", "net=52:54:00:00:00:01 path=/a rdev=? exe=/a rdev=0A:C8 colour=blue");
    assert_eq!(odd, Err(ParseError::Order));
}

#[test]
fn an_interface_that_looks_like_hex_is_not_guessed() {
    let dev = |dev: &str| {
        net("w", "close", &format!("net=52:54:00:00:00:01 path=/dev/net/tun rdev=0A:C8 dev={dev} queue=3"))
            .map(|record| record.unwrap().event.device().unwrap().dev.clone().unwrap())
    };
    assert_eq!(dev("vnet0").unwrap(), "vnet0");
    assert_eq!(dev("\"BEEF\"").unwrap(), "BEEF");
    assert_eq!(dev("6162").unwrap(), "6162");
    assert_eq!(dev("C3A9"), Err(ParseError::Order));
}

#[test]
fn requesters_may_be_names() {
    let requester = |users: &str| {
        let pairs = format!("old-net=? new-net=52:54:00:00:00:01 vm-pid=7 fds=1 errno=2 {users} req-pid=9");
        let record = net("w", "attach", &pairs).unwrap().unwrap();
        assert_eq!(record.errno, Some(2));
        record.requester.map(|requester| (requester.uid, requester.auid, requester.pid))
    };
    assert_eq!(requester("req-uid=root req-auid=unset"), Some((0, u32::MAX, 9)));
    assert_eq!(requester("req-uid=1000 req-auid=4294967295"), Some((1000, u32::MAX, 9)));
    assert_eq!(requester("req-uid=alice req-auid=1000"), None);
}

#[test]
fn what_says_nothing_of_guests_devices_is_passed_over() {
    let passed = |record_type, text: &str| parse_interpreted(record_type, text.as_bytes());
    for text in [
        &format!("virt=kvm resrc=mem reason=start vm=x resrc=net uuid={UUID} old-mem=0 new-mem=1 {END}"),
        "",
        "virt=kvm",
    ] {
        assert_eq!(passed(RecordType::VIRT_RESOURCE, text), Ok(None), "{text}");
    }
    for text in [
        &format!("op=start reason=api vm=centos:7 user=origin exe=sleep {END}"),
        &format!("reason=api op=start vm=a uuid={UUID} {END}"),
        &format!("virt=lxc op=init vm=a uuid={UUID} vm-pid=1 init-pid=2 {END}"),
    ] {
        assert_eq!(passed(RecordType::VIRT_CONTROL, text), Ok(None), "{text}");
    }
    assert_eq!(passed(RecordType::VIRT_MACHINE_ID, "virt=kvm vm=x"), Ok(None));
}

#[test]
fn a_cut_text_is_never_believed() {
    let text = format!(
        "virt=kvm resrc=net reason=open vm=w uuid={UUID} net=52:54:00:00:00:01 path=/dev/net/tun rdev=0A:C8 {END}"
    );
    for end in "virt=kvm resrc=net".len()..text.len() {
        let cut = parse_interpreted(RecordType::VIRT_RESOURCE, &text.as_bytes()[..end]);
        assert_eq!(cut, Err(ParseError::Truncated), "{end}");
    }
    // So long that the kernel may have cut it, when it was hex.
    assert_eq!(start(&"x ".repeat(4000)), Err(ParseError::Truncated));
    assert!(start(&"x ".repeat(2000)).is_ok());
}

#[test]
fn the_oldest_texts_are_read_as_well() {
    let raw =
        format!("resrc=net reason=detach vm=\"w\" uuid={UUID} old-net='52:54:00:00:00:01' new-net='?' ");
    let raw = parse_text(RecordType::VIRT_RESOURCE, format!("{raw}{END}").as_bytes());
    let text =
        format!("resrc=net reason=detach vm=w uuid={UUID} old-net='52:54:00:00:00:01' new-net='?' {END}");
    assert_eq!(parse_interpreted(RecordType::VIRT_RESOURCE, text.as_bytes()), raw);
    let text = format!("op=stop reason=shutdown vm=a b uuid={UUID} {END}");
    let record = parse_interpreted(RecordType::VIRT_CONTROL, text.as_bytes()).unwrap().unwrap();
    assert!(matches!(record.event, Event::GuestStop { vm_pid: None, .. }));
}

#[test]
fn of_other_hypervisors_guests_only_opens_are_read() {
    let text = |virt: &str, rest: &str| format!("virt={virt} {rest} {END}");
    let open =
        format!("resrc=net reason=open vm=w uuid={UUID} net=52:54:00:00:00:01 path=/dev/net/tun rdev=0A:C8");
    let start = format!("resrc=net reason=start vm=w uuid={UUID} old-net=? new-net=52:54:00:00:00:01");
    let stop = format!("op=stop reason=shutdown vm=w uuid={UUID} vm-pid=0");
    for (virt, expected) in [
        ("kvm", [true, true, true]),
        ("hyperv", [true, true, true]),
        ("xen", [true, false, false]),
        ("bhyve", [true, false, false]),
        ("lxc", [false, false, false]),
        ("openvz", [false, false, false]),
    ] {
        let read = |record_type, rest: &str| {
            let text = text(virt, rest);
            let raw = text.replace("vm=w", "vm=\"w\"").replace("path=/dev/net/tun", "path=\"/dev/net/tun\"");
            let record = parse_interpreted(record_type, text.as_bytes()).unwrap();
            assert_eq!(parse_text(record_type, raw.as_bytes()).unwrap(), record, "{raw}");
            record.is_some()
        };
        let got = [
            read(RecordType::VIRT_RESOURCE, &open),
            read(RecordType::VIRT_RESOURCE, &start),
            read(RecordType::VIRT_CONTROL, &stop),
        ];
        assert_eq!(got, expected, "{virt}");
    }
}
