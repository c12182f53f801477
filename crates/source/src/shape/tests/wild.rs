//! Lines from bug reports, other tools and other locales: see tests/data/wild.

use taptrail_trail::{Content, Gap, GapReason};

use super::moment;
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};
use crate::scan::{Batch, Scanner};

const UUID: &str = "8d7a4ace-3751-438c-b7e9-4c4370630cf9";

fn scan(log: &[u8]) -> Batch {
    Scanner::new().lines(log, 0)
}

fn wild(name: &str) -> Batch {
    let path = format!("{}/../../tests/data/wild/{name}", env!("CARGO_MANIFEST_DIR"));
    scan(&std::fs::read(path).unwrap())
}

/// Parses a log, all lines of which are readable.
fn all(name: &str) -> Vec<ParsedLine> {
    let Batch { found, unreadable, unread, first_unread, .. } = wild(name);
    assert_eq!((unreadable, unread, first_unread), (Vec::new(), 0, None), "{name}");
    found.into_iter().map(|(_, found)| found).collect()
}

/// The events of a log's one guest, each as a word.
fn words(found: &[ParsedLine]) -> Vec<String> {
    let word = |found: &ParsedLine| match &found.content {
        Content::Record(record) => {
            assert_eq!(record.guest.uuid.to_string()[..28], UUID[..28]);
            let event = format!("{:?}", record.event);
            event.split([' ', '(']).next().unwrap_or_default().to_lowercase()
        }
        Content::Gap(Gap { since: None, serials: None, why }) => format!("{why:?}"),
        other => format!("{other:?}").to_lowercase(),
    };
    found.iter().map(word).collect()
}

fn programs(found: &[ParsedLine]) -> Vec<LogProgram> {
    found.iter().map(|found| found.program).collect()
}

const LIFE: [&str; 4] = ["open", "start", "gueststart", "gueststop"];

#[test]
fn losses_are_reported_where_they_stand() {
    let lost = all("kernel-lost-records.log");
    assert_eq!(words(&lost), ["open", "Backlog", "gueststart"]);
    assert_eq!(moment(lost[1].when).to_string(), "2026-11-20T18:16:45Z");
    assert_eq!((lost[1].host.as_deref(), lost[1].program), (Some("h"), LogProgram::Kernel));
    let suppressed = all("printk-suppressed.log");
    assert_eq!(words(&suppressed), ["open", "RateLimited", "gueststop"]);
    assert_eq!(suppressed[1].when, LineTime::Unknown);
    let off = all("auditing-off-for-a-day.log");
    assert_eq!(
        (&off[3].content, &off[4].content),
        (
            &Content::RecordingStopped(GapReason::AuditingOff),
            &Content::RecordingResumed(GapReason::AuditingOff)
        )
    );
    assert_eq!((off[3].serial, off[3].writer), (Some(4), None));
}

