//! Malicious input.

use proptest::prelude::*;

use super::{exported, line};
use crate::shape::{Entries, Export, Unreadable, first_time};

const MEGABYTES: usize = 10 << 20;

fn read(bytes: &[u8]) {
    let _ = line(bytes);
    let _ = first_time(bytes);
}

// Shows 10.11.
#[test]
fn lines_of_ten_megabytes_are_read_to_their_end_at_most_once() {
    for (front, filler) in [
        ("type=VIRT_RESOURCE msg=audit(1.000:1): pid=1 msg='virt=kvm resrc=net vm=\"", "x"),
        ("type=VIRT_RESOURCE msg=audit(", "1"),
        ("type=VIRT_RESOURCE msg=audit(11/23/26 18:58:28.832:1) : pid=1 msg='", " uuid="),
        ("node=", "x"),
        ("audispd: node=", ": "),
        ("Nov 23 18:58:28 h audit[1]: VIRT_RESOURCE pid=1 msg='virt=kvm resrc=net vm=\"x\" ", "' "),
        ("Nov 23 18:58:28 h audispd: type=VIRT_RESOURCE msg=audit(1.000:1): ", "'#035A=\"\" "),
        ("Nov 23 18:58:28 h audispd: ", "'#035"),
        ("Nov 23 18:58:28 ", "["),
        ("2026-11-23 18:58:28.829+0000: 1: info : virDomainAuditX:1 : success=yes ", "virt=kvm "),
        ("2026-11-23 18:58:28.829+0000: 1: warning : virAuditSend:1 : Failed to send audit message ", "a: "),
        ("2026-11-23T18:58:28.", "1"),
        ("[    1.0", "0"),
        ("<1", "1"),
        ("{\"MESSAGE\":", "["),
        ("{\"x\":", "{\"x\":"),
        ("{\"MESSAGE\":[", "1,"),
        ("{\"MESSAGE\":\"", "\\u0000"),
        ("{\"_AUDIT_ID\":", "9"),
        ("[", " "),
        ("[    1.0][", "T1"),
        ("5,1,", "1"),
        ("", "é "),
        ("19 ", "mai "),
        ("Sep 19 18:16:45 ", "10.0.0.1 "),
        ("<1>1 2022-09-19T18:16:45Z h kernel - - ", "[a b=\"\\\"\"]"),
        ("type=VIRT_CONTROL msg=audit(", "年"),
        ("component=virt-launcher ", "a=\"\\\" \" "),
        ("component=virt-launcher ", "a=b "),
        ("a/", "b:"),
        ("{\"log\":\"", "{\\\""),
        ("{\"ID\":\"1.000:1\",\"VIRT_RESOURCE\":{\"vm\":\"", "x "),
        ("type=VIRT_RESOURCE msg=audit(1.000:1): pid=1 msg='resrc=net vm=\"x\": exe=", " (hostname=, ), "),
        (
            "2026-11-23 18:58:28.829+0000: 1: info : virDomainAuditX:1 : success=yes virt=kvm op=start vm=",
            " uuid=",
        ),
        ("", "\0"),
        ("", "{"),
    ] {
        let mut bytes = front.as_bytes().to_vec();
        while bytes.len() < MEGABYTES {
            bytes.extend_from_slice(filler.as_bytes());
        }
        read(&bytes);
        exported(&[b"__CURSOR=x\nMESSAGE=", &bytes[..MEGABYTES / 10], b"\n\n"].concat(), 1 << 16);
    }
}

