//! The witness: a thread that continuously scans the descriptors of every guest's QEMU.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::command_line::CommandLine;
use super::descriptors::{self, Descriptor};
use super::intervals::{Interval, Intervals};

/// The interval between the beginnings of two scans. A scan takes some milliseconds.
const EVERY: Duration = Duration::from_millis(20);

/// A guest's QEMU.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) uuid: String,
    pub(super) first_seen: f64,
    pub(super) last_seen: f64,
    #[serde(skip)]
    pub(super) command_line: CommandLine,
}

/// The observations during one scenario.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) processes: Vec<Process>,
    pub(super) intervals: Vec<Interval>,
    pub(super) looks: u64,
    /// In seconds.
    pub(super) longest_gap: f64,
}

#[derive(Debug, Default)]
struct State {
    processes: BTreeMap<u32, Process>,
    intervals: Intervals,
    /// The result of the last scan.
    now: Vec<Descriptor>,
    alive: Vec<u32>,
    looks: u64,
    last_look: Option<Instant>,
    longest_gap: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Poller {
    state: Arc<Mutex<State>>,
}

impl Poller {
    /// Scans from now on, until this process ends. Guests have pids above `floor`.
    pub(super) fn start(floor: u32) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let its = Arc::clone(&state);
        std::thread::spawn(move || {
            let mut known = Known::new();
            loop {
                let begun = Instant::now();
                let looked = look(floor, &mut known);
                lock(&its).take(begun, looked);
                std::thread::sleep(EVERY.saturating_sub(begun.elapsed()));
            }
        });
        Self { state }
    }

    /// All observations since the last call. Descriptors that are held now are also in the next
    /// result.
    pub(super) fn take(&self) -> Seen {
        let state = std::mem::take(&mut *lock(&self.state));
        Seen {
            processes: state.processes.into_values().collect(),
            intervals: state.intervals.all(),
            looks: state.looks,
            longest_gap: rounded(state.longest_gap.as_secs_f64()),
        }
    }

    /// Waits until so many more scans have begun and ended.
    pub(super) fn wait_looks(&self, count: u64) {
        // The current scan began before.
        let end = lock(&self.state).looks + count + 1;
        while lock(&self.state).looks < end {
            std::thread::sleep(EVERY / 2);
        }
    }

    /// The guests' QEMUs of the last scan, each with its devices.
    pub(super) fn now(&self) -> Vec<(Process, Vec<Descriptor>)> {
        let state = lock(&self.state);
        let alive = state.alive.iter().filter_map(|pid| state.processes.get(pid));
        let held = |process: &Process| {
            let mut held: Vec<_> = state.now.iter().filter(|one| one.pid == process.pid).cloned().collect();
            held.sort_by_key(|descriptor| descriptor.fd);
            held
        };
        alive.map(|process| (process.clone(), held(process))).collect()
    }
}

/// After a panic of the other thread, its earlier observations are still valid.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of one scan.
struct Looked {
    time: f64,
    guests: Vec<(u32, CommandLine)>,
    descriptors: Vec<Descriptor>,
}

impl State {
    fn take(&mut self, begun: Instant, looked: Looked) {
        let Looked { time, guests, descriptors } = looked;
        if let Some(last) = self.last_look {
            self.longest_gap = self.longest_gap.max(begun - last);
        }
        self.last_look = Some(begun);
        self.looks += 1;
        self.alive = guests.iter().map(|(pid, _)| *pid).collect();
        for (pid, command_line) in guests {
            let known = self.processes.entry(pid).or_insert_with(|| Process {
                pid,
                uuid: command_line.uuid.clone(),
                first_seen: time,
                last_seen: time,
                command_line,
            });
            known.last_seen = time;
        }
        self.now.clone_from(&descriptors);
        self.intervals.look(time, descriptors, descriptors::interface_of);
    }
}

/// Command lines that were read before, so that a scan is fast; none for a process that is not a
/// guest's QEMU.
type Known = BTreeMap<u32, Option<CommandLine>>;

fn look(floor: u32, known: &mut Known) -> Looked {
    let time = now();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pids: Vec<u32> = pids.filter(|pid| *pid > floor).collect();
    known.retain(|pid, _| pids.contains(pid));
    let guests: Vec<_> = pids.iter().filter_map(|pid| Some((*pid, guest(*pid, known)?))).collect();
    let descriptors = guests.iter().flat_map(|(pid, _)| descriptors::of(*pid)).collect();
    Looked { time, guests, descriptors }
}

/// A guest's command line, if this is a guest's QEMU.
fn guest(pid: u32, known: &mut Known) -> Option<CommandLine> {
    if let Some(known) = known.get(&pid) {
        return known.clone();
    }
    // Before execve(2) it is a child of libvirt's daemon.
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    if !name.starts_with(b"qemu-system") {
        return None;
    }
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|bytes| !bytes.is_empty())?;
    known.entry(pid).or_insert(CommandLine::parse(&bytes)).clone()
}

/// Seconds since 1970, with milliseconds, as in audit records.
pub(super) fn now() -> f64 {
    rounded(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
