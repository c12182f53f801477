//! `taptrail watch`: one loop that follows a log, inspects guests, commits to the ledger, and
//! notifies.
//!
//! ```text
//!   poll ─▶ source.look ─▶ watcher.take ─▶ watcher.look ─▶ commit ─▶ notify: stdout, journald, programs,
//!    ▲      what the log   each entry       pidfds, /proc   one       webhooks, numbers
//!    └──────has now                                         transaction ┘
//! ```
//!
//! One poll(2) waits for the log, signals, QEMUs' ends, and scrapers. Delivery never blocks the
//! loop: slow subscribers lose events, and get the number of lost events. The accounts of the bridge
//! helper's taps, which concern no guest, have a thread of their own (`bridge_taps.rs`).

mod actions;
mod bridge_taps;
mod event;
mod http;
mod journal;
mod metrics;
mod notifiers;
mod signals;
mod source;
mod stdout;

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use taptrail_bpf::LastCloses;
use taptrail_guest::{Dirs, ServiceManager, chain};
use taptrail_kernel::audit::Audit;
use taptrail_kernel::poll_timeout;
use taptrail_ledger::LedgerError;
use taptrail_source::follow::{Checkpoint, LineDefaults, PollBatch, Source};
use taptrail_witness::watch::{WatchError, WatchOptions, Watcher};
use tracing::{info, warn};

pub(crate) use self::actions::{Program, Rule, Url};
use self::bridge_taps::BridgeTapsThread;
use self::http::Server;
pub(crate) use self::journal::SOCKET as JOURNAL;
use self::metrics::{Bpf, Metrics, Sample, Textfile};
use self::notifiers::{Counts, Notifiers};
use self::signals::Signals;
use self::source::OpenedSource;
use crate::CommandResult;
use crate::cli::Watch;
use crate::output::Failure;
use crate::reading::allow_many_files;

/// Entries in one transaction while there are more.
const MAX_ENTRIES_PER_COMMIT: usize = 4096;

/// Bytes of a log without relevant records after which a checkpoint is written.
const CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;

/// Minimum time between two reads of a growing log: otherwise each write of auditd would wake us.
const MIN_READ_INTERVAL: Duration = Duration::from_millis(10);

/// Pause before the ledger, or the log, is tried again after an error; doubled each time.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(32);

/// How often to count deliveries for the metrics file while some are under way.
const DELIVERY_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Warnings about unreadable lines.
const MAX_UNREADABLE_WARNINGS: u64 = 20;

pub(crate) fn watch(arguments: &Watch, dirs: &Dirs) -> CommandResult {
    let mut watch_loop = WatchLoop::begin(arguments, dirs)?;
    let status = match watch_loop.missing() {
        Some(path) => {
            let path = path.display();
            warn!(
                "{path} does not exist: no guest is watched until it does. If another file is meant, name it by --log; \
                 on a host without auditd, --kernel follows the kernel itself"
            );
            waits_for(&path)
        }
        None => format!("Reads {}", watch_loop.name),
    };
    // This does not block if the service manager does not read.
    let _ = watch_loop.manager.notify(&format!("READY=1\nSTATUS={status}"));
    watch_loop.run()?;
    Ok(ExitCode::SUCCESS)
}

/// The state of the loop: see the module.
struct WatchLoop {
    watcher: Watcher,
    source: Box<dyn Source>,
    /// The source's name for messages.
    name: String,
    /// The log's path, if a log is followed.
    path: Option<PathBuf>,
    signals: Signals,
    notifiers: Notifiers,
    metrics: Metrics,
    textfile: Option<Textfile>,
    /// The delivery counts when they were last checked, and whether deliveries were under way.
    delivered: (Counts, bool),
    server: Option<Server>,
    /// The kernel's audit, for its count of lost records.
    audit: Option<Audit>,
    /// --bpf was given.
    bpf: bool,
    manager: ServiceManager,
    /// The accounts of the bridge helper's taps, if they are kept. They end with the loop.
    _bridge_taps: Option<BridgeTapsThread>,
    /// Entries taken, and bytes read, since the last checkpoint.
    entries: usize,
    bytes: u64,
    unreadable: u64,
    /// The log is not read before this time.
    hold: Instant,
    /// The log has more to read.
    more: bool,
    /// The log was once read to its end.
    caught_up: bool,
    ended: bool,
    /// The backoff of the log, and of the ledger.
    log: Backoff,
    ledger: Backoff,
}

