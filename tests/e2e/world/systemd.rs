//! A host with a real systemd for one test, and the packaged units.
//!
//! systemd is the first process of a PID namespace, in the world's network namespace and a control
//! group of its own. Of the machine's units it has only those of [`UNITS`]: nothing else of a boot
//! happens. Settings and state are the host's, and outlive a reboot; programs are the machine's,
//! with this taptrail as `/usr/bin/taptrail`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use taptrail_kernel::proc::{PidFd, ProcessId};

use super::OwnedChild;
use super::{CommandResult, World};

const PROGRAMS: [&str; 6] = [
    "/lib/systemd/systemd",
    "/lib/systemd/systemd-journald",
    "/usr/bin/systemctl",
    "/usr/bin/systemd-run",
    "/usr/bin/journalctl",
    "/usr/bin/nsenter",
];

/// Debian's units that the host has: targets for the order, and journald.
const UNITS: &str = "basic.target sysinit.target local-fs.target slices.target sockets.target paths.target timers.target \
                     network-pre.target network.target multi-user.target shutdown.target systemd-journald.socket \
                     systemd-journald.service";

/// Starts systemd as this namespace's first process. `$1` is the host's directory, `$2` taptrail,
/// `$3` [`UNITS`].
///
/// Its pid is read in the test's `/proc`. Nothing is written to the machine's console. journald,
/// which would take over `/dev/log`, reads only the journal's own protocol.
const INIT: &str = r#"
read -r pid _ </proc/self/stat
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /dev/null /dev/console
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/etc.work" overlay /etc
mount -t overlay -o "lowerdir=/usr/bin,upperdir=$1/bin,workdir=$1/bin.work" overlay /usr/bin
mount --bind "$2" /usr/bin/taptrail
mount --bind "$1/systemd" /etc/systemd
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/units/sysinit.target.wants
for unit in $3; do
	cp "/lib/systemd/system/$unit" /run/units
done
ln -s ../systemd-journald.service /run/units/sysinit.target.wants
echo "$pid" >"$1/pid"
mount -t tmpfs -o mode=1777 none /tmp
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units \
	/lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
"#;

/// journald keeps all messages, and reads neither the kernel's log nor its audit.
const JOURNALD_CONF: &str = "\
[Journal]
Storage=volatile
RateLimitIntervalSec=0
ReadKMsg=no
Audit=no
";

/// A host with systemd (see the module).
pub(crate) struct Host {
    dir: PathBuf,
    cgroup: PathBuf,
    init: Option<Init>,
    pub(crate) world: World,
}

impl Host {
    /// Boots a host with the packaged units in `/etc/systemd/system`, and an audit log that only
    /// the test writes.
    pub(crate) fn boot() -> Self {
        for program in PROGRAMS {
            assert!(Path::new(program).exists(), "{program} is missing: run scripts/setup test");
        }
        let world = World::new();
        let dir = world.path("host");
        fs::create_dir(&dir).unwrap();
        // Not every file system supports overlays; one in memory does. It ends with this thread.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        sh(&["mount", "--make-rprivate", "/"]);
        sh(&["mount", "-t", "tmpfs", "none", dir.to_str().unwrap()]);
        for made in ["etc", "etc.work", "bin", "bin.work", "systemd/system", "lib", "log/audit"] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        File::create(dir.join("bin/taptrail")).unwrap();
        File::create(dir.join("log/audit/audit.log")).unwrap();
        fs::write(dir.join("etc/machine-id"), format!("{}\n", uuid::Uuid::new_v4().simple())).unwrap();
        fs::write(dir.join("systemd/journald.conf"), JOURNALD_CONF).unwrap();
        let units = [
            "taptrail-watch.service",
            "taptrail@.service",
            "taptrail-recover.service",
            "taptrail-prune.service",
            "taptrail-prune.timer",
        ];
        for unit in units {
            let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(unit);
            fs::copy(packaged, dir.join("systemd/system").join(unit)).unwrap();
        }
        let mut host = Self { dir, cgroup: cgroup(&world), init: None, world };
        host.start();
        host
    }

    /// Cuts the power, and boots again.
    pub(crate) fn reboot(&mut self) {
        self.power_off();
        self.start();
    }