#[test]
fn json_of_any_depth_and_kind_is_passed_over() {
    for value in [
        "[[[[\"x\"]]]]",
        "{\"a\":{}}",
        "1e999",
        "-1",
        "true",
        "[null]",
        "[256]",
        "[1.5]",
        "[[1],[2]]",
        "\"\\ud800\"",
    ] {
        for name in ["MESSAGE", "_TRANSPORT", "_AUDIT_ID", "__REALTIME_TIMESTAMP", "x"] {
            read(format!("{{\"{name}\":{value},\"_AUDIT_TYPE\":\"2501\"}}").as_bytes());
        }
    }
    let twice = "{\"_TRANSPORT\":\"audit\",\"_TRANSPORT\":\"audit\",\"MESSAGE\":\"VIRT_RESOURCE x\"}";
    assert_eq!(line(twice.as_bytes()), Ok(None), "a repeated field is not trusted");
    let torn = line(b"{\"_TRANSPORT\":\"audit\",");
    assert!(matches!(torn, Err(Unreadable::Json { .. })), "{torn:?}");
}

#[test]
fn a_hosts_crash_leaves_zeros_before_a_line_that_can_be_read() {
    let boot = b"\0\0\0type=SYSTEM_BOOT msg=audit(1.000:1): pid=1 msg=''\r\n";
    assert!(line(boot).unwrap().is_some());
}

#[test]
fn a_byte_order_mark_before_a_line_hides_nothing() {
    for text in
        ["type=SYSTEM_BOOT msg=audit(1.000:1): pid=1 msg=''", "Nov 23 18:58:28 h audit[1]: SYSTEM_BOOT pid=1"]
    {
        let marked = ["\u{feff}".as_bytes(), text.as_bytes()].concat();
        assert!(line(&marked).unwrap().is_some(), "{text}");
        assert_eq!(first_time(&marked), first_time(text.as_bytes()));
    }
}

fn export(entries: &[&[u8]]) -> Vec<(u64, Result<(), Unreadable>)> {
    let bytes = entries.concat();
    let parsed: Vec<_> =
        exported(&bytes, 3).into_iter().map(|(line, found)| (line, found.map(|_| ()))).collect();
    let whole: Vec<_> =
        exported(&bytes, 1 << 20).into_iter().map(|(line, found)| (line, found.map(|_| ()))).collect();
    assert_eq!(parsed, whole, "the pieces make no difference");
    parsed
}

const BOOT: &[u8] =
    b"__REALTIME_TIMESTAMP=1\n_TRANSPORT=audit\n_AUDIT_TYPE=1127\nMESSAGE=SYSTEM_BOOT pid=1 msg=''\n\n";

#[test]
fn a_broken_entry_of_an_export_costs_no_other() {
    assert_eq!(export(&[BOOT, BOOT]), [(1, Ok(())), (6, Ok(()))]);
    assert_eq!(export(&[b"\n\n\n", BOOT, b"-- No entries --\n"]), [(4, Ok(()))]);
    assert_eq!(export(&[b"what is this\nx\n\n", BOOT]), [(1, Err(Unreadable::Broken)), (4, Ok(()))]);
    let short = [&b"MESSAGE\n"[..], &2u64.to_le_bytes(), b"a\nbc\n\n"].concat();
    assert_eq!(export(&[&short, BOOT]), [(1, Err(Unreadable::Broken)), (5, Ok(()))]);
    let empty = [&b"MESSAGE\n"[..], &0u64.to_le_bytes(), b"\n\n"].concat();
    assert_eq!(export(&[&empty, BOOT]), [(4, Ok(()))]);
    let endless = [&b"MESSAGE\n"[..], &u64::MAX.to_le_bytes(), b"a\n\n"].concat();
    assert_eq!(export(&[BOOT, &endless, BOOT]), [(1, Ok(()))]);
    assert_eq!(export(&[BOOT, &BOOT[..BOOT.len() - 1]]), [(1, Ok(())), (6, Ok(()))], "without its end");
}

