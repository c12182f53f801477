//! Which programs' lines are trusted, and which parts of them.

use taptrail_record::Event;
use taptrail_trail::Content;

use super::line;
use crate::parsed_line::ParsedLine;
use crate::shape::Unreadable;

const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";

fn open() -> String {
    format!(
        "pid=7 uid=0 auid=4294967295 ses=4294967295 msg='virt=kvm resrc=net reason=open vm=\"web1\" uuid={UUID} \
         net=52:54:00:00:00:01 path=\"/dev/net/tun\" rdev=0A:C8 exe=\"/usr/sbin/libvirtd\" hostname=? addr=? \
         terminal=? res=success'"
    )
}

fn parsed(text: &str) -> Option<ParsedLine> {
    line(text.as_bytes()).unwrap()
}

fn is_open(found: Option<ParsedLine>) -> bool {
    let Some(ParsedLine { content: Content::Record(record), .. }) = found else { return false };
    matches!(record.event, Event::Open { .. }) && record.guest.name == "web1"
}

fn cut(text: &str) -> Option<taptrail_record::Fragment> {
    match parsed(text)?.content {
        Content::Truncated(fragment) => Some(fragment),
        content => panic!("{content:?}"),
    }
}

#[test]
fn only_audits_own_programs_speak_for_it_in_syslog() {
    let (open, raw) = (open(), format!("type=VIRT_RESOURCE msg=audit(1795460308.832:1): {}", open()));
    let front = "Nov 23 18:58:28 host1";
    for text in [
        format!("{front} audit[7]: VIRT_RESOURCE {open}"),
        format!("{front} audit: VIRT_RESOURCE {open}"),
        format!("{front} audit[7]: AUDIT2501 {open}"),
        format!("{front} audit[7]: <audit-2501> {open}"),
        format!("{front} audit[7]: UNKNOWN[2501] {open}"),
        format!("Nov 23 18:58:28 audit[7]: VIRT_RESOURCE {open}"),
        format!("{front} audispd: {raw}"),
        format!("{front} audisp-syslog[9]: {raw}"),
        format!("{front} kernel: audit: {raw}").replace("VIRT_RESOURCE msg=", "2501 "),
        format!("{front} kernel: {raw}").replace("VIRT_RESOURCE msg=", "2501 "),
        format!("<5>{front} audit: {raw}"),
    ] {
        assert!(is_open(parsed(&text)), "{text}");
    }
    for text in [
        format!("{front} logger: VIRT_RESOURCE {open}"),
        format!("{front} logger[7]: {raw}"),
        format!("{front} sshd[7]: audit[7]: VIRT_RESOURCE {open}"),
        format!("{front} sshd[7]: host1 audit[7]: VIRT_RESOURCE {open}"),
        format!("{front} myaudit[7]: VIRT_RESOURCE {open}"),
        format!("{front} user 7 - audit[7]: VIRT_RESOURCE {open}"),
        format!("{front} libvirtd[7]: {raw}"),
        format!("{front} audispd: VIRT_RESOURCE {open}"),
        format!(" {raw}"),
        format!("x{raw}"),
        format!("logger: {raw}"),
        format!("VIRT_RESOURCE {open}"),
        format!("[x] audit: {raw}"),
        format!("audit: {raw}"),
    ] {
        assert_eq!(parsed(&text), None, "{text}");
    }
}

#[test]
fn what_a_line_names_itself_goes_before_what_syslog_adds() {
    let raw = format!("type=VIRT_RESOURCE msg=audit(1795460308.832:1): {}", open());
    let found = parsed(&format!("Nov 23 18:59:59 collector audispd: node=host1 {raw}")).unwrap();
    assert_eq!((found.host.as_deref(), found.serial), (Some("host1"), Some(1)));
    assert!(matches!(found.when, crate::parsed_line::LineTime::Exact(_)));
}