/// Exponential backoff; inactive unless the last attempt failed.
#[derive(Default)]
struct Backoff(Option<(Instant, Duration)>);

impl Backoff {
    /// An attempt failed: logs why, tells the service manager, and starts or doubles the pause.
    fn failed(&mut self, why: &str, manager: &mut ServiceManager) {
        self.begin(why);
        manager.status(format!("Waits: {why}"));
    }

    /// An attempt failed: logs why, and starts or doubles the pause.
    fn begin(&mut self, why: &str) {
        let pause = self.0.map_or(RETRY_DELAY, |(_, pause)| (pause * 2).min(MAX_RETRY_DELAY));
        warn!("{why}; tried again in {} s", pause.as_secs());
        self.0 = Some((Instant::now() + pause, pause));
    }

    fn is_active(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it may be tried now.
    fn may_retry(&self) -> bool {
        self.0.is_none_or(|(until, _)| until <= Instant::now())
    }

    fn until(&self) -> Option<Instant> {
        self.0.map(|(until, _)| until)
    }
}

impl WatchLoop {
    fn begin(arguments: &Watch, dirs: &Dirs) -> Result<Self, Failure> {
        allow_many_files();
        if let Some(address) = arguments.metrics_listen
            && !address.ip().is_loopback()
            && !arguments.metrics_for_all
        {
            return Err(Failure::input(anyhow::anyhow!(
                "Other hosts can reach {address}, and the metrics contain the guests' names: add --metrics-for-all, or use an \
                 address like 127.0.0.1:{}",
                address.port()
            )));
        }
        for rule in &arguments.on_finding {
            rule.action.check().map_err(|error| {
                Failure::input(anyhow::anyhow!(
                    "{error}; give an executable program to --on-finding, or leave it out"
                ))
            })?;
        }
        // First of all: from now on a signal leads to an orderly end.
        let signals = Signals::new().context("Signals can't be received")?;
        let host: Arc<str> = rustix::system::uname().nodename().to_string_lossy().into();
        let options = WatchOptions {
            emit_audit: arguments.emit_audit,
            libvirt: arguments.libvirt.clone(),
            every: arguments.every,
            ..WatchOptions::of_host(Arc::clone(&host))
        };
        let mut watcher = Watcher::open(&dirs.state, options).map_err(Failure::input)?;
        if arguments.bpf
            && let Some(closes) = LastCloses::load_or_warn()
        {
            watcher.use_last_closes(closes);
        }
        let left = watcher.checkpoint().map(str::parse::<Checkpoint>).transpose().map_err(Failure::input)?;
        let about = LineDefaults { host, zone: TimeZone::system() };
        let OpenedSource { source, name, log: path, plan } = source::open(arguments, about, left.as_ref())?;
        plan.iter().for_each(|line| info!("{line}"));
        let held: HashSet<_> = watcher.held().map(|holding| holding.guest.uuid).collect();
        if !held.is_empty() {
            info!("Guests that hold devices, as the ledger knows them: {}", held.len());
        }
        let server = arguments.metrics_listen.map(Server::new).transpose();
        let server = server.with_context(|| match arguments.metrics_listen {
            Some(address) => format!("Can't listen on {address}"),
            None => String::new(),
        })?;
        if let Some(address) = server.as_ref().and_then(|server| server.address().ok()) {
            info!("metrics are served at http://{address}/metrics");
        }
        // Behind the watcher, which has the ledger's lock.
        let bridge_taps =
            arguments.bridge_taps.then(|| BridgeTapsThread::start(&dirs.state, arguments.emit_audit));
        let bridge_taps = bridge_taps.transpose().map_err(Failure::input)?;
        let measured = arguments.metrics_file.is_some() || server.is_some();
        let now = Instant::now();
        Ok(Self {
            watcher,
            source,
            name,
            path,
            signals,
            notifiers: Notifiers::new(arguments)?,
            metrics: Metrics::default(),
            textfile: arguments.metrics_file.as_deref().map(Textfile::new),
            delivered: Default::default(),
            server,
            audit: if measured { Audit::with_readlog(None).ok() } else { None },
            bpf: arguments.bpf,
            manager: ServiceManager::of_environment(),
            _bridge_taps: bridge_taps,
            entries: 0,
            bytes: 0,
            unreadable: 0,
            hold: now,
            more: false,
            caught_up: false,
            ended: false,
            log: Backoff::default(),
            ledger: Backoff::default(),
        })
    }