#[test]
fn an_export_keeps_no_more_than_a_record_can_have() {
    let mut export = Export::default();
    let mut emitted = 0;
    let mut push = |bytes: &[u8]| export.push(bytes, &mut |_, _| emitted += 1);
    for _ in 0..10 {
        push(b"MESSAGE=");
        push(&[b'x'; 10_000]);
        push(b"\n_HOSTNAME=");
        push(&[b'x'; 500_000]);
        push(b"\nMESSAGE\n");
        push(&[0, 0, 0, 1, 0, 0, 0, 0]);
        push(&vec![b'\n'; 1 << 24]);
        push(b"\n");
    }
    let size = format!("{export:?}").len();
    assert!(size < 200_000, "{size}");
    assert_eq!(emitted, 0);
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(front in 0..FRONTS.len(), rest in prop::collection::vec(any::<u8>(), 0..200), piece in 1..50_usize) {
        let bytes = [FRONTS[front].as_bytes(), &rest].concat();
        read(&bytes);
        exported(&bytes, piece);
        if Entries::begun_by(&bytes).is_some() {
            parsed(&bytes);
        }
    }

    #[test]
    fn no_text_causes_a_panic(front in 0..FRONTS.len(), words in prop::collection::vec(0..WORDS.len(), 0..20)) {
        let mut text = FRONTS[front].to_owned();
        text.extend(words.iter().map(|word| WORDS[*word]));
        read(text.as_bytes());
        exported(text.as_bytes(), 7);
        if Entries::begun_by(text.as_bytes()).is_some() {
            parsed(text.as_bytes());
        }
    }
}

const FRONTS: [&str; 36] = [
    "",
    "type=VIRT_RESOURCE msg=audit(1.000:1): ",
    "type=VIRT_CONTROL msg=audit(11/23/26 18:58:28.832:1) : ",
    "node=",
    "audispd: ",
    "Nov 23 18:58:28 h audit[1]: ",
    "Nov 23 18:58:28 h kernel: ",
    "Nov 23 18:58:28 h libvirtd[1]: ",
    "2026-11-23 18:58:28.829+0000: 1: info : virDomainAuditX:1 : ",
    "{\"_TRANSPORT\":\"audit\",\"_AUDIT_TYPE\":\"2501\",\"__REALTIME_TIMESTAMP\":\"1\",\"MESSAGE\":",
    "__REALTIME_TIMESTAMP=1\n_TRANSPORT=audit\n_AUDIT_TYPE=2501\nMESSAGE=",
    "__REALTIME_TIMESTAMP=1\nMESSAGE\n",
    "[    1.0][  T1] audit: ",
    "[Mon Sep 19 18:16:45 2022 <    0.000012>] ",
    "[Sep19 18:16] ",
    "<5>[1.0] ",
    "kern  :notice: [    1.0] ",
    "5,1,2,-;audit: ",
    "2022-09-19T18:16:45,645184+00:00 audit: ",
    "2022-09-19T18:16:45Z stdout F ",
    "{\"log\":\"",
    "{\"line\":\"x\",\"labels\":{},\"timestamp\":\"",
    "{\"ID\":\"1.000:1\",\"VIRT_RESOURCE\":{\"vm\":\"",
    "{\"sequence\":1,\"timestamp\":\"1.000\",\"messages\":[{\"type\":2501,\"data\":\"",
    "{\"@timestamp\":\"2022-09-19T18:16:45Z\",\"auditd\":{\"message_type\":\"virt_resource\",\"data\":{\"vm\":\"",
    "component=virt-launcher subcomponent=libvirt pos=virAuditSend:1 msg=\"",
    "audit.log:17:",
    " 9月 19 18:16:45 h kernel: audit: ",
    "19 sept. 18:16:45 10.0.0.1 h audit[1]: ",
    "type=VIRT_CONTROL msg=audit(2022年09月19日 18:16:45) : pid=1 ",
    "type=VIRT_CONTROL msg=audit(۲۲/۰۹/۱۹ (",
    "type=CONFIG_CHANGE msg=audit(1.000:1): op=set audit_enabled=",
    "-- Boot ",
    "{\n\"_TRANSPORT\":\"audit\",\n",
    "Mon 2026-11-23 18:58:28 UTC [s=1;t=1]\n    ",
    "<1>1 2022-09-19T18:16:45Z h kernel - - [a b=\"",
];

