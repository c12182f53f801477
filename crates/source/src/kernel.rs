//! Joins the kernel's own records of an open(2): two lines of one event.

use bstr::ByteSlice as _;
use memchr::{memchr, memmem, memrchr};
use taptrail_record::{KernelOpen, Line, PathRecord, Syscall};
use taptrail_trail::Content;

use crate::parsed_line::ParsedLine;
use crate::shape;

/// How many bytes before and after a `PATH` record its `SYSCALL` record is searched, within the
/// available bytes.
const SEARCH_BYTES: usize = 128 * 1024;

/// The open of the `PATH` record in the line `bytes[start..end]`. The kernel writes the `SYSCALL`
/// record before it, with records of other events between; programs that relay them may change the
/// order. With `keep_text`, both lines are kept, in their order.
pub(crate) fn open(bytes: &[u8], start: usize, end: usize, keep_text: bool) -> Option<ParsedLine> {
    let this = shape::embedded_record(&bytes[start..end])?;
    let line = Line::parse(this.line).ok()?;
    let path = PathRecord::of(&line)?;
    let stamp = stamp(this.line)?;
    let find = |other: &[u8]| {
        let other = shape::embedded_record(other)?;
        let parsed = Line::parse(other.line).ok()?;
        let is_same = parsed.stamp == line.stamp
            && parsed.node == line.node
            && (other.program, other.host) == (this.program, this.host);
        let syscall = Syscall::of(&parsed).filter(|_| is_same)?;
        KernelOpen::join(&syscall, &path)
    };

    let before = &bytes[start.saturating_sub(SEARCH_BYTES)..start];
    let mut until = before.len();
    let mut open = None;
    let (mut first, mut second) = (&b""[..], &bytes[start..end]);
    while open.is_none()
        && let Some(at) = memmem::rfind(&before[..until], stamp)
    {
        let (begin, end) = around(before, at);
        first = &before[begin..end];
        open = find(first);
        until = begin;
    }
    let end_of_path = end;
    let behind = &bytes[end..bytes.len().min(end.saturating_add(SEARCH_BYTES))];
    let mut from = 0;
    while open.is_none()
        && let Some(at) = memmem::find(&behind[from..], stamp)
    {
        let (begin, end) = around(behind, from + at);
        (first, second) = (&bytes[start..end_of_path], &behind[begin..end]);
        open = find(second);
        from = end;
    }
    let host = line.node.map(|node| node.to_str_lossy().into());
    let found = ParsedLine {
        serial: Some(line.stamp.serial),
        host: host.or_else(|| shape::host(this.host)),
        is_unauthenticated: this.is_unauthenticated,
        ..ParsedLine::new(shape::first_time(this.line)?, this.program, Content::KernelOpen(open?))
    };
    Some(if keep_text { found.with_text(&[first, b"\n", second].concat()) } else { found })
}

/// Start and end of the line around an offset.
fn around(bytes: &[u8], at: usize) -> (usize, usize) {
    let begin = memrchr(b'\n', &bytes[..at]).map_or(0, |newline| newline + 1);
    let end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |newline| at + newline);
    (begin, end)
}