    /// The path of the log, if the log does not exist.
    fn missing(&self) -> Option<&Path> {
        self.path.as_deref().filter(|path| matches!(path.try_exists(), Ok(false)))
    }

    /// `Follows /var/log/audit/audit.log: 2 guests hold 5 devices`
    fn status(&self) -> String {
        let (mut guests, mut devices) = (HashSet::new(), 0);
        for holding in self.watcher.held() {
            guests.insert(holding.guest.uuid);
            devices += 1;
        }
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let guests = guests.len();
        let hold = if guests == 1 { "holds" } else { "hold" };
        let follows = match self.missing() {
            Some(path) => waits_for(&path.display()),
            None => format!("Follows {}", self.name),
        };
        format!("{follows}: {guests} guest{} {hold} {devices} device{}", plural(guests), plural(devices))
    }

    fn run(&mut self) -> Result<(), Failure> {
        let mut at_once = true;
        loop {
            self.manager.ping();
            let stop = self.signals.stop();
            if self.ledger.is_active() && (stop || self.ledger.may_retry()) {
                // A failed commit is retried before anything new is read.
                self.commit(stop)?;
            }
            if !self.ledger.is_active() {
                if (at_once || stop || self.hold <= Instant::now()) && self.log.may_retry() {
                    self.read();
                }
                if !self.more {
                    let due = self.watcher.next_look().is_some_and(|due| due <= Instant::now());
                    self.watcher.look();
                    self.metrics.looked();
                    if due {
                        self.mark_due();
                    }
                }
                let last = stop || self.ended;
                if last
                    || !self.more
                    || self.entries >= MAX_ENTRIES_PER_COMMIT
                    || self.bytes >= CHECKPOINT_BYTES
                {
                    self.commit(last)?;
                }
            }
            self.export_metrics();
            if stop || self.ended || self.notifiers.is_unused() {
                let _ = self.manager.notify("STOPPING=1\nSTATUS=Stopped watching");
                return Ok(());
            }
            at_once = self.wait().context("poll(2) failed")?;
        }
    }

    /// Reads what is new in the log.
    fn read(&mut self) {
        let mut batch = PollBatch::default();
        match self.source.poll(&mut batch) {
            Ok(()) if self.log.is_active() => {
                self.log = Backoff::default();
                let status = self.status();
                self.manager.status(status);
            }
            Ok(()) => {}
            Err(error) => {
                self.log.failed(&chain(&error), &mut self.manager);
                batch.more = false;
            }
        }
        for line in &batch.located {
            self.unreadable += 1;
            if self.unreadable <= MAX_UNREADABLE_WARNINGS {
                warn!("{}:{} can't be read: {}", line.source, line.line, line.reason);
            }
        }
        for entry in &batch.entries {
            self.watcher.take(entry);
        }
        self.metrics.read(&batch, &*self.source);
        self.entries += batch.entries.len();
        self.bytes += batch.bytes;
        (self.more, self.ended) = (batch.more, batch.ended);
        if !self.more && !self.log.is_active() && !std::mem::replace(&mut self.caught_up, true) {
            // Holdings of earlier watchers count, whether the log has anything new or not.
            let status = self.status();
            self.manager.status(status);
        }
        if batch.lines > 0 {
            self.hold = Instant::now() + MIN_READ_INTERVAL;
            self.mark_due();
        }
    }

