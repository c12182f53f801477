//! Every shape of the same events gives the same content.

use std::process::{Command, Stdio};

use bstr::ByteSlice as _;
use jiff::{Timestamp, ToSpan as _};
use taptrail_trail::Content;

use super::{exported, lines, logs, moment, parsed, same_trail, shown};
use crate::parsed_line::ParsedLine;
use crate::shape::{Entries, first_time};

/// A record of an audit log, split for conversion to another shape.
struct Parts<'a> {
    record_type: &'a str,
    number: u16,
    time: Timestamp,
    serial: &'a str,
    /// From `pid=` to the closing quote.
    body: &'a [u8],
    pid: &'a str,
    /// libvirt's own text, without the pairs that libaudit adds.
    text: &'a [u8],
    outcome: &'a str,
    /// The names that auditd resolved.
    names: &'a [u8],
}

fn parts(line: &[u8]) -> Option<Parts<'_>> {
    let (record, names) = line.split_once_str(b"\x1d").unwrap_or((line, b""));
    let (head, body) = record.split_once_str(b"): ")?;
    let (record_type, stamp) = head.strip_prefix(b"type=")?.split_once_str(b" msg=audit(")?;
    let number = match record_type {
        b"VIRT_CONTROL" => 2500,
        b"VIRT_RESOURCE" => 2501,
        b"VIRT_MACHINE_ID" => 2502,
        _ => return None,
    };
    let (time, serial) = stamp.to_str().ok()?.split_once(':')?;
    let (seconds, millis) = time.split_once('.')?;
    let (head, text) = body.split_once_str(b" msg='")?;
    let (text, added) = text.rsplit_once_str(b" exe=\"")?;
    let outcome = added.rsplit_once_str(b" res=")?.1.strip_suffix(b"'")?;
    Some(Parts {
        record_type: record_type.to_str().ok()?,
        number,
        time: Timestamp::from_millisecond(format!("{seconds}{millis}").parse().ok()?).ok()?,
        serial,
        body,
        pid: head.strip_prefix(b"pid=")?.split_once_str(b" ")?.0.to_str().ok()?,
        text,
        outcome: outcome.to_str().ok()?,
        names,
    })
}

fn convert(log: &[u8], write: impl Fn(&Parts<'_>, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines(log) {
        if let Some(parts) = parts(line) {
            write(&parts, &mut out);
        }
    }
    out
}

/// What a shape keeps besides the record itself.
#[derive(Clone, Copy)]
struct Keeps {
    serial: bool,
    writer: bool,
    host: bool,
    /// Resolution of times, in microseconds.
    resolution: i64,
}

const ALL: Keeps = Keeps { serial: true, writer: true, host: true, resolution: 1 };

fn reduced(found: &ParsedLine, keeps: Keeps) -> (Content, Option<u32>, Option<u32>, Option<&str>, i64) {
    let time = moment(found.when).as_microsecond() / keeps.resolution;
    let host = keeps.host.then_some("host1");
    let serial = found.serial.filter(|_| keeps.serial);
    let writer = found.writer.filter(|_| keeps.writer);
    (found.content.clone(), serial, writer, host, time)
}

fn compare(shape: &str, path: &std::path::Path, raw: &[ParsedLine], other: &[ParsedLine], keeps: Keeps) {
    let expect: Vec<_> = raw.iter().map(|found| reduced(found, keeps)).collect();
    let got: Vec<_> = other
        .iter()
        .map(|found| {
            let time = moment(found.when).as_microsecond() / keeps.resolution;
            (found.content.clone(), found.serial, found.writer, found.host.as_deref(), time)
        })
        .collect();
    assert_eq!(expect.len(), got.len(), "{shape}: {}", path.display());
    for (expect, got) in expect.iter().zip(&got) {
        assert_eq!(expect, got, "{shape}: {}", path.display());
    }
}