#[test]
fn only_functions_that_audit_speak_in_libvirts_log() {
    let text = format!(
        "virt=kvm resrc=net reason=open vm=\"web1\" uuid={UUID} net=52:54:00:00:00:01 path=\"/dev/net/tun\" rdev=0A:C8"
    );
    let at = "2026-11-23 18:58:28.829+0000: 29898";
    for line in [
        format!("{at}: info : virDomainAuditNetDevice:318 : success=yes {text}"),
        format!("2011-11-23 18:58:28.829: 29898: info : qemuAuditNetDevice:318 : success=yes {text}"),
        format!("Nov 23 18:58:28 h libvirtd[9]: success=yes {text}"),
        format!(
            "Nov 23 18:58:28 h virtqemud[9]: 77: info : virDomainAuditNetDevice:318 : success=yes {text}"
        ),
        format!("Nov 23 18:58:28 h virtlxcd: {at}: info : virDomainAuditNetDevice:318 : success=yes {text}"),
    ] {
        assert!(is_open(parsed(&line)), "{line}");
    }
    for line in [
        format!("{at}: info : qemuDomainObjTaintMsg:6603 : success=yes {text}"),
        format!("{at}: info : virDomainAuditNetDevice:318 : x success=yes {text}"),
        format!(
            "{at}: error : virCommandWait:2725 : qemu: info : virDomainAuditNetDevice:318 : success=yes {text}"
        ),
        format!("{at}: info : success=yes {text}"),
        format!("{at}: shout : virDomainAuditNetDevice:318 : success=yes {text}"),
        format!("Nov 23 18:58:28 h qemu[9]: success=yes {text}"),
        format!("Nov 23 18:58:28 h virtD[9]: success=yes {text}"),
        format!("Nov 23 18:58:28 h libvirtd[9]: error: success=yes {text}"),
        format!("success=yes {text}"),
    ] {
        assert_eq!(parsed(&line), None, "{line}");
    }
}

#[test]
fn an_unsent_record_is_reported_if_it_is_about_a_network_device_or_lifecycle() {
    let at = "2014-01-20 19:08:38.578+0000: 2890: warning : virAuditSend:135 : Failed to send audit message";
    for (text, unsent) in [
        (
            format!(
                "virt=kvm resrc=net reason=start vm=\"w\" uuid={UUID} old-net=\"?\" new-net=\"52:54:00:00:00:01\""
            ),
            true,
        ),
        (format!("virt=kvm op=start reason=booted vm=\"w\" uuid={UUID} vm-pid=0"), true),
        (format!("virt=kvm resrc=mem reason=start vm=\"op=\" uuid={UUID} old-mem=0 new-mem=1"), false),
        (format!("virt=kvm vm=\"resrc=net\" uuid={UUID} vm-ctx=+0:+0 img-ctx=+0:+0 model=dac"), false),
    ] {
        let found = parsed(&format!("{at} {text}: Operation not permitted"));
        assert_eq!(found.is_some(), unsent, "{text}");
        if let Some(found) = found {
            let Content::Unsent(fragment) = found.content else { panic!("{found:?}") };
            assert_eq!(fragment.uuid.unwrap().to_string(), UUID);
        }
    }
}

#[test]
fn a_name_that_imitates_an_escaped_tail_changes_nothing() {
    let front = "Nov 23 18:58:28 h audispd: type=VIRT_RESOURCE msg=audit(1795460308.832:1): ";
    for name in ["x'#035UID=", "'#035", "x'#035UID=root'#035", "res=failed'", "'", "x uuid=0"] {
        for tail in ["", "#035UID=\"root\" AUID=\"unset\"", "\u{1d}UID=\"o'x\""] {
            // libvirt encodes a name with a blank as hex.
            let coded = match name.contains(' ') {
                true => name.bytes().map(|byte| format!("{byte:02X}")).collect(),
                false => format!("\"{name}\""),
            };
            let text = format!("{front}{}{tail}", open().replace("\"web1\"", &coded));
            let Content::Record(record) = parsed(&text).unwrap().content else { panic!("{text}") };
            assert_eq!(record.guest.name, name, "{text}");
        }
    }
}

#[test]
fn a_boot_is_recognized_in_any_shape() {
    let body = "pid=1 uid=0 auid=4294967295 ses=4294967295 msg=' comm=\"systemd-update-utmp\" res=success'";
    for text in [
        format!("type=SYSTEM_BOOT msg=audit(1795460308.832:1): {body}"),
        format!("type=SYSTEM_BOOT msg=audit(11/23/26 18:58:28.832:1) : {body}"),
        format!("Nov 23 18:58:28 h audit[1]: SYSTEM_BOOT {body}"),
        "{\"_TRANSPORT\":\"audit\",\"_AUDIT_TYPE\":\"1127\",\"__REALTIME_TIMESTAMP\":\"1\",\
         \"MESSAGE\":\"SYSTEM_BOOT pid=1 msg=''\"}"
            .to_owned(),
    ] {
        assert_eq!(parsed(&text).unwrap().content, Content::Boot, "{text}");
    }
}