    /// Commits to the ledger, and then notifies.
    fn commit(&mut self, last: bool) -> Result<(), Failure> {
        // Without relevant records no checkpoint is written: those lines are read again.
        let far = self.entries > 0 || self.bytes >= CHECKPOINT_BYTES || last;
        let checkpoint = far.then(|| self.source.checkpoint().to_string());
        if last && !self.more {
            self.watcher.final_look();
        }
        match self.watcher.commit(checkpoint.as_deref()) {
            Ok(happenings) => {
                if far {
                    (self.entries, self.bytes) = (0, 0);
                }
                let again = std::mem::take(&mut self.ledger).is_active();
                if far || again || !happenings.is_empty() {
                    self.metrics.committed(&happenings);
                    self.mark_due();
                    let status = self.status();
                    self.manager.status(status);
                }
                happenings.iter().for_each(|happening| self.notifiers.notify(happening));
                Ok(())
            }
            Err(error) if last => {
                let text =
                    "The last observations could not be committed; the next watcher will read them again";
                Err(anyhow::Error::new(error).context(text).into())
            }
            // This does not pass: the open file would be lost with this process.
            Err(error @ WatchError::Ledger(LedgerError::Removed { .. } | LedgerError::Replaced { .. })) => {
                let text = "The ledger's file was removed or replaced; the next watcher starts with the file that is there then";
                Err(anyhow::Error::new(error).context(text).into())
            }
            Err(error) => {
                self.metrics.commit_failed();
                self.ledger.failed(&chain(&error), &mut self.manager);
                Ok(())
            }
        }
    }

    fn mark_due(&mut self) {
        if let Some(file) = &mut self.textfile {
            file.mark_due();
        }
    }

    /// Serves and writes the metrics.
    fn export_metrics(&mut self) {
        if let Some(file) = &mut self.textfile {
            // In this order: a delivery that ends in between is counted.
            let busy = self.notifiers.is_busy();
            let delivered = (self.notifiers.counts(), busy);
            if delivered.0 != self.delivered.0 {
                file.mark_due();
            }
            self.delivered = delivered;
        }
        let present = self.path.is_some().then(|| self.missing().is_none());
        let Self { watcher, metrics, notifiers, audit, bpf, .. } = self;
        let mut text = || {
            let kernel = audit.as_mut().and_then(|audit| audit.status().ok());
            metrics.text(&Sample {
                held: watcher.held().collect(),
                present,
                deliveries: notifiers.counts(),
                kernel: kernel.map(|status| (status.lost, status.backlog)),
                bpf: match (*bpf, watcher.lost_events()) {
                    (false, _) => Bpf::NotAsked,
                    (true, None) => Bpf::NotLoaded,
                    (true, Some(lost)) => Bpf::Loaded { lost },
                },
            })
        };
        if let Some(server) = &mut self.server {
            server.serve_ready(&mut text);
        }
        if let Some(file) =
            self.textfile.as_mut().filter(|file| file.next().is_some_and(|left| left.is_zero()))
            && let Err(error) = file.write(&text())
        {
            warn!("Metrics can't be written: {error}");
        }
    }

    /// Waits for something to do. Returns whether to read the log at once: a QEMU has ended, and
    /// the log has the reason.
    fn wait(&self) -> Result<bool, Errno> {
        if self.more && !self.ledger.is_active() {
            return Ok(true);
        }
        let now = Instant::now();
        let until = |instant: Instant| instant.saturating_duration_since(now);
        let hold = (self.hold > now).then_some(self.hold);
        let held = self.ledger.until().or(self.log.until()).or(hold);
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
        let source = self.source.poll_fd().filter(|_| held.is_none());
        fds.extend(source.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let awaited = self.server.iter().flat_map(Server::awaited);
        fds.extend(awaited.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let others = fds.len();
        if !self.ledger.is_active() {
            fds.extend(self.watcher.awaited().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let looks = (!self.ledger.is_active()).then(|| self.watcher.next_look()).flatten();
        let timeout = [
            held.map(until),
            looks.map(until),
            self.source.poll_interval().filter(|_| held.is_none()),
            self.server.as_ref().and_then(Server::next).map(until),
            self.textfile.as_ref().and_then(Textfile::next),
            self.delivered.1.then_some(DELIVERY_POLL_INTERVAL),
            self.manager.next_ping(),
        ];
        let timeout = timeout.into_iter().flatten().min().and_then(poll_timeout);
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(fds[others..].iter().any(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// The status while the log does not exist.
fn waits_for(path: &std::path::Display<'_>) -> String {
    format!("Waits for {path}, which does not exist")
}