#[test]
fn switching_auditing_is_recognized_in_every_shape() {
    use Content::{RecordingResumed as Resumed, RecordingStopped as Stopped};
    let off = Some(Stopped(GapReason::AuditingOff));
    let on = Some(Resumed(GapReason::AuditingOff));
    for (line, content) in [
        ("type=CONFIG_CHANGE msg=audit(1.000:4): audit_enabled=0 old=1 by auid=500 res=1", &off),
        ("type=CONFIG_CHANGE msg=audit(1.000:4): audit_enabled=0 old=1 by auid=500", &off),
        (
            "node=h type=CONFIG_CHANGE msg=audit(1.000:4): op=set audit_enabled=2 old=0 auid=0 ses=1 res=1",
            &on,
        ),
        (
            "type=CONFIG_CHANGE msg=audit(11/23/26 18:58:28.832:4) : op=set audit_enabled=0 old=1 auid=root res=yes",
            &off,
        ),
        ("type=CONFIG_CHANGE msg=audit(1.000:4): op=set audit_enabled=0 old=1 auid=0 ses=1 res=0", &None),
        ("type=CONFIG_CHANGE msg=audit(1.000:4): op=set audit_enabled=1 old=1 auid=0 ses=1 res=1", &None),
        ("type=CONFIG_CHANGE msg=audit(1.000:4): op=add_rule key=\"x\" audit_enabled=0 old=1", &None),
        (
            "Nov 23 18:58:28 h kernel: audit: type=1305 audit(1.000:4): op=set audit_enabled=0 old=1 auid=0 res=1",
            &off,
        ),
        ("[    1.0] audit: type=1305 audit(1.000:4): audit_enabled=1 old=0 auid=0 ses=1 res=1", &on),
        ("Nov 23 18:58:28 h audit[9]: CONFIG_CHANGE op=set audit_enabled=0 old=1 auid=0 ses=1 res=1", &off),
        ("Nov 23 18:58:28 h audit: CONFIG_CHANGE op=set audit_enabled=0 old=1 auid=0 ses=1 res=1", &off),
        (
            "{\"_TRANSPORT\":\"audit\",\"_AUDIT_TYPE\":\"1305\",\"__REALTIME_TIMESTAMP\":\"1\",\
          \"MESSAGE\":\"CONFIG_CHANGE op=set audit_enabled=0 old=1 auid=0 ses=1 res=1\"}",
            &off,
        ),
        (
            "type=DAEMON_START msg=audit(1.000:99): op=start ver=3.0.9 res=success",
            &Some(Resumed(GapReason::AuditdStopped)),
        ),
        (
            "type=DAEMON_END msg=audit(1.000:99): op=terminate auid=0 pid=1 res=success",
            &Some(Stopped(GapReason::AuditdStopped)),
        ),
        (
            "type=DAEMON_ABORT msg=audit(1.000:99): op=error-halt res=failed",
            &Some(Stopped(GapReason::AuditdStopped)),
        ),
        (
            "type=DAEMON_RESUME msg=audit(1.000:99): op=resume-logging res=success",
            &Some(Resumed(GapReason::Suspended)),
        ),
        ("type=DAEMON_ROTATE msg=audit(1.000:99): op=rotate-logs res=success", &None),
        (
            "Nov 23 18:58:28 h audisp-syslog[2]: type=DAEMON_END msg=audit(1.000:99): op=terminate res=success",
            &Some(Stopped(GapReason::AuditdStopped)),
        ),
        (
            "Nov 23 18:58:28 h auditd[1]: Audit daemon is suspending logging due to low disk space.",
            &Some(Stopped(GapReason::Suspended)),
        ),
        ("Nov 23 18:58:28 h auditd[1]: Audit daemon resumed logging.", &Some(Resumed(GapReason::Suspended))),
        ("Nov 23 18:58:28 h logger: Audit daemon resumed logging.", &None),
    ] {
        let batch = scan(line.as_bytes());
        assert_eq!((batch.unreadable, batch.unread), (Vec::new(), 0), "{line}");
        let found = batch.found.into_iter().next().map(|(_, found)| found);
        if line.contains("DAEMON") {
            assert_eq!(found.as_ref().and_then(|found| found.serial), None, "{line}");
        }
        assert_eq!(&found.map(|found| found.content), content, "{line}");
    }
}

#[test]
fn auditds_full_queues_are_gaps() {
    for line in [
        "Nov 23 18:58:28 h auditd[1]: queue to plugins is full - dropping event",
        "Nov 23 18:58:28 h audispd: queue is full - dropping event",
        "Nov 23 18:58:28 h auditd: dispatch err (pipe full) event lost",
    ] {
        let (_, found) = scan(line.as_bytes()).found.remove(0);
        assert_eq!(words(&[found]), ["QueueFull"], "{line}");
    }
}

