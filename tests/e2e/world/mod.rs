//! A world for one test: a network namespace with a bridge and a veth pair, directories of its own,
//! and the real taptrail and QEMU in it. Dropping it removes everything.

pub(crate) mod auditing;
pub(crate) mod bridge_lab;
pub(crate) mod contract;
pub(crate) mod dhcp;
pub(crate) mod ecs;
pub(crate) mod hostile;
pub(crate) mod lab;
pub(crate) mod libvirt;
pub(crate) mod log;
mod owned_child;
pub(crate) mod procfs;
pub(crate) mod qmp;
pub(crate) mod systemd;
pub(crate) mod tls;
pub(crate) mod vdpa;
pub(crate) mod vhost_user;

pub(crate) use self::owned_child::OwnedChild;

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, OpenFacts, OpenRecorder, TapName, TapRequest, open_tap,
};
use taptrail_kernel::proc::{PidFd, ProcessId, Signal, raw_devices};
use taptrail_ledger::{Ledger, LedgerError, StoredRecord};
use taptrail_record::{Event, Outcome, Record, RecordType, parse_text};

/// Makes a tap that ends with this test's descriptor.
pub(crate) fn tap_of_this_test(name: &str) -> Vec<Admitted> {
    struct FakeRecorder;
    impl OpenRecorder for FakeRecorder {
        type Error = std::convert::Infallible;
        fn record(&mut self, _: &[OpenFacts]) -> Result<(), Self::Error> {
            Ok(())
        }
    }
    let name = name.parse().expect("a name");
    let request = TapRequest {
        path: Path::new(DEV_NET_TUN),
        name: TapName::New(&name),
        queues: std::num::NonZeroU16::MIN,
        vnet_hdr: true,
    };
    open_tap(&request).admit(&mut FakeRecorder).expect("a recorder that accepts all").0
}

/// The MAC that ends in `last`.
pub(crate) fn mac(last: u8) -> String {
    format!("52:54:00:00:00:{last:02x}")
}

/// An empty machine whose ports release a NIC without a guest system's help.
pub(crate) const EMPTY: [&str; 10] = [
    "qemu-system-x86_64",
    "-machine",
    "q35,accel=tcg",
    "-m",
    "32",
    "-nodefaults",
    "-display",
    "none",
    "-global",
    "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
];

/// The JSON that some arguments printed. Panics if it is not as its schema says.
#[track_caller]
fn documented<S: AsRef<OsStr>>(arguments: &[S], text: &str) -> Value {
    let value = serde_json::from_str(text).expect("JSON");
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.as_ref().to_str()).collect();
    let is_said = |command: &str| words.contains(&command);
    let check = if is_said("lake") { "lake-check" } else { "check" };
    let commands = [
        ("trail", "trail"),
        ("who", "trail"),
        ("findings", "findings"),
        ("explain", "explain"),
        ("summary", "summary"),
        ("guests", if is_said("--all-events") { "guest-events" } else { "guests" }),
        ("verify", "verify"),
        ("nics", "nics"),
        ("attach", "nic"),
        ("detach", "nic"),
        ("list", "list"),
        ("recover", "recover"),
        ("doctor", "doctor"),
        ("archive", "archive"),
        ("sql", "lake-sql"),
        ("compact", "lake-compact"),
        ("checkpoint", "ledger-checkpoint"),
        ("prune", if is_said("lake") { "lake-prune" } else { "ledger-prune" }),
        ("check", if is_said("ledger") { "ledger-check" } else { check }),
    ];
    let command = words.iter().find_map(|word| commands.iter().find(|(command, _)| command == word));
    if let Some((_, schema)) = command {
        contract::assert_valid(schema, &value);
    }
    value
}

/// The environment of one test (see the module).
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) extra: Vec<(String, String)>,
}