/// Compares every log with itself in another line-based shape.
fn same(shape: &str, keeps: Keeps, write: impl Fn(&Parts<'_>, &mut Vec<u8>)) {
    for (path, log) in logs("audit.log") {
        let text = convert(&log, &write);
        let raw = parsed(&log);
        assert!(!raw.is_empty() || path.ends_with("02b-macvtap-fail/audit.log"), "{}", path.display());
        compare(shape, &path, &raw, &parsed(&text), keeps);
        for line in lines(&text) {
            assert!(first_time(line).is_some(), "{shape}: {}", shown(line));
        }
        same_trail::check(shape, &path, &text, keeps.serial);
    }
}

fn put(out: &mut Vec<u8>, head: String, body: &[u8]) {
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
    out.push(b'\n');
}

fn raw_line(of: &Parts<'_>) -> Vec<u8> {
    let millis = of.time.as_millisecond();
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let head = format!("type={} msg=audit({seconds}.{millis:03}:{}): ", of.record_type, of.serial);
    [head.as_bytes(), of.body].concat()
}

#[test]
fn a_node_or_a_dispatcher_before_the_line_changes_nothing() {
    same("node", ALL, |of, out| put(out, "node=host1 ".to_owned(), &raw_line(of)));
    same("audispd", Keeps { host: false, ..ALL }, |of, out| put(out, "audispd: ".to_owned(), &raw_line(of)));
    same("audispd and node", ALL, |of, out| put(out, "audispd: node=host1 ".to_owned(), &raw_line(of)));
}

#[test]
fn syslog_with_whole_records_keeps_all() {
    same("syslog", ALL, |of, out| {
        let head = of.time.strftime("%b %e %T host1 audispd: ").to_string();
        put(out, head, &[&raw_line(of), b"#035".as_slice(), of.names].concat());
    });
    same("the kernel's", ALL, |of, out| {
        let head = of.time.strftime("<13>%b %e %T host1 kernel: [  123.456789] audit: ").to_string();
        let record =
            raw_line(of).replace(format!("type={} msg=", of.record_type), format!("type={} ", of.number));
        put(out, head, &record);
    });
    same("dmesg", Keeps { host: false, ..ALL }, |of, out| {
        let record =
            raw_line(of).replace(format!("type={} msg=", of.record_type), format!("type={} ", of.number));
        put(out, "[  123.456789] audit: ".to_owned(), &record);
    });
}

#[test]
fn a_journals_text_keeps_all_but_the_serial_and_some_of_the_time() {
    let exact = Keeps { serial: false, ..ALL };
    let seconds = Keeps { resolution: 1_000_000, ..exact };
    for (format, keeps) in [
        ("%b %e %T", seconds),
        ("%b %d %T%.6f", exact),
        ("%FT%T+0000", seconds),
        ("%FT%T%.6f+00:00", exact),
        ("%a %F %T UTC", seconds),
        ("%a %F %T%.6f UTC", exact),
    ] {
        same(format, keeps, |of, out| {
            let time = of.time.strftime(format);
            put(out, format!("{time} host1 audit[{}]: {} ", of.pid, of.record_type), of.body);
        });
    }
    same("short-unix", exact, |of, out| {
        let (seconds, micros) = (of.time.as_second(), of.time.subsec_microsecond());
        put(out, format!("{seconds}.{micros:06} host1 audit[{}]: {} ", of.pid, of.record_type), of.body);
    });
    same("RFC 5424", exact, |of, out| {
        put(out, format!("<101>1 {} host1 audit {} - - AUDIT{} ", of.time, of.pid, of.number), of.body);
    });
}

// Shows 10.3.
#[test]
fn a_journals_json_keeps_all() {
    let object = |of: &Parts<'_>, message: serde_json::Value| {
        serde_json::json!({
            "__REALTIME_TIMESTAMP": (of.time + 1234.microseconds()).as_microsecond().to_string(),
            "_SOURCE_REALTIME_TIMESTAMP": of.time.as_microsecond().to_string(),
            "_TRANSPORT": "audit", "_AUDIT_TYPE": of.number.to_string(), "_AUDIT_ID": of.serial,
            "_AUDIT_TYPE_NAME": of.record_type, "_PID": of.pid, "_HOSTNAME": "host1", "MESSAGE": message,
        })
    };
    let message = |of: &Parts<'_>| [of.record_type.as_bytes(), b" ", of.body].concat();
    same("json", ALL, |of, out| {
        put(out, String::new(), object(of, message(of).to_str().unwrap().into()).to_string().as_bytes());
    });
    same("json-seq", ALL, |of, out| {
        put(out, "\x1e".to_owned(), object(of, message(of).into()).to_string().as_bytes());
    });
}

