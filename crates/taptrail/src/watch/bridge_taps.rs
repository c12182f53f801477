//! The thread that keeps the accounts of the bridge helper's taps (`--bridge-taps`).
//!
//! Any local user may connect to its socket, and a helper waits for its answer: so neither is left
//! to the loop, which may have a log to read.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use taptrail_bridge_helper::broker::Broker;
use taptrail_guest::chain;
use taptrail_kernel::poll_timeout;
use taptrail_witness::bridge_taps::{BridgeTaps, LOOK_INTERVAL};
use tracing::{info, warn};

use super::Backoff;

/// Minimum time between two looks: a busy host has many changes of links.
const MIN_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The running thread. It ends, and writes what it last saw, when this is dropped.
pub(super) struct BridgeTapsThread {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl BridgeTapsThread {
    pub(super) fn start(state: &Path, emit_audit: bool) -> anyhow::Result<Self> {
        let taps = BridgeTaps::open(state, emit_audit).context("--bridge-taps can't be used")?;
        let broker = Broker::listen().context("--bridge-taps can't be used")?;
        if taps.count() > 0 {
            info!("Taps of the bridge helper that were open, as the ledger knows them: {}", taps.count());
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stopped = stop.try_clone().context("A descriptor can't be duplicated")?;
        let keeper = Keeper { taps, broker, looked: Instant::now(), failed: Backoff::default() };
        let thread = std::thread::Builder::new()
            .name("bridge-taps".to_owned())
            .spawn(move || keeper.run(&stopped))
            .context("A thread can't be started")?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for BridgeTapsThread {
    fn drop(&mut self) {
        // An eventfd takes that.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("The thread that keeps the accounts of the bridge helper's taps has failed");
        }
    }
}

struct Keeper {
    taps: BridgeTaps,
    broker: Broker,
    looked: Instant,
    failed: Backoff,
}

impl Keeper {
    fn run(mut self, stop: &OwnedFd) {
        // Some may have been closed since the last watcher.
        self.look();
        loop {
            let woken = match self.wait(stop) {
                Ok(Woken { by_stop: true, .. }) => break,
                Ok(woken) => woken,
                Err(errno) => {
                    warn!("poll(2) failed: {errno}; taps of the bridge helper get no accounts any more");
                    return;
                }
            };
            let Self { broker, taps, .. } = &mut self;
            broker.turn(|open| {
                taps.account(open.clone()).map_err(|error| {
                    let error = chain(&error);
                    warn!("A tap of the bridge helper gets no account: {error}");
                    error
                })
            });
            if woken.by_change || self.next_look().is_some_and(|due| due <= Instant::now()) {
                self.look();
            }
        }
        self.look();
        if let Err(error) = self.taps.write_last_seen() {
            warn!("{}", chain(&error));
        }
    }

    fn look(&mut self) {
        if !self.failed.may_retry() {
            return;
        }
        self.looked = Instant::now();
        match self.taps.look() {
            Ok(()) => self.failed = Backoff::default(),
            Err(error) => self.failed.begin(&chain(&error)),
        }
    }

    /// When to look without a change.
    fn next_look(&self) -> Option<Instant> {
        let due = self.looked + LOOK_INTERVAL.unsigned_abs();
        (self.taps.count() > 0).then(|| self.failed.until().unwrap_or(due))
    }

    /// Waits for something to do.
    fn wait(&self, stop: &OwnedFd) -> Result<Woken, Errno> {
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        fds.extend(self.broker.awaited().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let others = fds.len();
        // Another change soon after a look waits.
        let rested = self.looked + MIN_LOOK_INTERVAL;
        let rests = rested > Instant::now();
        if !rests && !self.failed.is_active() {
            fds.extend(self.taps.awaited().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let rested = (rests && self.taps.count() > 0).then_some(rested);
        let until = [self.next_look(), rested, self.broker.deadline()].into_iter().flatten().min();
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        match poll(&mut fds, timeout.and_then(poll_timeout).as_ref()) {
            Ok(_) => Ok(Woken {
                by_stop: !fds[0].revents().is_empty(),
                by_change: fds[others..].iter().any(|fd| !fd.revents().is_empty()),
            }),
            Err(Errno::INTR) => Ok(Woken::default()),
            Err(errno) => Err(errno),
        }
    }
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, Default)]
struct Woken {
    /// The thread is to end.
    by_stop: bool,
    /// A link has changed.
    by_change: bool,
}