impl World {
    /// A network namespace with a bridge `br0` and a link `lower` for macvtaps.
    pub(crate) fn new() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("the tests run as root, in network namespaces of their own");
        let world = Self {
            dir: tempfile::Builder::new().prefix("tt").tempdir_in("/tmp").expect("a directory"),
            extra: Vec::new(),
        };
        // One run of ip(8), because each is slow in an emulated machine.
        let links = [
            "link set lo up",
            "link add br0 type bridge",
            "link set br0 up",
            "link add lower type veth peer name upper",
            "link set lower up",
            "link set upper up",
        ];
        std::fs::write(world.path("links"), links.join("\n")).expect("a file");
        world.ip(&format!("-batch {}", world.path("links").display()));
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// Runs ip(8) in this world.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        sh("/sbin/ip", arguments.split(' '))
    }

    /// The names of all links except the world's initial ones.
    pub(crate) fn links(&self) -> Vec<String> {
        self.numbered_links().into_iter().map(|(name, _)| name).collect()
    }

    /// The same links, each with its number.
    pub(crate) fn numbered_links(&self) -> Vec<(String, u64)> {
        let all: Value = serde_json::from_str(&sh("/sbin/ip", ["-j", "link", "show"])).expect("JSON");
        let mut links: Vec<_> = all
            .as_array()
            .expect("links")
            .iter()
            .filter_map(|link| Some((link["ifname"].as_str()?.to_owned(), link["ifindex"].as_u64()?)))
            .filter(|(name, _)| !["lo", "br0", "lower", "upper"].contains(&name.as_str()))
            .collect();
        links.sort();
        links
    }

    /// One link, as ip(8) shows it.
    pub(crate) fn link(&self, name: &str) -> Value {
        let all: Value =
            serde_json::from_str(&sh("/sbin/ip", ["-j", "-d", "link", "show", "dev", name])).expect("JSON");
        all[0].clone()
    }

    /// All nftables tables of this world.
    pub(crate) fn tables(&self) -> String {
        sh("/usr/sbin/nft", ["list", "tables"])
    }

    /// The whole nftables ruleset of this world.
    pub(crate) fn ruleset(&self) -> String {
        sh("/usr/sbin/nft", ["list", "ruleset"])
    }

    /// Runs nft(8) in this world.
    pub(crate) fn nft(&self, arguments: &str) {
        sh("/usr/sbin/nft", arguments.split(' '));
    }

    /// A taptrail command with these arguments, for this world.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
        command
            .env("TAPTRAIL_STATE_DIR", self.state())
            .env("TAPTRAIL_RUN_DIR", self.run_dir())
            .env("TAPTRAIL_AUDIT_LOG", self.path("audit.log"))
            .envs(self.extra.iter().map(|(key, value)| (key, value)))
            .args(arguments);
        command
    }

    /// Runs taptrail to its end.
    pub(crate) fn taptrail<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> CommandResult {
        CommandResult::from(self.command(arguments).stdin(Stdio::null()).output().expect("taptrail runs"))
    }

    /// Starts an empty guest in the background.
    pub(crate) fn start(&self, name: &str, options: &[&str]) -> Guest {
        self.start_with(name, options, &EMPTY)
    }

    /// Starts a guest with this QEMU command line in the background.
    pub(crate) fn start_with(&self, name: &str, options: &[&str], qemu: &[&str]) -> Guest {
        let done = self.try_start(name, options, qemu);
        assert!(done.success(), "{name} did not start: {}\n{}", done.stderr, self.log(name));
        let all = self.json(["list", "--json"]);
        let guest =
            all.as_array().expect("guests").iter().find(|guest| guest["name"] == name).expect("the guest");
        Guest {
            name: name.to_owned(),
            pid: u32::try_from(guest["pid"].as_u64().expect("a pid")).expect("a pid"),
        }
    }

    /// Tries to start a guest in the background.
    pub(crate) fn try_start(&self, name: &str, options: &[&str], qemu: &[&str]) -> CommandResult {
        let mut arguments = vec!["run", "--background", "--name", name];
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(qemu);
        self.taptrail(arguments)
    }

    /// Starts a guest in the foreground, and waits until it runs.
    pub(crate) fn foreground(&self, name: &str, options: &[&str], qemu: &[&str]) -> Foreground {
        let errors = File::create(self.path("stderr")).expect("a file");
        let mut arguments = vec!["run", "--name", name];
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(qemu);
        let mut child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("taptrail runs");
        self.until("the guest runs", || {
            let ended = child.try_wait().expect("a supervisor");
            let stderr = || std::fs::read_to_string(self.path("stderr")).unwrap_or_default();
            assert!(ended.is_none(), "{name} did not start: {ended:?}: {}", stderr());
            self.try_json(["list", "--json"]).is_some_and(|all| {
                all.as_array().is_some_and(|all| all.iter().any(|guest| guest["state"] == "running"))
            })
        });
        Foreground { child, stderr: self.path("stderr") }
    }

    pub(crate) fn attach(&self, guest: &Guest, spec: &str) -> CommandResult {
        self.taptrail(["attach", &guest.name, "--nic", spec])
    }

    pub(crate) fn detach(&self, guest: &Guest, last: u8, options: &[&str]) -> CommandResult {
        let mac = mac(last);
        let mut arguments = vec!["detach", &guest.name, &mac];
        arguments.extend(options);
        self.taptrail(arguments)
    }

    pub(crate) fn stop(&self, guest: &Guest) {
        self.taptrail(["stop", &guest.name, "--force"]).ok();
    }

    /// The JSON that taptrail prints, which is as its schema says.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        let arguments: Vec<S> = arguments.into_iter().collect();
        let done = self.taptrail(&arguments).ok();
        documented(&arguments, &done.stdout)
    }

    pub(crate) fn try_json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Option<Value> {
        let arguments: Vec<S> = arguments.into_iter().collect();
        let done = self.taptrail(&arguments);
        done.success().then(|| documented(&arguments, &done.stdout))
    }

    pub(crate) fn trail(&self) -> Value {
        self.json(["trail", "--format", "json"])
    }

    pub(crate) fn nics(&self, guest: &Guest) -> Value {
        self.json(["nics", &guest.name, "--json"])
    }

    /// The log of a guest in the background: the supervisor's and QEMU's output.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.run_dir().join(name).join("log")).unwrap_or_default()
    }

    /// All records in the ledger, in the order written.
    pub(crate) fn records(&self) -> Vec<Record> {
        let ledger = Ledger::open_to_read(&self.state()).expect("a ledger");
        let record = |stored: Result<StoredRecord, LedgerError>| {
            let stored = stored.expect("a row");
            let record = parse_text(RecordType(stored.kind), stored.text.as_bytes());
            record.expect("a record").expect("one of ours")
        };
        ledger.into_records().map(record).collect()
    }

    /// The records in the ledger, one short line each.
    pub(crate) fn record_lines(&self) -> Vec<String> {
        self.records().iter().map(summarize).collect()
    }

    /// The numbers of devices and of steps without an end in the ledger.
    pub(crate) fn open_accounts(&self) -> (u32, u32) {
        let ledger = Ledger::open_to_read(&self.state()).expect("a ledger");
        (ledger.open_devices().expect("devices"), ledger.open_steps().expect("steps"))
    }

    /// The process that supervises a guest.
    pub(crate) fn supervisor(&self, name: &str) -> ProcessId {
        let lock = std::fs::read_to_string(self.run_dir().join(name).join("lock")).expect("a lock");
        ProcessId::of(lock.trim().parse().expect("a pid")).expect("a supervisor")
    }

    /// Kills a guest's supervisor with SIGKILL.
    pub(crate) fn kill_supervisor(&self, name: &str) {
        let supervisor = PidFd::open(self.supervisor(name)).expect("a pidfd");
        supervisor.send_signal(Signal::KILL).expect("a signal");
        wait_exit(&supervisor);
    }

    /// Waits until a guest's supervisor has ended; its lock file may remain.
    pub(crate) fn supervisor_is_gone(&self, name: &str) {
        let lock = self.run_dir().join(name).join("lock");
        let mut pid = None;
        // It empties its lock file before it removes it.
        self.until("its lock file has a pid or is removed", || match std::fs::read_to_string(&lock) {
            Ok(content) => {
                pid = content.trim().parse().ok();
                pid.is_some()
            }
            Err(_) => true,
        });
        let supervisor = pid.and_then(|pid| PidFd::open(ProcessId::of(pid).ok()?).ok());
        if let Some(supervisor) = supervisor {
            wait_exit(&supervisor);
        }
    }

    /// The last guest on record, running or not.
    pub(crate) fn last_guest(&self) -> Option<Guest> {
        let ledger = Ledger::open_to_read(&self.state()).ok()?;
        let guest = ledger.guests().expect("guests").pop()?;
        Some(Guest { name: guest.id.name.into(), pid: guest.qemu?.pid })
    }

    /// Asserts that no link, filter, open account or directory of a guest is left.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.links(), Vec::<String>::new(), "links are left over");
        assert_eq!(self.tables(), "", "filters are left over");
        assert_eq!(self.open_accounts(), (0, 0), "accounts of devices and steps are open");
    }

    /// Waits until a condition holds. The timeout is long, because an emulated machine is slow.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < end, "{what}: did not come within a minute");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Waits for the last of a supervisor's threads, too.