    fn start(&mut self) {
        fs::create_dir(&self.cgroup).unwrap();
        let enter = r#"echo $$ >"$1/cgroup.procs" && shift && exec unshare "$@""#;
        let child = Command::new("/bin/sh")
            .args(["-c", enter, "enter"])
            .arg(&self.cgroup)
            .args(["--cgroup", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--"])
            .args(["/bin/sh", "-ec", INIT, "init"])
            .arg(&self.dir)
            .args([env!("CARGO_BIN_EXE_taptrail"), UNITS])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.world.path("boot")).unwrap())
            .spawn()
            .unwrap();
        let mut child = OwnedChild::from(child);
        let mut pid = None;
        self.world.until("the first process", || {
            let ended = child.try_wait().unwrap();
            let output = fs::read_to_string(self.world.path("boot")).unwrap();
            assert!(ended.is_none(), "the host does not boot: {ended:?}: {output}");
            pid = fs::read_to_string(self.dir.join("pid")).ok().and_then(|pid| pid.trim().parse().ok());
            pid.is_some()
        });
        let process = ProcessId::of(pid.unwrap()).unwrap();
        self.init = Some(Init { _child: child, process, pidfd: PidFd::open(process).unwrap() });
        self.world
            .until("the host has booted", || self.property("multi-user.target", "ActiveState") == "active");
    }

    /// Kills all processes of the host at once.
    fn power_off(&mut self) {
        if let Some(Init { _child: child, pidfd, .. }) = self.init.take() {
            drop(child);
            assert!(pidfd.wait_exit(Duration::from_secs(60)).unwrap(), "the host does not end");
        }
        let _ = fs::remove_file(self.dir.join("pid"));
        remove(&self.cgroup);
    }

    /// A command on the host, found by its name.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        let pid = self.init.as_ref().unwrap().process.pid.to_string();
        command.args(["--target", &pid, "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--"]);
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> CommandResult {
        CommandResult::from(self.command(words).output().unwrap())
    }

    /// Runs systemctl(1), which must succeed.
    #[track_caller]
    pub(crate) fn systemctl(&self, words: &str) -> String {
        let done = self.run(["systemctl"].into_iter().chain(words.split(' ')));
        assert!(done.success(), "systemctl {words}: {}{}\n{}", done.stdout, done.stderr, self.log());
        done.stdout
    }

    /// A property of a unit, from systemctl(1).
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.run(["systemctl", "show", "--property", name, "--value", unit]).stdout.trim().to_owned()
    }

    /// Waits until a unit's property has this value.
    #[track_caller]
    pub(crate) fn until(&self, unit: &str, name: &str, value: &str) {
        let end = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let is = self.property(unit, name);
            if is == value {
                return;
            }
            let late = std::time::Instant::now() > end;
            assert!(!late, "{unit} has {name} '{is}', not '{value}', within a minute:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes a drop-in for a unit.
    pub(crate) fn drop_in(&self, unit: &str, text: &str) {
        let dir = self.dir.join("systemd/system").join(format!("{unit}.d"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("test.conf"), text).unwrap();
        self.systemctl("daemon-reload");
    }

    /// journald's entries with all of these fields.
    pub(crate) fn journal(&self, fields: &[&str]) -> Vec<Value> {
        let words = ["journalctl", "--quiet", "--output", "json"];
        let done = self.run(words.iter().chain(fields)).ok();
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until journald has an entry with these fields.
    pub(crate) fn wait_for_entry(&self, fields: &[&str]) -> Value {
        let end = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(entry) = self.journal(fields).pop() {
                return entry;
            }
            assert!(
                std::time::Instant::now() < end,
                "no entry with {fields:?} within a minute:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// journald's whole log, as text.
    fn log(&self) -> String {
        self.run(["journalctl", "--quiet", "--no-pager", "--output", "short-precise"]).stdout
    }

    /// The JSON that taptrail prints on the host.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let done = self.run(["taptrail"].iter().chain(words)).ok();
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// The path of the host's file, from outside.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.init.as_ref().unwrap().process.pid);
        Path::new(&root).join(path.trim_start_matches('/'))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.power_off();
        // The world can't remove its directories while this is mounted.
        let _ = Command::new("umount").arg("--lazy").arg(&self.dir).status();
    }
}

/// The host's first process.
struct Init {
    /// The unshare(1) that started it; its end is the end of all processes of the host.
    _child: OwnedChild,
    process: ProcessId,
    pidfd: PidFd,
}

/// A control group for a host, below the test's own, in cgroup version 2, which may be mounted
/// beside version 1.
fn cgroup(world: &World) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount =
        mounts.find(|fields| fields.get(2) == Some(&"cgroup2")).expect("cgroup2 is mounted somewhere");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a control group of our own");
    let name = world.dir.path().file_name().unwrap().to_str().unwrap();
    Path::new(mount[1]).join(own).join(format!("taptrail-{name}"))
}

/// Removes a control group with all groups in it.
fn remove(cgroup: &Path) {
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&below.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

fn sh(words: &[&str]) {
    super::sh(words[0], &words[1..]);
}
