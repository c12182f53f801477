//! auditd's log read line by line: just enough of it for the logs in `tests/data/libvirt`.

use std::path::Path;

use jiff::Timestamp;
use taptrail_record::{Device, KernelOpen, Line, Rdev};
use taptrail_trail::{Content, Entry};

/// All that one log tells of guests and of opens that the kernel saw.
pub(crate) fn entries(log: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(log).unwrap();
    let mut entries = Vec::new();
    let mut syscall = None;
    for (number, bytes) in (1..).zip(bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())) {
        let line = Line::parse(bytes).unwrap();
        let content = match line.type_name {
            name if name == "SYSCALL" => {
                syscall = Some((line.stamp, number, String::from_utf8_lossy(bytes).into_owned()));
                continue;
            }
            name if name == "PATH" => match &syscall {
                Some((stamp, _, syscall)) if *stamp == line.stamp => {
                    kernel_open(syscall, &String::from_utf8_lossy(bytes)).map(Content::KernelOpen)
                }
                _ => None,
            },
            _ => line.record().unwrap().map(Content::Record),
        };
        let Some(content) = content else { continue };
        let seconds = i64::try_from(line.stamp.seconds).unwrap();
        entries.push(Entry {
            host: "lab".into(),
            time: Timestamp::new(seconds, i32::from(line.stamp.millis) * 1_000_000).unwrap(),
            serial: Some(line.stamp.serial),
            writer: line.pid,
            source: "audit.log".into(),
            line: number,
            content,
        });
    }
    entries
}

fn kernel_open(syscall: &str, path: &str) -> Option<KernelOpen> {
    let value = |of: &str, key: &str| {
        let after = of.split_once(&format!(" {key}="))?.1;
        Some(after.split([' ', '\x1d']).next()?.trim_matches('"').to_owned())
    };
    // openat(2) of x86_64.
    if value(syscall, "syscall")? != "257" {
        return None;
    }
    let exit: i32 = value(syscall, "exit")?.parse().ok()?;
    let rdev: Rdev = value(path, "rdev")?.parse().ok()?;
    Some(KernelOpen {
        pid: value(syscall, "pid")?.parse().ok()?,
        ppid: value(syscall, "ppid")?.parse().ok(),
        exe: value(syscall, "exe")?.into(),
        device: Device::new(value(path, "name")?, Some(rdev), None),
        fd: (exit >= 0).then_some(exit),
        errno: (exit < 0).then_some(-exit),
    })
}