fn wait_exit(supervisor: &PidFd) {
    let ended = supervisor.wait_exit(Duration::from_secs(60)).expect("a pidfd");
    assert!(ended, "the supervisor does not end");
}

impl Drop for World {
    fn drop(&mut self) {
        // Ends guests that a failed test left running, with a supervisor or without.
        let Ok(ledger) = Ledger::open_to_read(&self.state()) else { return };
        for guest in ledger.live_guests().unwrap_or_default() {
            // A watched guest may belong to another test.
            if guest.watched {
                continue;
            }
            let arguments = ["stop", &guest.id.name, "--force"];
            let _ = self.command(arguments).output();
            let qemu = guest.qemu.map(|qemu| ProcessId { pid: qemu.pid, start_time: qemu.start });
            if let Some(pidfd) = qemu.and_then(|qemu| PidFd::open(qemu).ok()) {
                let _ = pidfd.send_signal(Signal::KILL);
            }
        }
    }
}

/// A guest in the background.
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

impl Guest {
    /// The raw network devices that QEMU holds: kind and interface or node.
    pub(crate) fn holds(&self) -> Vec<String> {
        let mut held: Vec<String> = raw_devices(self.pid)
            .expect("a running QEMU")
            .into_iter()
            .map(|held| {
                let of = held.ifname.map_or_else(|| held.path.display().to_string(), |name| name.to_string());
                format!("{} {of}", held.kind)
            })
            .collect();
        held.sort();
        held
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = ProcessId::of(self.pid).expect("a running QEMU");
        PidFd::open(id).expect("a pidfd").send_signal(signal).expect("a signal");
    }