#[test]
fn a_boot_between_two_lines_has_the_time_of_the_next_and_its_id() {
    let found = all("two-boots-in-one-journal.log");
    assert_eq!(words(&found), ["open", "start", "gueststart", "boot", "boot", "gueststart"]);
    assert_eq!(found[3].boot, Some(0x5f1a_2b3c_4d5e_6f70_8192_a3b4_c5d6_e7f8));
    assert_eq!(moment(found[3].when).to_string(), "2026-11-20T20:00:00Z");
    assert_eq!((found[3].program, found[4].program), (LogProgram::Journald, LogProgram::Kernel));
    let ring = "[    0.000000] Linux version 6.1\n[    0.1] x\n[    0.2] audit: type=2000 audit(1663611405.645:1): state=initialized\n";
    let (_, boot) = scan(ring.as_bytes()).found.remove(0);
    assert_eq!(moment(boot.when).to_string(), "2022-09-19T18:16:45.645Z");
    let (_, boot) = scan(b"-- Reboot --\n-- Reboot --\nNov 23 18:58:28 h x\n").found.remove(0);
    assert_eq!((boot.when, boot.boot), (LineTime::Unknown, None));
}

#[test]
fn the_program_that_wrote_a_line_is_recognized() {
    let twice = all("twice-in-one-input.log");
    let expect = [LogProgram::Journald, LogProgram::Kernel];
    assert_eq!(programs(&twice), expect.repeat(3));
    for (name, program) in [
        ("dmesg-T.log", LogProgram::Kernel),
        ("dmesg-r.log", LogProgram::Kernel),
        ("kmsg.log", LogProgram::Kernel),
        ("relay-with-address.log", LogProgram::Kernel),
        ("ausearch-i-zh_CN.log", LogProgram::Auditd),
        ("audisp-syslog-interpret.log", LogProgram::Dispatcher),
        ("cri.log", LogProgram::Auditd),
        ("go-audit.log", LogProgram::Auditd),
    ] {
        let found = all(name);
        assert_eq!(words(&found), LIFE, "{name}");
        assert_eq!(programs(&found), [program; 4], "{name}");
        assert_eq!(found.iter().map(|found| found.writer).collect::<Vec<_>>(), [Some(1265); 4], "{name}");
        let dispatched = program == LogProgram::Dispatcher;
        let serials: Vec<_> = (184..188).map(|serial| (!dispatched).then_some(serial)).collect();
        assert_eq!(found.iter().map(|found| found.serial).collect::<Vec<_>>(), serials, "{name}");
        let time = if dispatched { "2022-09-19T18:16:45Z" } else { "2022-09-19T18:16:45.645Z" };
        assert_eq!(moment(found[0].when).to_string(), time, "{name}");
    }
    assert_eq!(all("relay-with-address.log")[0].host.as_deref(), Some("hostname_xxxx"));
}

#[test]
fn a_journal_in_french_is_read() {
    let found = all("journal-fr_FR.log");
    assert_eq!(found.len(), 3);
    assert_eq!(moment(found[0].when).to_string(), "2026-05-12T12:48:00Z");
}

#[test]
fn old_and_other_managers_are_read() {
    assert_eq!(words(&all("libaudit-1.log")), LIFE);
    assert_eq!(words(&all("libaudit-before-2.2.log")), ["open"]);
    assert!(
        matches!(&all("virtchd-opens-only.log")[0].content, Content::Record(record) if record.guest.name == "chvm")
    );
    for (name, guest) in
        [("libvirtd-without-libaudit.log", "web1"), ("libvirtd-without-libaudit-hex-name.log", "CAFE")]
    {
        let found = all(name);
        assert_eq!(words(&found), ["open", "start", "gueststart"], "{name}");
        for found in found {
            assert_eq!(found.program, LogProgram::Manager);
            let Content::Record(record) = found.content else { panic!("{name}") };
            assert_eq!(record.guest.name, guest, "{name}");
        }
    }
}

#[test]
fn an_unsent_record_in_a_pod_is_reported() {
    let found = all("virt-launcher-json.log");
    let Content::Unsent(fragment) = &found[0].content else { panic!("{found:?}") };
    assert_eq!(fragment.uuid.unwrap().to_string(), UUID);
    assert_eq!(moment(found[0].when).to_string(), "2019-09-23T03:53:50.738Z");
    assert_eq!(found[0].program, LogProgram::Manager);
}