#[test]
fn a_truncated_record_is_reported_if_it_may_be_about_a_network_device() {
    let head = "type=VIRT_RESOURCE msg=audit(1795460308.832:1): pid=7 uid=0";
    assert_eq!(cut(head).unwrap(), Default::default(), "the rest may have been anything");
    let net = format!(
        "{head} msg='virt=kvm resrc=net reason=open vm=\"web1\" uuid={UUID} net=52:54:00:00:00:01 path=\"/de"
    );
    for text in
        [net.clone(), format!("{net}\u{1d}UID=\"root\""), format!("{net}'"), format!("audispd: {net}")]
    {
        let fragment = cut(&text).unwrap();
        assert_eq!(fragment.uuid.unwrap().to_string(), UUID, "{text}");
        assert_eq!(fragment.mac.unwrap().to_string(), "52:54:00:00:00:01");
        assert_eq!(fragment.device, None);
    }
    let found = parsed(&net).unwrap();
    assert_eq!((found.serial, found.writer), (Some(1), Some(7)));
    assert!(cut(&format!("{head} msg='virt=kvm resrc=ne")).is_some());
    assert!(cut(&format!("{head} msg='virt=kv")).is_some());
    for other in
        ["virt=kvm resrc=mem reason=start vm=\"w", "virt=kvm resrc=n reason=start", "virt=kvm resrc=dis"]
    {
        assert_eq!(parsed(&format!("{head} msg='{other}")), None, "{other}");
    }
    let control = head.replace("RESOURCE", "CONTROL");
    assert!(cut(&format!("{control} msg='virt=kvm op=st")).is_some());
    assert_eq!(parsed(&format!("{control} msg='reason=api vm-pid=10657 hostna")), None, "a container");
    assert!(cut("Nov 23 18:58:28 h audit[7]: VIRT_CONTROL pid=7 uid=0 msg='virt=kvm op=stop rea").is_some());
    assert!(
        cut("type=VIRT_CONTROL msg=audit(11/23/26 18:58:28.832:1) : pid=7 uid=root msg='virt=kvm op=sto")
            .is_some()
    );
    let own = "2026-11-23 18:58:28.829+0000: 1: info : virDomainAuditNetDevice:318 : success=yes virt=kvm";
    assert!(cut(&format!("{own} resrc=net reason=open vm=\"we")).is_some());
    assert_eq!(parsed(&format!("{own} resrc=mem reason=start vm=\"we")), None);
}

#[test]
fn what_should_be_a_record_and_is_none_is_unreadable() {
    let body = open();
    for text in [
        format!("type=VIRT_RESOURCE msg=audit(1795460308.83:1): {body}"),
        format!("type=VIRT_RESOURCE msg=audit(99999999999999.832:1): {body}"),
        format!("type=VIRT_RESOURCE msg=audit(13/13/26 18:58:28.832:1) : {body}"),
        format!("type=VIRT_RESOURCE msg=audit(11/23/26 18:58:28.832:x) : {body}"),
        "type=VIRT_RESOURCE msg=audit(179546".to_owned(),
        format!("type=VIRT_RESOURCE msg=audit(1795460308.832:1): {}", body.replace("uuid=2ea4", "uuid=xxxx")),
        format!("[    1.002000] host1 audit[7]: VIRT_RESOURCE {body}"),
        "{\"_TRANSPORT\":\"audit\"".to_owned(),
        "{\"_TRANSPORT\":\"audit\",\"_AUDIT_TYPE\":\"2501\",\"__REALTIME_TIMESTAMP\":\"1\",\"MESSAGE\":[1,\"x\"]}".to_owned(),
        format!("{{\"_TRANSPORT\":\"audit\",\"_AUDIT_TYPE\":\"2501\",\"MESSAGE\":{:?}}}", format!("VIRT_RESOURCE {body}")),
    ] {
        let error = line(text.as_bytes()).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{text}");
        assert!(!matches!(error, Unreadable::Broken | Unreadable::TooLong { .. }), "{text}: {error}");
    }
}
