//! Sets up the virtual machine as a host for libvirt: links, auditd, libvirt's daemons.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::system::sethostname;

use super::programs::{MODPROBE, VIRSH};
use super::versions::Versions;
use crate::auditing;
use crate::programs::{AUDITCTL, Background, Done, IP, must, run, wait_for};
use crate::suites::Daemons;

/// The paths that are used; records name some of them.
const LAB: &str = "/lab";

const LINKS: [&str; 12] = [
    "link set lo up",
    "link add labbr0 type bridge",
    "link add labbr1 type bridge",
    "link set labbr0 up",
    "link set labbr1 up",
    "link add labv0 type veth peer name labv1",
    "link set labv0 up",
    "link set labv1 up",
    // A bridge has a carrier only with a port.
    "link add labd0 type dummy",
    "link set labd0 master labbr0 up",
    "link add labd1 type dummy",
    "link set labd1 master labbr1 up",
];

/// For the daemon that has QEMU's driver, whatever its name. `DIR` is where its log is.
const DAEMON_CONF: &str = include_str!("../../../tests/config/libvirtd.conf");
const QEMU_CONF: &str = include_str!("../../../tests/config/qemu.conf");

/// The names that libvirt looks up: users and groups, which its package's scripts would have
/// created, and the host.
const LINES: [(&str, &str, &str); 4] = [
    ("/etc/passwd", "libvirt-qemu:", "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n"),
    ("/etc/group", "libvirt-qemu:", "libvirt-qemu:x:64055:\n"),
    ("/etc/group", "kvm:", "kvm:x:64054:\n"),
    ("/etc/hosts", "127.0.0.2 ", "127.0.0.2 lab\n"),
];

/// The host.
#[derive(Debug)]
pub(super) struct Lab {
    daemons: &'static Daemons,
    versions: Versions,
    main: Child,
    _auditd: Background,
    _helpers: Vec<Child>,
}

impl Lab {
    pub(super) fn set_up(daemons: &'static Daemons) -> Result<Self> {
        sethostname(b"lab").context("Can't name the host")?;
        for dir in ["xml", "run"] {
            fs::create_dir_all(Path::new(LAB).join(dir)).context("Can't make the lab's directories")?;
        }
        must(MODPROBE, &["-a", "kvm_amd", "bridge", "veth", "dummy"])?;
        for words in LINKS {
            must(IP, &words.split(' ').collect::<Vec<_>>())?;
        }
        fs::create_dir_all("/etc/libvirt")?;
        fs::write("/etc/libvirt/qemu.conf", QEMU_CONF).context("Can't set QEMU's driver up")?;
        fs::write("/lab/libvirtd.conf", DAEMON_CONF.replace("DIR", LAB))?;
        for (file, begin, line) in LINES {
            add_line(file, begin, line)?;
        }
        let auditd = start_auditd()?;
        let mut helpers = Vec::new();
        for helper in daemons.helpers {
            helpers.push(start(helper.program, &[])?);
            wait_for(helper.program, || Ok(Path::new(helper.socket).exists()))?;
        }
        let main = start_main(daemons)?;
        let versions = Versions::ask(daemons)?;
        Ok(Self { daemons, versions, main, _auditd: auditd, _helpers: helpers })
    }

    pub(super) fn daemons(&self) -> &'static Daemons {
        self.daemons
    }

    pub(super) fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Runs virsh against the main daemon.
    pub(super) fn virsh(&self, arguments: &[&str]) -> Result<Done> {
        run(VIRSH, &[&["-c", self.daemons.uri], arguments].concat())
    }

    /// Kills libvirt's main daemon as a crash would.
    pub(super) fn kill_daemon(&mut self) -> Result<()> {
        self.main.kill().with_context(|| format!("Can't kill {}", self.daemons.main))?;
        self.main.wait()?;
        Ok(())
    }

    pub(super) fn start_daemon(&mut self) -> Result<()> {
        self.main = start_main(self.daemons)?;
        Ok(())
    }
}

/// Adds a line to a file in which no line begins like it.
fn add_line(file: &str, begin: &str, line: &str) -> Result<()> {
    let mut text = fs::read_to_string(file).with_context(|| format!("Can't read {file}"))?;
    if !text.lines().any(|known| known.starts_with(begin)) {
        text.push_str(line);
        fs::write(file, text).with_context(|| format!("Can't write {file}"))?;
    }
    Ok(())
}

fn start_auditd() -> Result<Background> {
    let auditd = auditing::start_daemon(&Path::new(LAB).join("audit"), "enable")?;
    // Enough for a burst on a slow machine.
    must(AUDITCTL, &["-b", "8192"])?;
    Ok(auditd)
}

fn start_main(daemons: &Daemons) -> Result<Child> {
    let program = daemons.main;
    let mut main = start(program, &["--config", "/lab/libvirtd.conf"])?;
    let mut answer = String::new();
    let answered = wait_for(program, || {
        ensure!(
            main.try_wait()?.is_none(),
            "{program} ended: {}{}",
            fs::read_to_string(output(program)).unwrap_or_default(),
            daemon_log().unwrap_or_default()
        );
        let done = run(VIRSH, &["-c", daemons.uri, "list"])?;
        answer = done.said;
        Ok(done.status == 0)
    });
    answered.with_context(|| format!("virsh can't reach {program}: {answer}"))?;
    Ok(main)
}

/// Starts a daemon in the directory `/`, like a service.
fn start(program: &str, arguments: &[&str]) -> Result<Child> {
    let output = File::options().create(true).append(true).open(output(program))?;
    let spawned = Command::new(program)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn();
    spawned.with_context(|| format!("Can't start {program}"))
}

/// The file for a daemon's standard output and error.
fn output(program: &str) -> PathBuf {
    Path::new(LAB).join("run").join(program.rsplit('/').next().unwrap_or(program))
}

/// Writes this word to the audit log, and waits until it is there: auditd has then written
/// everything from before.
pub(super) fn mark(word: &str) -> Result<()> {
    must(AUDITCTL, &["-m", word])?;
    wait_for("the audit log", || Ok(audit_log()?.lines().any(|line| line.contains(word))))
}

pub(super) fn audit_log() -> Result<String> {
    let bytes = fs::read("/lab/audit/audit.log").context("Can't read the audit log")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The main daemon's own log.
pub(super) fn daemon_log() -> Result<String> {
    let bytes = fs::read("/lab/libvirtd.log").context("Can't read libvirt's log")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