#[test]
fn what_a_wrapper_does_not_vouch_for_is_unread() {
    let raw = format!(
        "type=VIRT_RESOURCE msg=audit(1663611405.645:184): pid=1 msg='virt=kvm resrc=net reason=open vm=\"w\" \
         uuid={UUID} net=52:54:00:aa:cc:01 path=\"/dev/net/tun\" rdev=0A:C8 exe=\"/x\" hostname=? addr=? terminal=? \
         res=success'"
    );
    let text = |line: &str| serde_json::Value::from(line).to_string();
    let docker = |line: &str| {
        format!("{{\"log\":{},\"stream\":\"stdout\",\"time\":\"2022-09-19T18:16:45.6Z\"}}", text(line))
    };
    let loki = |line: &str| {
        format!("{{\"labels\":{{}},\"line\":{},\"timestamp\":\"2022-09-19T18:16:45.6Z\"}}", text(line))
    };
    let cri = |line: &str, tag: &str| format!("2022-09-19T18:16:45.645184000+00:00 stdout {tag} {line}");
    let message = "virt=kvm resrc=net reason=open vm=\\\"w\\\" uuid=x";
    let launcher = |component: &str, pos: &str| {
        format!(
            "component={component} level=warning msg=\"Failed to send audit message {message}: Permission denied\" \
                 pos=\"{pos}\" subcomponent=libvirt timestamp=2019-09-23T03:53:50.738000Z"
        )
    };
    for line in [
        docker(&format!("{raw}\n")),
        loki(&raw),
        cri(&raw, "F"),
        format!("audit.log:{raw}"),
        format!("./a/audit.log.1:17:node=h {raw}"),
        format!("17:{raw}"),
        launcher("virt-launcher", "virAuditSend:141"),
        docker(&format!("{}\n", launcher("virt-launcher", "virAuditSend:141"))),
    ] {
        let batch = scan(line.as_bytes());
        assert_eq!((batch.found.len(), batch.unreadable, batch.unread), (1, Vec::new(), 0), "{line}");
    }
    let syslog = format!("Nov 23 18:58:28 h audispd: {raw}");
    for line in [
        docker(&raw),
        docker(&format!("{syslog}\n")),
        loki(&syslog),
        cri(&raw, "P"),
        cri(&syslog, "F"),
        format!("{{\"log\":{}}}", text(&raw)),
        format!("{{\"name\":\"process_events\",\"columns\":{{\"cmdline\":{}}}}}", text(&raw)),
        format!("logger:{raw}"),
        format!("my file.log:{raw}"),
        launcher("virt-api", "virAuditSend:141"),
        launcher("virt-launcher", "qemuX:141"),
        "{\"sequence\":1,\"data\":\"VIRT_RESOURCE\"}".to_owned(),
        "{\"VIRT_RESOURCE\":{\"virt\":\"kvm\"}}".to_owned(),
    ] {
        let batch = scan(line.as_bytes());
        assert_eq!((batch.found, batch.unreadable, batch.unread), (Vec::new(), Vec::new(), 1), "{line}");
    }
}

#[test]
fn a_unit_may_stand_in_a_programs_place() {
    let text = format!("success=yes virt=kvm op=stop reason=shutdown vm=\"w\" uuid={UUID} vm-pid=0");
    for (unit, count) in
        [("libvirtd.service", 1), ("virtqemud.service", 1), ("user@1000.service/libvirtd.service", 0)]
    {
        let batch = scan(format!("Mon 2026-11-23 18:58:28 UTC host1 {unit}[9]: {text}").as_bytes());
        assert_eq!((batch.found.len(), batch.unread), (count, 1 - count as u64), "{unit}");
    }
}

#[test]
fn a_guests_name_does_not_make_a_path_of_its_record() {
    let name = "type=PATH name=/dev/tap1 rdev=0a:c8 x";
    let line = format!(
        "2026-11-23 18:58:28.829+0000: 1: info : virDomainAuditLifecycle:1 : success=yes virt=kvm op=stop \
         reason=shutdown vm={name} uuid={UUID} vm-pid=0"
    );
    let (_, found) = scan(line.as_bytes()).found.remove(0);
    assert!(matches!(&found.content, Content::Record(record) if record.guest.name == name));
}

