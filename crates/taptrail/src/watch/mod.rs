//! `taptrail watch`: one loop that follows a log, looks at guests, makes it last, and tells.
//!
//! ```text
//!   poll ─▶ source.look ─▶ watcher.take ─▶ watcher.look ─▶ commit ─▶ tell: stdout, journald, programs,
//!    ▲      what the log   each entry       pidfds, /proc   one       webhooks, numbers
//!    └──────has now                                         transaction ┘
//! ```
//!
//! One poll(2) waits for the log, signals, QEMUs' ends, and scrapers. Nothing in the loop waits for anybody else:
//! who is told and is slow misses something, and is told that.

mod actions;
mod event;
mod http;
mod journal;
mod metrics;
mod signals;
mod source;
mod stdout;
mod tellers;

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use taptrail_bpf::LastCloses;
use taptrail_guest::{Dirs, ServiceManager, chain};
use taptrail_kernel::audit::Audit;
use taptrail_ledger::LedgerError;
use taptrail_source::follow::{Checkpoint, LineDefaults, PollBatch, Source};
use taptrail_witness::watch::{WatchError, WatchOptions, Watcher};
use tracing::{info, warn};

pub(crate) use self::actions::{Program, Rule, Url};
use self::http::Server;
pub(crate) use self::journal::SOCKET as JOURNAL;
use self::metrics::{Bpf, Metrics, Now, Textfile};
use self::signals::Signals;
use self::source::Followed;
use self::tellers::{Counts, Tellers};
use crate::Done;
use crate::cli::Watch;
use crate::output::Failure;
use crate::reading::allow_many_files;

/// How many entries go into one transaction while there are more.
const ENTRIES: usize = 4096;

/// After how much of a log that tells nothing it is noted how far it was read.
const BYTES: u64 = 16 * 1024 * 1024;

/// A log that grows is looked at as often as this at most: one write of auditd's is one wake otherwise.
const HOLD_OFF: Duration = Duration::from_millis(10);

/// How long the ledger, or the log, is left alone when it can't be used; it is twice as long each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(32);

/// How soon a file of numbers is to know that somebody was told, or was not.
const TOLD: Duration = Duration::from_secs(1);

/// How many lines that can't be read are told of.
const UNREADABLE: u64 = 20;

pub(crate) fn watch(arguments: &Watch, dirs: &Dirs) -> Done {
    let mut watching = Watching::begin(arguments, dirs)?;
    let status = match watching.missing() {
        Some(path) => {
            let path = path.display();
            warn!(
                "{path} does not exist: no guest is watched until it does. If another file is meant, name it by --log; \
                 on a host without auditd, --kernel follows the kernel itself"
            );
            waits_for(&path)
        }
        None => format!("Reads {}", watching.name),
    };
    // A manager that does not read is not waited for.
    let _ = watching.manager.tell(&format!("READY=1\nSTATUS={status}"));
    watching.run()?;
    Ok(ExitCode::SUCCESS)
}

/// See the module.
struct Watching {
    watcher: Watcher,
    source: Box<dyn Source>,
    /// What that is, for people.
    name: String,
    /// The log, where one is followed.
    path: Option<PathBuf>,
    signals: Signals,
    tellers: Tellers,
    metrics: Metrics,
    textfile: Option<Textfile>,
    /// Who was told how often when that was last looked at, and whether somebody is being told still.
    told: (Counts, bool),
    server: Option<Server>,
    /// The kernel's audit, to ask how much it has lost.
    audit: Option<Audit>,
    /// Whether the kernel was to tell last closes.
    bpf: bool,
    manager: ServiceManager,
    /// How many entries were taken, and bytes read, since the last commit.
    entries: usize,
    bytes: u64,
    unreadable: u64,
    /// The log is not looked at before.
    hold: Instant,
    /// There is more of it at once.
    more: bool,
    /// It was read to its end once.
    abreast: bool,
    ended: bool,
    /// Whether the log, and the ledger, can be used.
    log: Trouble,
    ledger: Trouble,
}

/// What can't be used is left alone for a while.
#[derive(Default)]
struct Trouble(Option<(Instant, Duration)>);

impl Trouble {
    /// It failed.
    fn again(&mut self, why: &str, manager: &mut ServiceManager) {
        let pause = self.0.map_or(RETRY, |(_, pause)| (pause * 2).min(RETRY_MAX));
        warn!("{why}; tried again in {} s", pause.as_secs());
        manager.status(format!("Waits: {why}"));
        self.0 = Some((Instant::now() + pause, pause));
    }

    fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it may be tried, again or at all.
    fn is_over(&self) -> bool {
        self.0.is_none_or(|(until, _)| until <= Instant::now())
    }

    fn until(&self) -> Option<Instant> {
        self.0.map(|(until, _)| until)
    }
}

impl Watching {
    fn begin(arguments: &Watch, dirs: &Dirs) -> Result<Self, Failure> {
        allow_many_files();
        if let Some(address) = arguments.metrics_listen
            && !address.ip().is_loopback()
            && !arguments.metrics_for_all
        {
            return Err(Failure::input(anyhow::anyhow!(
                "Other hosts reach {address}, and the numbers have the guests' names: --metrics-for-all, or an address \
                 like 127.0.0.1:{}",
                address.port()
            )));
        }
        for rule in &arguments.on_finding {
            rule.does.check().map_err(|error| {
                Failure::input(anyhow::anyhow!(
                    "{error}; --on-finding takes a program that is there, or leave it out"
                ))
            })?;
        }
        // First of all: who ends us from now on finds all in order.
        let signals = Signals::new().context("Signals can't be heard")?;
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
        let Followed { source, name, log: path, plan } = source::open(arguments, about, left.as_ref())?;
        plan.iter().for_each(|line| info!("{line}"));
        let held: HashSet<_> = watcher.held().map(|holding| holding.guest.uuid).collect();
        if !held.is_empty() {
            info!("Guests that hold devices, as the ledger knows them: {}", held.len());
        }
        let server = arguments.metrics_listen.map(Server::new).transpose();
        let server = server.with_context(|| match arguments.metrics_listen {
            Some(address) => format!("{address} can't be listened at"),
            None => String::new(),
        })?;
        if let Some(address) = server.as_ref().and_then(|server| server.address().ok()) {
            info!("the numbers are at http://{address}/metrics");
        }
        let measured = arguments.metrics_file.is_some() || server.is_some();
        let now = Instant::now();
        Ok(Self {
            watcher,
            source,
            name,
            path,
            signals,
            tellers: Tellers::new(arguments)?,
            metrics: Metrics::default(),
            textfile: arguments.metrics_file.as_deref().map(Textfile::new),
            told: Default::default(),
            server,
            audit: if measured { Audit::with_readlog(None).ok() } else { None },
            bpf: arguments.bpf,
            manager: ServiceManager::of_environment(),
            entries: 0,
            bytes: 0,
            unreadable: 0,
            hold: now,
            more: false,
            abreast: false,
            ended: false,
            log: Trouble::default(),
            ledger: Trouble::default(),
        })
    }