    pub(crate) fn is_alive(&self) -> bool {
        ProcessId::of(self.pid).is_ok_and(|id| id.is_alive())
    }
}

/// A guest in the foreground.
pub(crate) struct Foreground {
    pub(crate) child: Child,
    stderr: PathBuf,
}

impl Foreground {
    pub(crate) fn signal(&self, signal: Signal) {
        let id = ProcessId::of(self.child.id()).expect("a running supervisor");
        PidFd::open(id).expect("a pidfd").send_signal(signal).expect("a signal");
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a supervisor that ends")
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).expect("what it said")
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::INT);
            self.signal(Signal::INT);
            let _ = self.child.wait();
        }
    }
}

/// A command that ended.
pub(crate) struct CommandResult {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandResult {
    pub(crate) fn success(&self) -> bool {
        self.status.success()
    }

    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Asserts success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.success(), "{}: {}{}", self.status, self.stdout, self.stderr);
        self
    }

    /// Asserts that it failed with this code, and that standard error contains `says`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, says: &str) -> Self {
        assert_eq!(self.code(), code, "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(says), "'{says}' is not in: {}", self.stderr);
        self
    }
}

impl From<Output> for CommandResult {
    fn from(output: Output) -> Self {
        Self {
            status: output.status,
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

fn sh<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program).args(arguments).output().expect("a program");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Whether the path exists.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// One record as a short line: the event, the MAC's last byte, the device, and the outcome.
fn summarize(record: &Record) -> String {
    let of = record.event.mac().map(|mac| format!(" {:02x}", mac.0[5])).unwrap_or_default();
    let device = |device: &taptrail_record::Device, queue: &Option<u32>| {
        let dev = device.dev.as_ref().map(|dev| format!(" {dev}")).unwrap_or_default();
        let queue = queue.map(|queue| format!(" q{queue}")).unwrap_or_default();
        format!(" {}{dev}{queue}", device.kind)
    };
    let what = match &record.event {
        Event::Open { device: of, queue, .. } => ("open", device(of, queue)),
        Event::Close { device: of, queue, .. } => ("close", device(of, queue)),
        Event::Keep { device: of, queue, .. } => ("keep", device(of, queue)),
        Event::Filter { device: of, .. } => ("filter", device(of, &None)),
        Event::Mac { device: of, .. } => ("mac", device(of, &None)),
        Event::Update { device: of, phase, settings, .. } => {
            (phase.as_str(), format!("{} {settings}", device(of, &None)))
        }
        Event::Start { .. } => ("start", String::new()),
        Event::Attach { .. } => ("attach", String::new()),
        Event::Detach { forced: false, .. } => ("detach", String::new()),
        Event::Detach { forced: true, .. } => ("revoke", String::new()),
        Event::Seen(of) => ("seen", device(&of.device, &of.queue)),
        Event::Gone(of) => ("gone", device(&of.device, &of.queue)),
        Event::GuestStart { reason, .. } => ("guest", format!(" {reason}")),
        Event::GuestStop { reason, .. } => ("guest", format!(" {reason}")),
        Event::GuestGone { .. } => ("guest", " gone".to_owned()),
    };
    let outcome = match record.outcome {
        Outcome::Success => "",
        Outcome::Failed => " FAILED",
    };
    format!("{}{of}{}{outcome}", what.0, what.1)
}