#[test]
fn what_other_tools_make_of_records_keeps_all() {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let stamp = |of: &Parts<'_>| {
        let millis = of.time.as_millisecond();
        format!("{}.{:03}", millis / 1000, millis % 1000)
    };
    let unnamed = Keeps { host: false, ..ALL };
    same("go-audit", unnamed, |of, out| {
        let object = serde_json::json!({
            "sequence": of.serial.parse::<u32>().unwrap(), "timestamp": stamp(of),
            "messages": [{"type": of.number, "data": text(of.body)}], "uid_map": {"0": "root"},
        });
        put(out, object.to_string(), b"");
    });
    same("laurel", ALL, |of, out| {
        let mut fields = fields(of);
        fields.insert("res".to_owned(), of.outcome.into());
        let object = serde_json::json!({
            "ID": format!("{}:{}", stamp(of), of.serial), "NODE": "host1", of.record_type: fields,
        });
        put(out, object.to_string(), b"");
    });
    same("auditbeat", ALL, |of, out| {
        let result = if of.outcome == "success" { "success" } else { "fail" };
        let object = serde_json::json!({
            "@timestamp": of.time.to_string(), "host": {"name": "host1"}, "process": {"pid": of.pid},
            "auditd": {
                "sequence": of.serial.parse::<u32>().unwrap(), "result": result,
                "message_type": of.record_type.to_lowercase(), "data": fields(of),
            },
        });
        put(out, object.to_string(), b"");
    });
    same("CRI", unnamed, |of, out| put(out, format!("{} stdout F ", of.time), &raw_line(of)));
    same("Docker", unnamed, |of, out| {
        let log = text(&[&raw_line(of), b"\n".as_slice()].concat());
        let object = serde_json::json!({"log": log, "stream": "stdout", "time": of.time.to_string()});
        put(out, object.to_string(), b"");
    });
    same("grep", unnamed, |of, out| put(out, "./log/audit.log.1:17:".to_owned(), &raw_line(of)));
}

/// A record's pairs, decoded.
fn fields(of: &Parts<'_>) -> serde_json::Map<String, serde_json::Value> {
    let mut fields = serde_json::Map::new();
    for pair in of.text.split_str(b" ") {
        let Some((key, value)) = pair.split_once_str(b"=") else { continue };
        let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
        let is_string = matches!(&*key, "vm" | "path");
        let value = match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
            Some(value) => value.to_owned(),
            None if is_string => {
                let digits = value.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
                let bytes: Vec<_> = digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
                String::from_utf8(bytes).unwrap()
            }
            None => value.into_owned(),
        };
        fields.insert(key.into_owned(), value.into());
    }
    let pid: u32 = of.pid.parse().unwrap();
    fields.insert("pid".to_owned(), pid.into());
    fields
}

#[test]
fn every_form_of_the_kernels_log_keeps_all_but_the_host() {
    let keeps = Keeps { host: false, ..ALL };
    let kernels = |of: &Parts<'_>| {
        raw_line(of).replace(format!("type={} msg=", of.record_type), format!("type={} ", of.number))
    };
    for front in [
        "[   71.6][  T123] ",
        "[Mon Sep 19 18:16:45 2022] ",
        "[Sep19 18:16] ",
        "[  +0.000000] ",
        "<5>[71.692026] ",
        "kern  :notice: [   71.6] ",
        "5,1234,71692026,-;",
        "2022-09-19T18:16:45,645184+00:00 ",
        "[console] [   71.6] ",
        "",
    ] {
        same(front, keeps, |of, out| put(out, format!("{front}audit: "), &kernels(of)));
    }
    for (front, host) in [
        ("%b %e %T 127.0.0.1 host1 kernel: [68883272.061562] ", true),
        ("kern.notice %b %e %T host1 kernel: ", true),
        ("%a %b %e %T %Y kern.notice kernel: [    1.0] ", false),
        ("<5>1 %FT%TZ host1 kernel - - [x@1 a=\"b \\\"] c\"][y] ", true),
        ("%d mai %T host1 kernel: ", true),
    ] {
        same(front, Keeps { host, ..keeps }, |of, out| {
            put(out, format!("{}audit: ", of.time.strftime(front)), &kernels(of));
        });
    }
}