    /// The log, where it is not there.
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
            if self.ledger.is_there() && (stop || self.ledger.is_over()) {
                // What is owed to the ledger comes before anything new.
                self.commit(stop)?;
            }
            if !self.ledger.is_there() {
                if (at_once || stop || self.hold <= Instant::now()) && self.log.is_over() {
                    self.read();
                }
                if !self.more {
                    self.watcher.look();
                }
                let last = stop || self.ended;
                if last || !self.more || self.entries >= ENTRIES || self.bytes >= BYTES {
                    self.commit(last)?;
                }
            }
            self.answer();
            if stop || self.ended || self.tellers.is_for_nobody() {
                let _ = self.manager.tell("STOPPING=1\nSTATUS=Watches no more");
                return Ok(());
            }
            at_once = self.wait().context("Nothing can be waited for")?;
        }
    }

    /// Takes what the log has now.
    fn read(&mut self) {
        let mut told = PollBatch::default();
        match self.source.poll(&mut told) {
            Ok(()) if self.log.is_there() => {
                self.log = Trouble::default();
                let status = self.status();
                self.manager.status(status);
            }
            Ok(()) => {}
            Err(error) => {
                self.log.again(&chain(&error), &mut self.manager);
                told.more = false;
            }
        }
        for line in &told.located {
            self.unreadable += 1;
            if self.unreadable <= UNREADABLE {
                warn!("{}:{} can't be read: {}", line.source, line.line, line.reason);
            }
        }
        for entry in &told.entries {
            self.watcher.take(entry);
        }
        self.metrics.read(&told, &*self.source);
        self.entries += told.entries.len();
        self.bytes += told.bytes;
        (self.more, self.ended) = (told.more, told.ended);
        if !self.more && !self.log.is_there() && !std::mem::replace(&mut self.abreast, true) {
            // What was known before is held, whether anything new is told or not.
            let status = self.status();
            self.manager.status(status);
        }
        if told.lines > 0 {
            self.hold = Instant::now() + HOLD_OFF;
            self.changed();
        }
    }

    /// Makes it last, and tells.
    fn commit(&mut self, last: bool) -> Result<(), Failure> {
        // A log that tells nothing is not worth a write: it is read again.
        let far = self.entries > 0 || self.bytes >= BYTES || last;
        let checkpoint = far.then(|| self.source.checkpoint().to_string());
        if last && !self.more {
            self.watcher.final_look();
        }
        match self.watcher.commit(checkpoint.as_deref()) {
            Ok(happenings) => {
                if far {
                    (self.entries, self.bytes) = (0, 0);
                }
                let again = std::mem::take(&mut self.ledger).is_there();
                if far || again || !happenings.is_empty() {
                    self.metrics.committed(&happenings);
                    self.changed();
                    let status = self.status();
                    self.manager.status(status);
                }
                happenings.iter().for_each(|happening| self.tellers.tell(happening));
                Ok(())
            }
            Err(error) if last => {
                let text = "What was seen last is not in the ledger: it is read again by the next watcher";
                Err(anyhow::Error::new(error).context(text).into())
            }
            // It does not come good: what is written into it goes with us.
            Err(error @ WatchError::Ledger(LedgerError::Removed { .. } | LedgerError::Replaced { .. })) => {
                let text = "The next watcher begins anew, with the ledger that stands there by then";
                Err(anyhow::Error::new(error).context(text).into())
            }
            Err(error) => {
                self.metrics.commit_failed();
                self.ledger.again(&chain(&error), &mut self.manager);
                Ok(())
            }
        }
    }

    fn changed(&mut self) {
        if let Some(file) = &mut self.textfile {
            file.changed();
        }
    }

    /// Gives the numbers to who wants them.
    fn answer(&mut self) {
        if let Some(file) = &mut self.textfile {
            // In this order: what is told by then is counted.
            let busy = self.tellers.is_busy();
            let told = (self.tellers.counts(), busy);
            if told.0 != self.told.0 {
                file.changed();
            }
            self.told = told;
        }
        let present = self.path.is_some().then(|| self.missing().is_none());
        let Self { watcher, metrics, tellers, audit, bpf, .. } = self;
        let mut text = || {
            let kernel = audit.as_mut().and_then(|audit| audit.status().ok());
            metrics.text(&Now {
                held: watcher.held().collect(),
                present,
                told: tellers.counts(),
                kernel: kernel.map(|status| (status.lost, status.backlog)),
                bpf: match (*bpf, watcher.lost_events()) {
                    (false, _) => Bpf::NotAsked,
                    (true, None) => Bpf::NotLoaded,
                    (true, Some(lost)) => Bpf::Loaded { lost },
                },
            })
        };
        if let Some(server) = &mut self.server {
            server.go_on(&mut text);
        }
        if let Some(file) =
            self.textfile.as_mut().filter(|file| file.next().is_some_and(|left| left.is_zero()))
            && let Err(error) = file.write(&text())
        {
            warn!("The numbers can't be written: {error}");
        }
    }

    /// Waits for something to do. Whether it is to be done at once: whoever ended has said why in the log.
    fn wait(&self) -> Result<bool, Errno> {
        if self.more && !self.ledger.is_there() {
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
        if !self.ledger.is_there() {
            fds.extend(self.watcher.awaited().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let looks = (!self.ledger.is_there()).then(|| self.watcher.next_look()).flatten();
        let timeout = [
            held.map(until),
            looks.map(until),
            self.source.poll_interval().filter(|_| held.is_none()),
            self.server.as_ref().and_then(Server::next).map(until),
            self.textfile.as_ref().and_then(Textfile::next),
            self.told.1.then_some(TOLD),
            self.manager.next_ping(),
        ];
        let timeout = timeout.into_iter().flatten().min().map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(fds[others..].iter().any(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// What is told of a log that is not there.
fn waits_for(path: &std::path::Display<'_>) -> String {
    format!("Waits for {path}, which does not exist")
}
