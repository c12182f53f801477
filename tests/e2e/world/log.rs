//! An audit log of another manager's records about its guest 'web1', as auditd writes it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use super::World;

/// The guest's uuid.
pub(crate) const UUID: &str = "f3607ac8-f517-4952-b61c-b19b40f99661";
/// The MAC of the guest's first interface.
pub(crate) const MAC: &str = "52:54:00:0a:0f:01";

/// An audit log with a manager's records, as auditd writes it. `serial` is the last number.
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) serial: u32,
}

impl Log {
    pub(crate) fn new(world: &World) -> Self {
        Self::at(world.path("audit.log"))
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&path).unwrap();
        Self { path, file, serial: 1000 }
    }

    /// Writes the record of a guest that does not start, which is a finding.
    pub(crate) fn failed_start(&mut self, name: &str) {
        let text = format!("op=start reason=booted vm=\"{name}\" uuid={UUID}");
        self.line_with("VIRT_CONTROL", &text, "failed");
    }

    pub(crate) fn line(&mut self, kind: &str, text: &str) {
        self.line_with(kind, text, "success");
    }

    pub(crate) fn line_with(&mut self, kind: &str, text: &str, outcome: &str) {
        self.serial += 1;
        let now = jiff::Timestamp::now();
        let (seconds, millis, serial) = (now.as_second(), now.subsec_millisecond(), self.serial);
        let line = format!(
            "type={kind} msg=audit({seconds}.{millis:03}:{serial}): pid=812 uid=0 auid=4294967295 ses=4294967295 \
             msg='virt=kvm {text} exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res={outcome}'\x1dUID=\"root\" \
             AUID=\"unset\"\n"
        );
        self.file.write_all(line.as_bytes()).unwrap();
    }

    pub(crate) fn noise(&mut self, lines: u32) {
        let (mut text, now) = (String::new(), jiff::Timestamp::now());
        for _ in 0..lines {
            self.serial += 1;
            let _ = writeln!(
                text,
                "type=USER_ACCT msg=audit({}.{:03}:{}): pid=1 uid=0 auid=0 ses=1 msg='op=PAM:accounting res=success'",
                now.as_second(),
                now.subsec_millisecond(),
                self.serial
            );
        }
        self.file.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn opened(&mut self, mac: &str) {
        self.line(
            "VIRT_RESOURCE",
            &format!(
                "resrc=net reason=open vm=\"web1\" uuid={UUID} net={mac} path=\"/dev/net/tun\" rdev=0A:C8"
            ),
        );
    }

    pub(crate) fn granted(&mut self, reason: &str, mac: &str) {
        let net = if reason == "detach" {
            format!("old-net=\"{mac}\" new-net=\"?\"")
        } else {
            format!("old-net=\"?\" new-net=\"{mac}\"")
        };
        self.line("VIRT_RESOURCE", &format!("resrc=net reason={reason} vm=\"web1\" uuid={UUID} {net}"));
    }

    /// Writes a `VIRT_CONTROL` record of the guest with these pairs.
    pub(crate) fn control(&mut self, what: &str) {
        self.line("VIRT_CONTROL", &format!("{what} vm=\"web1\" uuid={UUID}"));
    }

    pub(crate) fn boots(&mut self, pid: u32) {
        self.opened(MAC);
        self.granted("start", MAC);
        self.control(&format!("op=start reason=booted vm-pid={pid}"));
    }

    pub(crate) fn rotate(&mut self) {
        let rotated = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..5).rev() {
            if rotated(number).exists() {
                fs::rename(rotated(number), rotated(number + 1)).unwrap();
            }
        }
        fs::rename(&self.path, rotated(1)).unwrap();
        self.file = File::options().create(true).append(true).open(&self.path).unwrap();
    }
}