#[test]
fn what_audisp_syslog_interprets_keeps_whole_seconds() {
    let keeps = Keeps { serial: false, resolution: 1_000_000, ..ALL };
    for format in ["%m/%d/%y", "%d.%m.%Y", "%Y年%m月%d日", "%Y-%m-%d"] {
        same(format, keeps, |of, out| {
            let fields = fields(of);
            // In the record's order.
            let words = of.text.split_str(b" ").filter_map(|pair| {
                let key = String::from_utf8_lossy(pair.split_once_str(b"=")?.0).into_owned();
                Some(format!("{key}={} ", fields.get(&key)?.as_str().unwrap()))
            });
            let time = of.time.strftime(format!("{format} %T").as_str()).to_string();
            let syslog = of.time.strftime("%b %e %T host1 audisp-syslog[812]: ");
            let text: String = words.collect();
            let line = format!(
                "{syslog}type={} msg=audit({time}) : pid={} uid=root auid=unset ses=unset subj=libvirtd (enforce) {text}\
                 exe=/usr/sbin/libvirtd hostname=? addr=? terminal=? res={} ",
                of.record_type, of.pid, of.outcome
            );
            put(out, line, b"");
        });
    }
}

#[test]
fn the_ends_that_libaudit_wrote_long_ago_change_nothing() {
    let unnamed = Keeps { host: false, ..ALL };
    for (open, close) in
        [("hostname=?, addr=?, terminal=? res=", ")"), ("hostname=? addr=? terminal=? res=", "")]
    {
        same(open, unnamed, |of, out| {
            let head = String::from_utf8_lossy(&raw_line(of)).replace("): pid=", "): user pid=");
            let (head, _) = head.rsplit_once(" exe=").unwrap();
            let bracket = if close.is_empty() { "" } else { "(" };
            put(
                out,
                format!("{head}: exe=\"/usr/sbin/libvirtd\" {bracket}{open}{}{close}'", of.outcome),
                b"",
            );
        });
    }
}

// Shows 10.3.
#[test]
fn a_journals_export_keeps_all_in_pieces_of_any_size() {
    for (path, log) in logs("audit.log") {
        let export = convert(&log, |of, out| {
            let message = [of.record_type.as_bytes(), b" ", of.body].concat();
            let time = of.time.as_microsecond();
            let fields = [
                format!("__CURSOR=s=1;t={time:x}\n__REALTIME_TIMESTAMP={time}\n_TRANSPORT=audit\n"),
                format!("_AUDIT_TYPE={}\n_AUDIT_ID={}\n_HOSTNAME=host1\n", of.number, of.serial),
            ];
            let size = (message.len() as u64).to_le_bytes();
            out.extend_from_slice(
                &[fields.concat().as_bytes(), b"MESSAGE\n", &size, &message, b"\n\n"].concat(),
            );
        });
        for piece in [1, 7, 4096, 1 << 20] {
            let found = exported(&export, piece);
            for (line, _) in &found {
                let begin = export.split(|&byte| byte == b'\n').nth(usize::try_from(line - 1).unwrap());
                assert!(begin.unwrap().starts_with(b"__CURSOR="), "{line}");
            }
            let found: Vec<_> = found.into_iter().map(|(_, found)| found.unwrap()).collect();
            compare("export", &path, &parsed(&log), &found, ALL);
        }
    }
}

#[test]
fn libvirts_own_log_keeps_the_record_and_its_time() {
    let keeps = Keeps { serial: false, writer: false, host: false, ..ALL };
    let outcome = |of: &Parts<'_>| if of.outcome == "success" { "yes" } else { "no" };
    same("libvirtd.log", keeps, |of, out| {
        let time = of.time.strftime("%F %T%.3f+0000");
        let head = format!("{time}: 26269: info : virDomainAuditNetDevice:318 : success={} ", outcome(of));
        put(out, head, of.text);
    });
    same("libvirtd in syslog", Keeps { writer: true, host: true, ..keeps }, |of, out| {
        let time = of.time.strftime("%FT%T%.6fZ");
        put(out, format!("{time} host1 libvirtd[{}]: success={} ", of.pid, outcome(of)), of.text);
    });
}

// Shows 10.3.
#[test]
fn what_ausearch_makes_of_a_log_keeps_all() {
    for (path, log) in logs("audit.log") {
        for format in ["-i", "--raw"] {
            let ausearch = Command::new("/usr/sbin/ausearch")
                .args([format, "-if"])
                .arg(&path)
                .envs([("TZ", "UTC"), ("LC_ALL", "C")])
                .stdin(Stdio::null())
                .output()
                .expect("ausearch, of the package auditd");
            let mut found = parsed(&ausearch.stdout);
            // ausearch prints events of one time in another order.
            found.sort_by_key(|found| (moment(found.when), found.serial));
            compare(format, &path, &parsed(&log), &found, Keeps { host: false, ..ALL });
        }
    }
}