#[test]
fn what_looks_like_a_record_and_is_not_read_is_counted() {
    let open = "pid=7 uid=0 msg='virt=kvm resrc=net reason=open vm=\"w\" uuid=1 net=52:54:00:00:00:01'";
    for line in [
        format!("Nov 23 18:58:28 h logger: VIRT_RESOURCE {open}"),
        format!("VIRT_RESOURCE {open}"),
        format!("something type=2501 audit(1.000:1): {open}"),
        format!("<13>[    1.0] audit: type=2501 audit(1.000:1): {open}"),
        format!("{{\"_TRANSPORT\":\"syslog\",\"_COMM\":\"logger\",\"MESSAGE\":{:?}}}", open),
        format!("{{\"any\":{open:?}}}"),
        "2026-11-23 18:58:28.829+0000: 1: debug : qemuX:1 : virt=kvm vm=w uuid=1".to_owned(),
        "node=h virt=kvm vm=w".to_owned(),
        "type=foo resrc=net".to_owned(),
    ] {
        let log = format!("first\n{line}\n\n{line}\n");
        let Batch { found, unreadable, unread, first_unread, .. } = scan(log.as_bytes());
        assert_eq!((found, unreadable), (Vec::new(), Vec::new()), "{line}");
        assert_eq!((unread, first_unread), (2, Some(1)), "{line}");
    }
}

#[test]
fn what_is_knowingly_passed_over_is_not_counted() {
    let mem =
        "pid=7 uid=0 msg='virt=kvm resrc=mem reason=start vm=\"w\" uuid=1 old-mem=0 new-mem=1 res=success'";
    for line in [
        format!("type=VIRT_RESOURCE msg=audit(1.000:1): {mem}"),
        format!("Nov 23 18:58:28 h audit[7]: VIRT_RESOURCE {mem}"),
        format!("Nov 23 18:58:28 h kernel: audit: type=2501 audit(1.000:1): {mem}"),
        "type=EXECVE msg=audit(1.000:1): argc=3 a0=\"ausearch\" a1=\"-m\" a2=\"VIRT_RESOURCE\"".to_owned(),
        "Nov 23 18:58:28 h audit[7]: EXECVE argc=3 a0=\"ausearch\" a1=\"-m\" a2=\"VIRT_RESOURCE\"".to_owned(),
        "Nov 23 18:58:28 h audispd: type=EXECVE msg=audit(1.000:1): argc=1 a0=\"VIRT_RESOURCE\"".to_owned(),
        "type=VIRT_MACHINE_ID msg=audit(1.000:1): pid=1 msg='virt=kvm vm=\"w\" uuid=1 res=success'".to_owned(),
        "2026-11-23 18:58:28.829+0000: 1: info : virDomainAuditMemory:1 : success=yes virt=kvm resrc=mem reason=start vm=\"w\" uuid=1 old-mem=0 new-mem=1".to_owned(),
        "{\"_TRANSPORT\":\"syslog\",\"_CMDLINE\":\"ausearch -m VIRT_RESOURCE\",\"MESSAGE\":\"hello\"}".to_owned(),
        "Nov 23 18:58:28 h sshd[1]: hello".to_owned(),
    ] {
        let Batch { found, unreadable, unread, .. } = scan(line.as_bytes());
        assert_eq!((found, unreadable, unread), (Vec::new(), Vec::new(), 0), "{line}");
    }
    assert!(
        all("docker-virt-control.log").iter().all(|found| matches!(found.content, Content::Foreign { .. }))
    );
}

#[test]
fn no_line_of_the_real_logs_is_unread() {
    for name in ["audit.log", "libvirtd.log"] {
        for (path, log) in super::logs(name) {
            let Batch { unreadable, unread, first_unread, .. } = scan(&log);
            assert_eq!((unreadable, unread, first_unread), (Vec::new(), 0, None), "{}", path.display());
        }
    }
}