/// `audit(1795459763.120:1918)` of a line.
fn stamp(line: &[u8]) -> Option<&[u8]> {
    let at = memmem::find(line, b"audit(")?;
    let end = memchr(b')', &line[at..])?;
    Some(&line[at..=at + end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parsed_line::LogProgram;

    const LOG: &[u8] =
        include_bytes!("../../../tests/data/libvirt/libvirt-9.0-kernel-rules/02-macvtap/audit.log");

    #[test]
    fn a_path_is_put_together_with_its_system_call() {
        let start = memmem::find(LOG, b"type=PATH").unwrap();
        let end = start + memchr(b'\n', &LOG[start..]).unwrap();
        let found = open(LOG, start, end, false).unwrap();
        assert_eq!(found.serial, Some(1918));
        let Content::KernelOpen(open) = found.content else { panic!("{found:?}") };
        assert_eq!((open.pid, open.fd, open.device.path.as_str()), (23941, Some(30), "/dev/tap198"));
        assert_eq!(super::open(&LOG[start..=end], 0, end - start, false), None, "no system call beside it");
    }

    const SYSCALL: &str = "audit(1.000:1): arch=c000003e syscall=257 success=yes exit=3 a2=2 ppid=1 pid=7 \
                           exe=\"/usr/sbin/libvirtd\"\n";
    const PATH: &str =
        "audit(1.000:1): item=0 name=\"/dev/net/tun\" mode=020666 rdev=0a:c8 nametype=NORMAL\n";

    fn found(log: &str) -> Option<ParsedLine> {
        let start = log.find("PATH").or_else(|| log.find("1302")).unwrap();
        let start = log[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let end = start + log[start..].find('\n').unwrap();
        open(log.as_bytes(), start, end, false)
    }

    /// As Linux 6.18 logged them with the packaged rules.
    #[test]
    fn other_ways_to_open_are_put_together_too() {
        let by_uring = concat!(
            "type=URINGOP msg=audit(1795942765.125:60215): uring_op=18 success=yes exit=0 items=1 ppid=4950 pid=5045 uid=0 ",
            "gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 key=\"taptrail\"\n",
        );
        let enter = concat!(
            "type=SYSCALL msg=audit(1795942765.125:60215): arch=c000003e syscall=426 success=yes exit=1 a0=3 a1=1 a2=1 ",
            "a3=1 items=1 ppid=4950 pid=5045 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 ",
            "tty=(none) ses=4294967295 comm=\"opens\" exe=\"/tmp/opens\" key=\"taptrail\"\n",
        );
        let path = concat!(
            "type=CWD msg=audit(1795942765.125:60215): cwd=\"/root\"\n",
            "type=PATH msg=audit(1795942765.125:60215): item=0 name=\"/dev/net/tun\" inode=105 dev=00:06 mode=020600 ",
            "ouid=0 ogid=0 rdev=0a:c8 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0\n",
        );
        let opened = |log: &str| match found(log)?.content {
            Content::KernelOpen(open) => {
                Some((open.pid, open.exe.to_string(), open.fd, open.errno, open.device.path))
            }
            other => panic!("{other:?}"),
        };
        let expect = |exe: &str| Some((5045, exe.to_owned(), None, None, "/dev/net/tun".into()));
        // By the system call that submitted it, with or without the operation's own record; by a
        // kernel thread.
        assert_eq!(opened(&format!("{by_uring}{enter}{path}")), expect("/tmp/opens"));
        assert_eq!(opened(&format!("{enter}{path}")), expect("/tmp/opens"));
        assert_eq!(opened(&format!("{by_uring}{path}")), expect(""));
        let by_handle = enter.replace("syscall=426", "syscall=304").replace("exit=1", "exit=4");
        let unnamed = path.replace("\"/dev/net/tun\"", "\"\"");
        let open = opened(&format!("{by_handle}{unnamed}"));
        assert_eq!(open, Some((5045, "/tmp/opens".to_owned(), Some(4), None, "".into())));
        let in_32_bits = by_handle.replace("c000003e syscall=304", "40000003 syscall=5");
        assert_eq!(opened(&format!("{in_32_bits}{path}")).map(|open| open.2), Some(Some(4)));
    }

    #[test]
    fn the_system_call_may_stand_behind_its_path_or_far_before_it() {
        let (syscall, path) = (format!("type=SYSCALL msg={SYSCALL}"), format!("type=PATH msg={PATH}"));
        assert!(found(&format!("{path}{syscall}")).is_some());
        let others = "type=CWD msg=audit(1.000:2): cwd=/\n".repeat(2000);
        assert!(found(&format!("{syscall}{others}{path}")).is_some());
        assert!(found(&format!("{path}{others}{syscall}")).is_some());
        assert_eq!(found(&format!("{path}{others}")), None);
        assert_eq!(found(&format!("{path}node=h {syscall}")), None);
    }

    #[test]
    fn syslog_and_the_kernels_log_have_them_too() {
        for (syscall, path, program, host) in [
            (
                "Nov 23 18:58:28 h1 kernel: audit: type=1300 ",
                "Nov 23 18:58:28 h1 kernel: audit: type=1302 ",
                LogProgram::Kernel,
                Some("h1"),
            ),
            ("[    1.0] audit: type=1300 ", "[    1.0] audit: type=1302 ", LogProgram::Kernel, None),
            (
                "Nov 23 18:58:28 h1 audisp-syslog[2]: type=SYSCALL msg=",
                "Nov 23 18:58:28 h1 audisp-syslog[2]: type=PATH msg=",
                LogProgram::Dispatcher,
                Some("h1"),
            ),
        ] {
            let found = found(&format!("{syscall}{SYSCALL}{path}{PATH}")).unwrap();
            assert_eq!((found.program, found.host.as_deref(), found.serial), (program, host, Some(1)));
            let Content::KernelOpen(open) = found.content else { panic!("{found:?}") };
            assert_eq!((open.pid, open.device.path.as_str()), (7, "/dev/net/tun"));
        }
        let mixed = format!(
            "Nov 23 18:58:28 h1 kernel: audit: type=1300 {SYSCALL}Nov 23 18:58:28 h2 kernel: audit: type=1302 {PATH}"
        );
        assert_eq!(found(&mixed), None, "from another host");
        let logger = format!(
            "Nov 23 18:58:28 h1 logger: type=SYSCALL msg={SYSCALL}Nov 23 18:58:28 h1 logger: type=PATH msg={PATH}"
        );
        assert_eq!(found(&logger), None, "from another program");
    }
}