// Shows 10.3.
#[test]
fn the_real_libvirtds_own_log_has_the_records_of_the_audit_log() {
    let mut compared = 0;
    for (path, log) in logs("libvirtd.log") {
        let own = parsed(&log);
        let audit = parsed(&std::fs::read(path.with_file_name("audit.log")).unwrap());
        let sorted = |found: &[ParsedLine]| {
            let mut parsed: Vec<_> = found.iter().map(|found| format!("{:?}", found.content)).collect();
            parsed.sort();
            parsed
        };
        assert_eq!(sorted(&own), sorted(&audit), "{}", path.display());
        compared += own.len();
    }
    assert!(compared > 300, "{compared}");
}

/// Parses multi-line entries in pieces of this size, and checks the text of each.
fn entries(bytes: &[u8], piece: usize) -> Vec<(u64, ParsedLine)> {
    let mut entries = Entries::begun_by(bytes).unwrap();
    entries.keep_text();
    let mut parsed = Vec::new();
    for piece in bytes.chunks(piece) {
        entries.push(piece, &mut |line, found| parsed.push((line, found.unwrap())));
    }
    assert_eq!(entries.lines(), bytes.iter().filter(|byte| **byte == b'\n').count() as u64);
    entries.finish(&mut |line, found| parsed.push((line, found.unwrap())));
    let mut begins = vec![0];
    begins.extend(memchr::memchr_iter(b'\n', bytes).map(|newline| newline + 1));
    for (line, found) in &mut parsed {
        let text = found.text.take().unwrap();
        let begin = begins[usize::try_from(*line).unwrap() - 1];
        assert!(bytes[begin..].starts_with(&text), "{line}: {}", String::from_utf8_lossy(&text));
        // It is the whole entry, and nothing else.
        let mut alone = Entries::begun_by(&text).unwrap();
        let mut again = Vec::new();
        alone.push(&text, &mut |line, found| again.push((line, found.unwrap())));
        alone.finish(&mut |line, found| again.push((line, found.unwrap())));
        assert_eq!(again, [(1, found.clone())]);
    }
    parsed
}

/// Compares every log with itself in a shape with multi-line entries, whose first lines begin with
/// `first`.
fn same_entries(shape: &str, first: &[u8], write: impl Fn(&Parts<'_>, &mut Vec<u8>)) {
    for (path, log) in logs("audit.log") {
        let text = convert(&log, &write);
        if text.is_empty() {
            continue;
        }
        for piece in [7, 4096, 1 << 20] {
            let parsed = entries(&text, piece);
            for (line, _) in &parsed {
                let begin =
                    text.split(|&byte| byte == b'\n').nth(usize::try_from(line - 1).unwrap()).unwrap();
                assert!(begin.starts_with(first), "{shape}: {line}");
            }
            let found: Vec<_> = parsed.into_iter().map(|(_, found)| found).collect();
            compare(shape, &path, &super::parsed(&log), &found, ALL);
        }
    }
}

#[test]
fn a_journals_entries_of_several_lines_keep_all() {
    same_entries("json-pretty", b"{", |of, out| {
        let message = [of.record_type.as_bytes(), b" ", of.body].concat();
        let object = serde_json::json!({
            "__REALTIME_TIMESTAMP": of.time.as_microsecond().to_string(), "_TRANSPORT": "audit",
            "_AUDIT_TYPE": of.number.to_string(), "_AUDIT_ID": of.serial, "_PID": of.pid, "_HOSTNAME": "host1",
            "MESSAGE": String::from_utf8(message).unwrap(),
        });
        put(out, serde_json::to_string_pretty(&object).unwrap(), b"");
    });
    same_entries("verbose", b"Mon 2026-11", |of, out| {
        let time = of.time.as_microsecond();
        let head = of.time.strftime("Mon %F %T%.6f UTC").to_string();
        let message = [of.record_type.as_bytes(), b" ", of.body].concat();
        put(out, format!("{head} [s=1f;i=2;b=3;m=4;t={time:x};x=5]"), b"");
        put(
            out,
            format!("    _TRANSPORT=audit\n    _AUDIT_TYPE={}\n    _AUDIT_ID={}", of.number, of.serial),
            b"",
        );
        put(out, format!("    _HOSTNAME=host1\n    _PID={}\n    MESSAGE=", of.pid), &message);
    });
}
