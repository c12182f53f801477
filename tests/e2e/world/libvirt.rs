//! A real libvirtd for one test, its guests, and the devices that `/proc` shows in them.
//!
//! It needs no service manager: virtlogd and libvirtd are children of the test, in the world's
//! network namespace and in a mount namespace with state, settings and sockets of their own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::stat::{major, minor};
use serde_json::Value;
use taptrail_kernel::proc::{PidFd, ProcessId, Signal};
use taptrail_ledger::Ledger;

use super::OwnedChild;
use super::auditing::{self, Auditing};
use super::{CommandResult, World, sh};

const LIBVIRTD: &str = "/usr/sbin/libvirtd";
const VIRSH: &str = "/usr/bin/virsh";
const VIRTLOGD: &str = "/usr/sbin/virtlogd";

/// Makes this thread's mount namespace a libvirt host's. `$1` is a directory of the world.
///
/// With a `/run` of its own libvirtd finds no system bus, and registers no guest with the machine's
/// services. The users are those of Debian's libvirt-daemon-system, which would start a service.
/// libvirt probes QEMU's capabilities once for all tests, which takes seconds; they are kept beside
/// the build.
const HOST: &str = r#"
mount --make-rprivate /
mkdir -p "$1/lock" "$2"
mount --bind /run/lock "$1/lock"
for dir in /run /etc/libvirt /var/lib /var/log /var/cache; do mount -t tmpfs -o mode=755 none "$dir"; done
mkdir -p /run/lock /var/cache/libvirt
mount --move "$1/lock" /run/lock
mount --bind "$2" /var/cache/libvirt
mount -t sysfs sysfs /sys
{ cat /etc/passwd; echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin'; } >"$1/passwd"
{ cat /etc/group; echo 'libvirt-qemu:x:64055:'; echo 'kvm:x:64054:'; } >"$1/group"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
"#;

/// Ends every process of this network namespace once its standard input ends, however the test
/// ended: libvirt's QEMUs are no children of the test. `$1` is the test itself.
const KEEPER: &str = r#"
cat >/dev/null
while :; do
	found=
	for process in /proc/[0-9]*; do
		pid=${process#/proc/}
		[ "$pid" != $$ ] && [ "$pid" != "$1" ] && [ "$process/ns/net" -ef /proc/self/ns/net ] || continue
		kill -9 "$pid" && found=1
	done
	[ "$found" ] || exit 0
	sleep 0.02
done 2>/dev/null
"#;

/// Its `DIR` is where libvirtd's log is.
const LIBVIRTD_CONF: &str = include_str!("../../config/libvirtd.conf");
const QEMU_CONF: &str = include_str!("../../config/qemu.conf");

/// A libvirt host with a real auditd (see the module).
pub(crate) struct Libvirt {
    // Fields are dropped in this order; the keeper ends the remaining processes of the world.
    daemon: OwnedChild,
    _virtlogd: OwnedChild,
    _keeper: Keeper,
    pub(crate) world: World,
    audit_log: PathBuf,
    _auditing: Auditing,
}

impl Libvirt {
    /// A host with bridges `br0` and `br1`, a link `lower` for macvtaps and the packaged audit
    /// rules. None where tests may not switch auditing.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// The same, with these lines in qemu.conf, too.
    pub(crate) fn start_with(qemu_conf: &str) -> Option<Self> {
        Self::begin(qemu_conf, true)
    }

    /// The same without the audit rules: libvirt's records are all that there is.
    pub(crate) fn start_without_rules() -> Option<Self> {
        Self::begin("", false)
    }

    fn begin(qemu_conf: &str, rules: bool) -> Option<Self> {
        let mut auditing = Auditing::switch(true)?;
        let mut world = World::new();
        for program in [LIBVIRTD, VIRSH, VIRTLOGD] {
            assert!(Path::new(program).exists(), "{program} is missing: run scripts/setup test");
        }
        let dir = world.path("libvirt");
        fs::create_dir(&dir).unwrap();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let cache = concat!(env!("CARGO_TARGET_TMPDIR"), "/libvirt");
        sh("/bin/sh", ["-ec", HOST, "host", dir.to_str().unwrap(), cache]);
        fs::write("/etc/libvirt/qemu.conf", [QEMU_CONF, qemu_conf].concat()).unwrap();
        fs::write("/etc/libvirt/libvirtd.conf", LIBVIRTD_CONF.replace("DIR", "/var/log")).unwrap();
        use_distinct_link_numbers(&world);
        world.ip("link add br1 type bridge");
        world.ip("link set br1 up");
        let keeper = Keeper::start();
        if rules {
            auditing.packaged_rules();
        }
        let audit_log = auditing.start_daemon(&dir);
        // As auditd.conf would name it.
        world.extra.push(("TAPTRAIL_AUDIT_LOG".to_owned(), audit_log.to_str().unwrap().to_owned()));
        let virtlogd = OwnedChild::from(spawn(VIRTLOGD, &[]));
        let daemon = OwnedChild::from(spawn(LIBVIRTD, &["--config", "/etc/libvirt/libvirtd.conf"]));
        let mut libvirt =
            Self { daemon, _virtlogd: virtlogd, _keeper: keeper, world, audit_log, _auditing: auditing };
        libvirt.wait_until_ready();
        Some(libvirt)
    }

    /// Kills libvirtd, as a crash would. Its guests run on.
    pub(crate) fn kill_daemon(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    pub(crate) fn start_daemon(&mut self) {
        self.daemon = spawn(LIBVIRTD, &["--config", "/etc/libvirt/libvirtd.conf"]).into();
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let (world, daemon) = (&self.world, &mut self.daemon);
        world.until("libvirtd answers", || {
            let ended = daemon.try_wait().unwrap();
            assert!(ended.is_none(), "libvirtd ended: {ended:?}: {}", output());
            virsh(&["list"]).success()
        });
    }

    /// Starts a guest with stopped processors.
    pub(crate) fn create(&self, name: &str, number: u8, nics: &[Nic]) -> Domain {
        self.try_create(name, number, nics).ok();
        Domain { uuid: uuid(number), pid: pid(name) }
    }

    /// Saves a guest to a file and restores it, as a new QEMU.
    pub(crate) fn save_and_restore(&self, name: &str, saved: &Domain) -> Domain {
        let file = self.world.path("libvirt/saved");
        let file = file.to_str().unwrap();
        virsh(&["save", &saved.uuid, file, "--paused"]).ok();
        assert!(!saved.is_alive(), "QEMU outlives its guest");
        virsh(&["restore", file, "--paused"]).ok();
        Domain { uuid: saved.uuid.clone(), pid: pid(name) }
    }

    /// Tries to start a guest.
    pub(crate) fn try_create(&self, name: &str, number: u8, nics: &[Nic]) -> CommandResult {
        virsh(&["create", &self.file(&domain(name, number, nics)), "--paused"])
    }

    pub(crate) fn attach(&self, domain: &Domain, nic: &Nic) {
        self.device("attach-device", domain, nic).ok();
    }

    pub(crate) fn update(&self, domain: &Domain, nic: &Nic) {
        self.device("update-device", domain, nic).ok();
    }

    /// Requests the unplug, and waits until QEMU has closed the interface's descriptors.
    pub(crate) fn detach(&self, domain: &Domain, nic: &Nic) {
        let before = domain.holds().len();
        self.device("detach-device", domain, nic).ok();
        self.world.until("the devices are given up", || domain.holds().len() < before);
    }

    pub(crate) fn device(&self, command: &str, domain: &Domain, nic: &Nic) -> CommandResult {
        virsh(&[command, &domain.uuid, &self.file(&nic.xml()), "--live"])
    }

    pub(crate) fn destroy(&self, domain: &Domain) {
        virsh(&["destroy", &domain.uuid]).ok();
        assert!(!domain.is_alive(), "QEMU outlives its guest");
    }

    /// Runs a command in QEMU's monitor, behind libvirt's back. QEMU prints an error, or nothing.
    pub(crate) fn monitor(&self, domain: &Domain, command: &str) {
        let done = virsh(&["qemu-monitor-command", &domain.uuid, "--hmp", command]).ok();
        assert_eq!(done.stdout.trim(), "", "{command}");
    }

    /// The guest's trail in audit log and ledger up to now.
    pub(crate) fn trail(&self, uuid: &str) -> Value {
        self.trail_from(uuid, None)
    }

    /// The guest's trail in the audit log alone: libvirt's records and the kernel's.
    pub(crate) fn log(&self, uuid: &str) -> Value {
        self.trail_from(uuid, Some(&self.audit_log))
    }

    /// The guest's trail in the ledger alone.
    pub(crate) fn ledger(&self, uuid: &str) -> Value {
        self.trail_from(uuid, Some(&self.world.state().join("ledger.sqlite")))
    }

    fn trail_from(&self, uuid: &str, file: Option<&Path>) -> Value {
        auditing::wait_for_log(&self.audit_log);
        let words = ["trail", "--format", "json", "--guest", uuid].into_iter().map(OsStr::new);
        self.world.json(words.chain(file.map(Path::as_os_str)))
    }

    /// Starts a watcher beside libvirtd.
    pub(crate) fn watch(&self) -> Watch {
        self.watch_with(&[])
    }

    pub(crate) fn watch_with(&self, options: &[&str]) -> Watch {
        let output = self.world.path("watch");
        let open = || File::options().create(true).append(true).open(&output).unwrap();
        let watcher = self
            .world
            .command(["watch", "--json"].iter().chain(options))
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        let mut watch = Watch { watcher: watcher.into(), output };
        self.world.until("the watcher has begun", || {
            let ended = watch.watcher.try_wait().unwrap();
            assert!(ended.is_none(), "the watcher ended: {ended:?}: {}", watch.stderr());
            Ledger::open_to_read(&self.world.state()).is_ok()
        });
        watch
    }

    /// The report of `taptrail verify` on this host, which must have ended with this code. (Guests
    /// of other tests run on the same machine. On some machines even root may not inspect process
    /// 1.)
    #[track_caller]
    pub(crate) fn verify(&self, code: i32) -> Value {
        self.verified(code, None)
    }

    /// The report of `verify` with the audit log alone.
    #[track_caller]
    pub(crate) fn verify_log(&self, code: i32) -> Value {
        self.verified(code, Some(&self.audit_log))
    }

    #[track_caller]
    fn verified(&self, code: i32, file: Option<&Path>) -> Value {
        auditing::wait_for_log(&self.audit_log);
        let here =
            ["--netns", "/proc/self/ns/net", "--ignore-pid", "1", "--settle", "500ms", "--format", "json"];
        let words = ["verify"].iter().chain(&here).map(OsStr::new);
        let done = self.world.taptrail(words.chain(file.map(Path::as_os_str)));
        assert_eq!(done.code(), code, "{}{}", done.stdout, done.stderr);
        serde_json::from_str(&done.stdout).unwrap()
    }

    fn file(&self, xml: &str) -> String {
        let file = self.world.path("libvirt/xml");
        fs::write(&file, xml).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

/// A running `taptrail watch`.
pub(crate) struct Watch {
    watcher: OwnedChild,
    output: PathBuf,
}

impl Watch {
    /// Ends it with SIGTERM, as a service manager does.
    pub(crate) fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.watcher.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let ended = self.watcher.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.stderr());
    }

    /// The standard error of this watcher and the previous ones.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }
}

/// See [`KEEPER`].
pub(crate) struct Keeper(Child);

impl Keeper {
    pub(crate) fn start() -> Self {
        let keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper", &std::process::id().to_string()])
            .stdin(Stdio::piped())
            // In a process group of its own: a signal to the test's group does not end the keeper.
            .process_group(0)
            .spawn();
        Self(keeper.unwrap())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A guest that libvirt started.
pub(crate) struct Domain {
    pub(crate) uuid: String,
    pub(crate) pid: u32,
}

impl Domain {
    pub(crate) fn is_alive(&self) -> bool {
        ProcessId::of(self.pid).is_ok_and(|id| id.is_alive())
    }

    pub(crate) fn kill(&self) {
        let pidfd = PidFd::open(ProcessId::of(self.pid).unwrap()).unwrap();
        pidfd.send_signal(Signal::KILL).unwrap();
        assert!(pidfd.wait_exit(Duration::from_secs(60)).unwrap(), "QEMU does not end");
    }

    /// The devices that the kernel shows in QEMU, one for each device of an interface; none if QEMU
    /// is gone.
    pub(crate) fn holds(&self) -> Vec<Held> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return Vec::new() };
        let mut queues = BTreeMap::new();
        for fd in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if let Some(held) = read_descriptor(self.pid, &fd) {
                *queues.entry(held).or_insert(0) += 1;
            }
        }
        queues.into_iter().map(|(held, queues)| Held { queues, ..held }).collect()
    }
}

/// A device that QEMU holds for an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held {
    pub(crate) kind: &'static str,
    pub(crate) path: String,
    pub(crate) rdev: String,
    /// The host's interface.
    pub(crate) dev: String,
    /// The guest's interface.
    pub(crate) mac: String,
    pub(crate) queues: u32,
}

/// Reads one descriptor, if it is of a raw network device.
fn read_descriptor(pid: u32, fd: &str) -> Option<Held> {
    let place = format!("/proc/{pid}/fd/{fd}");
    let path = fs::read_link(&place).ok()?.into_os_string().into_string().ok()?;
    let number = fs::metadata(&place).ok()?.rdev();
    let rdev = format!("{:02X}:{:02X}", major(number), minor(number));
    let (kind, dev) = if path == "/dev/net/tun" {
        let fdinfo = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
        ("tun", fdinfo.lines().find_map(|line| line.strip_prefix("iff:\t"))?.to_owned())
    } else {
        let index = path.strip_prefix("/dev/tap")?;
        let mut links = fs::read_dir("/sys/class/net").ok()?.flatten();
        let link = links.find(|link| {
            fs::read_to_string(link.path().join("ifindex")).is_ok_and(|found| found.trim() == index)
        })?;
        ("macvtap", link.file_name().into_string().ok()?)
    };
    let address = fs::read_to_string(format!("/sys/class/net/{dev}/address")).ok()?;
    // libvirt gives a guest's tap the guest's MAC, with another first byte.
    let mac = format!("52{}", address.trim().get(2..)?);
    Some(Held { kind, path, rdev, dev, mac, queues: 0 })
}

/// An interface of a guest.
#[derive(Clone)]
pub(crate) struct Nic {
    mac: String,
    source: &'static str,
    queues: u32,
    alias: Option<&'static str>,
    rom: Option<&'static str>,
}

impl Nic {
    /// An interface on this bridge, or a macvtap if `source` is the link `lower`.
    pub(crate) fn on(source: &'static str, mac: &str) -> Self {
        Self { mac: mac.to_owned(), source, queues: 1, alias: None, rom: None }
    }

    pub(crate) fn queues(self, queues: u32) -> Self {
        Self { queues, ..self }
    }

    /// libvirt's alias for it, which begins with `ua-`.
    pub(crate) fn alias(self, name: &'static str) -> Self {
        Self { alias: Some(name), ..self }
    }

    /// The file of the NIC's ROM.
    pub(crate) fn rom(self, file: &'static str) -> Self {
        Self { rom: Some(file), ..self }
    }

    fn xml(&self) -> String {
        let (kind, source) = match self.source {
            "lower" => ("direct", "<source dev='lower' mode='bridge'/>".to_owned()),
            bridge => ("bridge", format!("<source bridge='{bridge}'/>")),
        };
        let mut xml = format!("<interface type='{kind}'><mac address='{}'/>{source}", self.mac);
        xml.push_str("<model type='virtio'/>");
        if self.queues > 1 {
            let _ = write!(xml, "<driver queues='{}'/>", self.queues);
        }
        if let Some(file) = self.rom {
            let _ = write!(xml, "<rom file='{file}'/>");
        }
        if let Some(name) = self.alias {
            let _ = write!(xml, "<alias name='{name}'/>");
        }
        xml.push_str("</interface>");
        xml
    }
}

/// The process of a guest's QEMU.
fn pid(name: &str) -> u32 {
    fs::read_to_string(format!("/run/libvirt/qemu/{name}.pid")).unwrap().trim().parse().unwrap()
}

/// The uuid of the guest of this number.
pub(crate) fn uuid(number: u8) -> String {
    format!("7a7a0000-0000-4000-8000-0000000000{number:02}")
}

/// A small machine without a disk. Without ACPI's hot-plug, a port releases a NIC without a guest
/// system's help.
fn domain(name: &str, number: u8, nics: &[Nic]) -> String {
    let interfaces: String = nics.iter().map(Nic::xml).collect();
    let ports = "<controller type='pci' model='pcie-root-port'/>".repeat(nics.len() + 2);
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
         <name>{name}</name><uuid>{}</uuid>\
         <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <controller type='usb' model='none'/><controller type='pci' model='pcie-root'/>{ports}{interfaces}\
         <memballoon model='none'/></devices>\
         <qemu:commandline><qemu:arg value='-global'/>\
         <qemu:arg value='ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'/></qemu:commandline>\
         </domain>\n",
        uuid(number)
    )
}

/// Makes later links have other numbers than the links of other tests.
///
/// A macvtap's node is named by its link's number, in a `/dev` that all namespaces share, and
/// libvirt opens the node that it finds there.
fn use_distinct_link_numbers(world: &World) {
    let links: String =
        (0..250).map(|n| format!("link add a{n} group 77 type veth peer name b{n}\n")).collect();
    fs::write(world.path("numbers"), links).unwrap();
    world.ip(&format!("-batch {}", world.path("numbers").display()));
    world.ip("link del group 77");
}

fn spawn(program: &str, arguments: &[&str]) -> Child {
    let name = program.rsplit('/').next().unwrap();
    let output = File::options().create(true).append(true).open(format!("/var/log/{name}.output")).unwrap();
    Command::new(program)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap()
}

pub(crate) fn virsh(arguments: &[&str]) -> CommandResult {
    let output =
        Command::new(VIRSH).args(["-c", "qemu:///system"]).args(arguments).stdin(Stdio::null()).output();
    CommandResult::from(output.unwrap())
}

/// libvirtd's output.
fn output() -> String {
    ["/var/log/libvirtd.output", "/var/log/libvirtd.log"]
        .map(|file| fs::read_to_string(file).unwrap_or_default())
        .concat()
}
