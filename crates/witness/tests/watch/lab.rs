//! The test harness: a network namespace, a state directory, and a watcher with its log.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sched::{CloneFlags, unshare};
use taptrail_kernel::proc::raw_devices;
use taptrail_ledger::{Guest, Ledger};
use taptrail_record::{MacAddr, RecordType, parse_text};
use taptrail_trail::{Content, Entry, Report, Trail};
use taptrail_witness::watch::{EventKind, WatchEvent, WatchOptions, Watcher};

pub(crate) const HOST: &str = "h1";
const LONG: Duration = Duration::from_secs(20);

pub(crate) fn mac(last: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0x0a, 0x0c, last])
}

pub(crate) struct Lab {
    pub(crate) state: tempfile::TempDir,
    pub(crate) watcher: Option<Watcher>,
    /// The watcher's patience.
    pub(crate) patience: Duration,
    /// The entries of the log; `taken`: how many of them the watcher has taken.
    pub(crate) log: Vec<Entry>,
    taken: usize,
    pub(crate) happened: Vec<WatchEvent>,
}

/// Runs a test on a thread that has a network namespace of its own.
pub(crate) fn lab(test: impl FnOnce(Lab) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root and network namespaces are needed");
            ip("link add br0 type bridge");
            ip("link add lower type veth peer name upper");
            let state = tempfile::tempdir().unwrap();
            let patience = Duration::from_millis(300);
            let (log, happened) = (Vec::new(), Vec::new());
            let mut lab = Lab { state, watcher: None, patience, log, taken: 0, happened };
            lab.watch();
            test(lab);
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("/sbin/ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// A process in a network namespace of its own.
pub(crate) struct Container(std::process::Child);

impl Container {
    pub(crate) fn start() -> Self {
        let mut sleep = std::process::Command::new("/usr/bin/unshare");
        let container = Self(sleep.args(["--net", "/bin/sleep", "1000"]).spawn().unwrap());
        let place = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
        while place(&container.pid().to_string()) == place("thread-self") {
            std::thread::yield_now();
        }
        container
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Moves a link there. `changes`: what ip-link(8) sets together with that.
    pub(crate) fn takes(&self, link: &str, changes: &str) {
        ip(&format!("link set {link} {changes} netns {}", self.pid()));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Lab {
    /// Starts a watcher, which continues where the last one was.
    pub(crate) fn watch(&mut self) {
        let options = WatchOptions {
            patience: self.patience,
            every: self.patience / 3,
            libvirt: self.libvirt(),
            ..WatchOptions::of_host(HOST)
        };
        let watcher = Watcher::open(self.state.path(), options).unwrap();
        self.taken = watcher.checkpoint().map_or(0, |text| text.parse().unwrap());
        self.watcher = Some(watcher);
    }

    /// The directory in which the manager keeps the state of its guests.
    pub(crate) fn libvirt(&self) -> PathBuf {
        self.state.path().join("libvirt")
    }

    /// One round of the watcher: it takes all that the log has, looks and commits.
    pub(crate) fn round(&mut self) {
        let watcher = self.watcher.as_mut().unwrap();
        self.log[self.taken..].iter().for_each(|entry| watcher.take(entry));
        self.taken = self.log.len();
        watcher.look();
        self.happened.extend(watcher.commit(Some(&self.taken.to_string())).unwrap());
    }

    /// Runs rounds until a condition is true.
    pub(crate) fn run_until(&mut self, what: &str, mut is: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + LONG;
        loop {
            self.round();
            if is(self) {
                return;
            }
            assert!(Instant::now() < deadline, "{what} does not come: {:#?}", self.happened);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs rounds for longer than the watcher's patience.
    pub(crate) fn run_past_patience(&mut self) {
        let end = Instant::now() + self.patience * 2 + Duration::from_millis(100);
        while Instant::now() < end {
            self.round();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::open_to_read(self.state.path()).unwrap()
    }

    /// The devices that guests hold by the ledger: descriptor, kind, path, interface, and the last
    /// byte of the MAC.
    pub(crate) fn recorded_devices(&self) -> Vec<String> {
        let ledger = self.ledger();
        let mut all = Vec::new();
        for guest in ledger.live_guests().unwrap() {
            for held in ledger.live_devices(guest.key).unwrap() {
                let dev = held.device.dev.unwrap_or_else(|| "-".into());
                let (fd, kind, path) = (held.qemu_fd.unwrap(), held.device.kind, held.device.path);
                all.push(format!("{fd} {kind} {path} {dev} {:02x}", held.mac.0[5]));
            }
        }
        all.sort();
        all
    }

    /// Asserts that a process holds exactly the devices that the ledger says.
    pub(crate) fn assert_recorded(&self, pid: u32) {
        let mut held: Vec<String> = raw_devices(pid)
            .unwrap_or_default()
            .into_iter()
            .map(|held| format!("{} {} {}", held.fd, held.kind, held.path.display()))
            .collect();
        held.sort();
        let recorded = self.recorded_devices();
        let expected: Vec<String> =
            recorded.iter().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(expected, held, "{recorded:?}");
    }

    pub(crate) fn guests(&self) -> Vec<Guest> {
        self.ledger().guests().unwrap()
    }

    /// The trail of the ledger alone, which has the manager's records, too.
    pub(crate) fn report(&self) -> Report {
        let mut trail = Trail::new();
        for stored in self.ledger().into_records() {
            let stored = stored.unwrap();
            let record = parse_text(RecordType(stored.kind), stored.text.as_bytes()).unwrap().unwrap();
            trail.feed(&Entry {
                host: HOST.into(),
                time: stored.time,
                serial: stored.serial,
                writer: stored.writer,
                credentials: None,
                source: "ledger".into(),
                line: u64::try_from(stored.id).unwrap(),
                content: Content::Record(record),
                text: None,
                copies: Vec::new(),
                unauthenticated: false,
            });
        }
        trail.finish()
    }

    /// The trail of the log and the ledger together, with each record once.
    pub(crate) fn report_of_both(&self) -> Report {
        let mut entries = self.log.clone();
        for stored in self.ledger().into_records().map(Result::unwrap).filter(|stored| !stored.copied) {
            let record = parse_text(RecordType(stored.kind), stored.text.as_bytes()).unwrap().unwrap();
            let (host, source) = (HOST.into(), "ledger".into());
            let (line, content) = (u64::try_from(stored.id).unwrap(), Content::Record(record));
            let (time, serial, writer) = (stored.time, stored.serial, stored.writer);
            entries.push(Entry {
                host,
                time,
                serial,
                writer,
                credentials: None,
                source,
                line,
                content,
                text: None,
                copies: Vec::new(),
                unauthenticated: false,
            });
        }
        entries.sort_by_key(|entry| entry.time);
        let mut trail = Trail::new();
        entries.iter().for_each(|entry| trail.feed(entry));
        trail.finish()
    }

    /// Each holding in one line.
    pub(crate) fn holdings(&self) -> Vec<String> {
        holdings(&self.report())
    }

    /// The kinds of the findings that the watcher reported.
    pub(crate) fn findings(&self) -> Vec<&'static str> {
        let found = self.happened.iter().filter_map(|event| match &event.kind {
            EventKind::Found(finding) => Some(finding.kind.as_str()),
            _ => None,
        });
        found.collect()
    }

    /// The releases that the watcher reported, each in one line.
    pub(crate) fn released(&self) -> Vec<String> {
        let released = self.happened.iter().filter_map(|event| match &event.kind {
            EventKind::Released(holding) => Some(line(holding)),
            _ => None,
        });
        released.collect()
    }

    /// Adds an entry to the log.
    pub(crate) fn append(&mut self, content: Content, writer: u32) {
        self.append_at(Timestamp::now(), content, writer);
    }

    pub(crate) fn append_at(&mut self, time: Timestamp, content: Content, writer: u32) {
        let line = self.log.len() as u64 + 1;
        let (host, source): (Arc<str>, Arc<str>) = (HOST.into(), "audit.log".into());
        let serial = u32::try_from(line).ok().map(|line| 100 + line);
        self.log.push(Entry {
            host,
            time,
            serial,
            writer: Some(writer),
            credentials: None,
            source,
            line,
            content,
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        });
    }

    pub(crate) fn path(&self) -> &Path {
        self.state.path()
    }
}

pub(crate) fn holdings(report: &Report) -> Vec<String> {
    report.holdings.iter().map(line).collect()
}

fn line(holding: &taptrail_trail::Holding) -> String {
    let ended = holding.ended_by.map_or("-", |by| by.as_str());
    let dev = holding.device.dev.as_deref().unwrap_or("-");
    let (kind, queues) = (holding.device.kind, holding.queues);
    let (state, certainty) = (holding.state.as_str(), holding.certainty.as_str());
    let queues = queues.map_or("?".to_owned(), |queues| queues.to_string());
    format!("{kind} {dev} {:02x} x{queues} {state} {ended} {certainty}", holding.mac.0[5])
}