const WORDS: [&str; 24] = [
    "type=VIRT_RESOURCE ",
    "msg=audit(1.000:1): ",
    "pid=1 ",
    "msg='",
    "virt=kvm ",
    "resrc=net ",
    "reason=open ",
    "vm=\"x\" ",
    "vm=41 ",
    "uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e ",
    "net=52:54:00:00:00:01 ",
    "path=\"/dev/net/tun\" ",
    "rdev=0A:C8 ",
    "res=success",
    "'",
    "\"",
    "}",
    ",",
    "\n",
    "\0",
    "#035A=\"x\"",
    "VIRT_CONTROL ",
    "success=yes ",
    "Failed to send audit message ",
];

fn parsed(bytes: &[u8]) -> Vec<(u64, Result<taptrail_trail::Content, Unreadable>)> {
    let read = |piece: usize| {
        let mut entries = Entries::begun_by(bytes).unwrap();
        let mut parsed = Vec::new();
        for piece in bytes.chunks(piece) {
            entries.push(piece, &mut |line, found| parsed.push((line, found.map(|found| found.content))));
        }
        entries.finish(&mut |line, found| parsed.push((line, found.map(|found| found.content))));
        parsed
    };
    let parsed = read(3);
    assert_eq!(parsed, read(1 << 20), "the pieces make no difference");
    parsed
}

#[test]
fn what_a_message_has_behind_a_newline_is_no_field() {
    let head = "Mon 2026-11-23 18:58:28.000000 UTC [s=1f;i=2;b=3;m=4;t=641c1d5a4b000;x=5]\n";
    let boot =
        format!("{head}    _TRANSPORT=audit\n    _AUDIT_TYPE=1127\n    MESSAGE=SYSTEM_BOOT pid=1 msg=''\n");
    let forged = format!(
        "{head}    _TRANSPORT=syslog\n    _COMM=logger\n    MESSAGE=a\n            _TRANSPORT=audit\n            \
         MESSAGE=SYSTEM_BOOT pid=1 msg=''\n"
    );
    let twice = format!("{boot}    _TRANSPORT=audit\n");
    let log = format!("{forged}{twice}{boot}-- No entries --\n");
    assert_eq!(parsed(log.as_bytes()), [(12, Ok(taptrail_trail::Content::Boot))]);
}

#[test]
fn a_broken_object_of_several_lines_costs_no_other() {
    let boot = "{\n\t\"_TRANSPORT\" : \"audit\",\n\t\"_AUDIT_TYPE\" : \"1127\",\n\t\"__REALTIME_TIMESTAMP\" : \"1\",\n\
                \t\"MESSAGE\" : \"SYSTEM_BOOT pid=1 msg=''\"\n}\n";
    let broken = "{\n\t\"MESSAGE\" : \"VIRT_CONTROL\n}\n";
    let other = "{\n\t\"x\" : {\n\t}\n}\nwhat is this\nVIRT_CONTROL\n\n";
    let log = format!("{broken}{boot}{other}{}", &boot[..boot.len() - 2]);
    let boots: Vec<_> = parsed(log.as_bytes());
    assert_eq!(boots.len(), 3, "{boots:?}");
    assert!(matches!(boots[0], (1, Err(Unreadable::Json { .. }))));
    assert_eq!(boots[1], (4, Ok(taptrail_trail::Content::Boot)));
    assert_eq!(boots[2], (15, Err(Unreadable::Unknown)), "{boots:?}");
    let long = format!("{{\n{}\n}}\n{boot}", "\t\"x\" : 1,\n".repeat(200_000));
    let long = parsed(long.as_bytes());
    assert!(matches!(long[..], [(1, Err(Unreadable::TooLong { .. })), (_, Ok(_))]), "{long:?}");
}
