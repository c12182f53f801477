//! The accounts of taps that the bridge helper passed to users' QEMUs: from a record of the open to
//! one of the close.
//!
//! ```text
//!   account ─▶ ledger: open        look ─▶ the kernel: has the tap an open file? ─no─▶ audit, ledger: close
//! ```
//!
//! There is no guest and no interface, so nothing of it concerns a [`Watcher`](crate::watch::Watcher)
//! but the ledger's lock, which that one holds. The ledger alone has the open accounts: a watcher
//! that starts goes on with those of the one before it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use taptrail_kernel::audit::Audit;
use taptrail_kernel::changes::Changes;
use taptrail_kernel::link::{LinkError, Links};
use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::{HeldDevice, Holders, ProcessId, ProcessStatus, boot_id};
use taptrail_ledger::{
    AuditOutcome, GuestKey, Ledger, LedgerError, Logged, NewBridgeTap, PendingRecord, Process,
};
use taptrail_record::{BridgeClose, BridgeOpen, DeviceKind};
use tracing::warn;

use crate::scan::TapQueues;
use crate::watch::WatchError;

/// How many taps may have open accounts, in all and of one user.
const MAX_OPEN: usize = 4096;
const MAX_OPEN_PER_USER: usize = 512;
/// How often a user may open another account, after as many as may be open.
const ACCOUNT_INTERVAL: Duration = Duration::from_secs(6);
/// How often the taps are looked at without a notification of the kernel's.
pub const LOOK_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// How much later than due a look may come for a close to count as seen when it happened.
const LOOK_SLACK: SignedDuration = SignedDuration::from_secs(2);
/// How often the ledger gets the time at which the open taps were last seen.
const LAST_SEEN_INTERVAL: SignedDuration = SignedDuration::from_mins(10);

/// A tap can't get an account.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[from] LedgerError),
    /// Too many taps are open.
    #[error("{count} taps of {whose} have open accounts, the most that are kept")]
    Full {
        /// Their number.
        count: usize,
        /// Whose they are.
        whose: Whose,
    },
    /// A user asks for taps faster than accounts are kept of them.
    #[error("user {uid} asks for more than {} taps a minute", 60 / ACCOUNT_INTERVAL.as_secs())]
    TooFast {
        /// The user's id.
        uid: u32,
    },
    /// The record lacks what an account needs.
    #[error("the tap has no name, ifindex or network namespace, or its names are too long")]
    Incomplete,
}

/// Whose taps are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Those of one user, by its id.
    User(u32),
    /// All of this host.
    AllUsers,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user {uid}"),
            Self::AllUsers => f.write_str("all users"),
        }
    }
}

/// The open accounts of this host, and what is needed to end them.
#[derive(Debug)]
pub struct BridgeTaps {
    ledger: Ledger,
    audit: Option<Audit>,
    exe: PathBuf,
    boot: String,
    own: Process,
    netns: u64,
    links: Links,
    changes: Changes,
    open: Vec<OpenTap>,
    /// The time of the last look; none before the first.
    looked: Option<Timestamp>,
    /// When the ledger last got the time of a look.
    last_seen_written: Timestamp,
    /// What was warned of, once each.
    warned: HashSet<String>,
    rates: Rates,
}

/// How many accounts users may open yet. Each takes some kilobytes of the ledger for as long as that
/// is kept, and a user may ask the helper as often as there is time.
#[derive(Debug, Default)]
struct Rates {
    /// How many were used up, and when that was last counted. A user who has used none is none of them.
    used: HashMap<u32, (u32, Instant)>,
}

impl Rates {
    /// Counts one more account of a user, unless there were too many.
    fn take(&mut self, uid: u32, now: Instant) -> Result<(), AccountError> {
        let gained = |since: Instant| {
            let gained = now.saturating_duration_since(since).as_secs() / ACCOUNT_INTERVAL.as_secs();
            u32::try_from(gained).unwrap_or(u32::MAX)
        };
        self.used.retain(|_, (used, since)| *used > gained(*since));
        let (used, since) = self.used.entry(uid).or_insert((0, now));
        let more = gained(*since);
        (*used, *since) = (used.saturating_sub(more), *since + ACCOUNT_INTERVAL * more);
        if *used as usize >= MAX_OPEN_PER_USER {
            return Err(AccountError::TooFast { uid });
        }
        *used += 1;
        Ok(())
    }
}

/// An open account.
#[derive(Debug)]
struct OpenTap {
    key: GuestKey,
    record: BridgeOpen,
    dev: String,
    ifindex: u32,
    /// Whether it is of this boot.
    is_of_boot: bool,
    /// When it was last known to be open.
    last_seen: Timestamp,
    /// Whether this process has seen it open.
    is_seen: bool,
    /// Its close, which the kernel was asked to log and the ledger has not taken yet.
    close: Option<PendingRecord>,
}

/// What the kernel shows of a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Open,
    Closed,
    /// It can't be known now.
    Unknown,
}

impl BridgeTaps {
    /// Goes on with the accounts that the ledger in `state` has open.
    ///
    /// # Errors
    ///
    /// The ledger can't be used, or the kernel can't be asked for links or, with `emit_audit`, for its
    /// audit log.
    pub fn open(state: &Path, emit_audit: bool) -> Result<Self, WatchError> {
        let proc = |what| move |source| WatchError::Proc { what, source };
        let own = ProcessId::of(std::process::id()).map_err(proc("Start time of this process"))?;
        // Before the first look, so that nothing is missed in between.
        let changes = Changes::subscribe().map_err(proc("The kernel's notifications of links"))?;
        let links = Links::open().map_err(io::Error::other).map_err(proc("Network links"))?;
        let mut taps = Self {
            ledger: Ledger::open(state)?,
            audit: emit_audit.then(Audit::open).transpose()?,
            exe: std::env::current_exe().map_err(proc("Path of this program"))?,
            boot: boot_id().map_err(proc("Boot id"))?.to_string(),
            own: Process { pid: own.pid, start: own.start_time },
            netns: NetNs::own().map_err(proc("Network namespace of this process"))?.inode(),
            links,
            changes,
            open: Vec::new(),
            looked: None,
            last_seen_written: Timestamp::now(),
            warned: HashSet::new(),
            rates: Rates::default(),
        };
        taps.adopt()?;
        Ok(taps)
    }

    fn adopt(&mut self) -> Result<(), LedgerError> {
        for live in self.ledger.live_bridge_taps()? {
            let record = BridgeOpen::parse(BridgeOpen::RECORD_TYPE, live.opened.as_bytes()).ok().flatten();
            let named = record.and_then(|record| Some((record.dev()?.to_string(), record.ifindex?, record)));
            let Some((dev, ifindex, record)) = named else {
                self.warn_once(format!("The account of a tap has no record of its open: {}", live.opened));
                continue;
            };
            self.changes.follow(ifindex);
            self.open.push(OpenTap {
                key: live.key,
                record,
                dev,
                ifindex,
                is_of_boot: live.boot_id == self.boot,
                last_seen: live.last_seen,
                is_seen: false,
                close: None,
            });
        }
        Ok(())
    }

    /// How many accounts are open.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Opens the account of a tap that a process was seen to hold. It has one after that, also if it
    /// had one before.
    ///
    /// # Errors
    ///
    /// The ledger can't be written, or has too many.
    pub fn account(&mut self, record: BridgeOpen) -> Result<(), AccountError> {
        let (Some(dev), Some(ifindex), Some(netns)) =
            (record.dev().map(ToString::to_string), record.ifindex, record.netns)
        else {
            return Err(AccountError::Incomplete);
        };
        if self.open.is_empty() {
            // Nobody has drained it.
            let _ = self.changes.take();
        }
        let is_it =
            |tap: &OpenTap| tap.is_of_boot && tap.ifindex == ifindex && tap.record.netns == Some(netns);
        if self.open.iter().any(|tap| is_it(tap) && tap.close.is_none()) {
            return Ok(());
        }
        has_room(self.open.iter().map(|tap| tap.record.requester.uid), record.requester.uid)?;
        self.rates.take(record.requester.uid, Instant::now())?;
        let text = record.text(&self.exe).map_err(|_| AccountError::Incomplete)?;
        let row = self.row(text, BridgeOpen::RECORD_TYPE.number());
        let requester = record.start_time.map(|start| Process { pid: record.requester.pid, start });
        let tap = NewBridgeTap { boot_id: &self.boot, watcher: self.own, requester, netns };
        let tx = self.ledger.begin()?;
        let key = tx.bridge_tap_opened(&tap, &row.as_new())?;
        tx.commit()?;
        self.changes.follow(ifindex);
        let (is_of_boot, is_seen, last_seen) = (true, true, row.time);
        self.open.push(OpenTap { key, record, dev, ifindex, is_of_boot, last_seen, is_seen, close: None });
        Ok(())
    }

    /// The descriptors that become readable when a link has changed: then the caller should
    /// [`look`](Self::look).
    pub fn awaited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        // Without an open tap, no change matters: the socket fills up, and is drained at the next.
        let changes = (!self.open.is_empty()).then(|| self.changes.descriptors());
        changes.into_iter().flatten()
    }

    /// Asks the kernel for the open taps, and ends the accounts of those that are closed.
    ///
    /// # Errors
    ///
    /// The ledger can't be written: nothing is lost, and the next look writes it.
    pub fn look(&mut self) -> Result<(), WatchError> {
        if let Err(error) = self.changes.take() {
            self.warn_once(format!("The kernel's notifications of links can't be read: {error}"));
        }
        if self.open.is_empty() {
            self.looked = Some(Timestamp::now());
            return Ok(());
        }
        let shown: Vec<Shown> = (0..self.open.len()).map(|at| self.shown(at)).collect();
        // After the kernel was asked: what is open was so until then.
        let now = Timestamp::now();
        let slept = self.looked.is_none_or(|before| now.duration_since(before) > LOOK_INTERVAL + LOOK_SLACK);
        for (at, shown) in shown.into_iter().enumerate() {
            match shown {
                Shown::Open => (self.open[at].last_seen, self.open[at].is_seen) = (now, true),
                Shown::Closed if self.open[at].close.is_none() => self.close(at, slept),
                Shown::Closed | Shown::Unknown => {}
            }
        }
        self.looked = Some(now);
        self.write_closes()?;
        if now.duration_since(self.last_seen_written) >= LAST_SEEN_INTERVAL {
            self.write_last_seen()?;
        }
        Ok(())
    }

    /// What the kernel shows of one tap.
    fn shown(&mut self, at: usize) -> Shown {
        let OpenTap { ifindex, is_of_boot, is_seen, ref record, ref close, .. } = self.open[at];
        if !is_of_boot || close.is_some() {
            return Shown::Closed;
        }
        if record.netns != Some(self.netns) {
            return Shown::Unknown;
        }
        match TapQueues::of(&mut self.links, ifindex) {
            Ok(Some(tap)) => {
                self.changes.settle(ifindex);
                if tap.queues > 0 { Shown::Open } else { Shown::Closed }
            }
            // It may be in another network namespace: a move looks like a deletion from here.
            Ok(None)
                if (!is_seen || self.changes.may_be_elsewhere(ifindex))
                    && may_be_held_elsewhere(&self.open[at].record, self.netns) =>
            {
                Shown::Unknown
            }
            Ok(None) => Shown::Closed,
            Err(error) => {
                let error: LinkError = error;
                self.warn_once(format!("Taps of the bridge helper can't be looked at: {error}"));
                Shown::Unknown
            }
        }
    }

    /// Makes the record of a close, and sends it to the kernel's audit.
    fn close(&mut self, at: usize, slept: bool) {
        let tap = &self.open[at];
        // If this process did not see it until now, it ended at some time since it was last seen.
        let unobserved = slept || !tap.is_seen;
        let last_seen = unobserved.then(|| u64::try_from(tap.last_seen.as_millisecond()).unwrap_or_default());
        let BridgeOpen { bridge, requester, start_time, .. } = tap.record.clone();
        let close = BridgeClose { bridge, dev: tap.dev.as_str().into(), requester, start_time, last_seen };
        match close.text(&self.exe) {
            Ok(text) => {
                let mut row = self.row(text, BridgeClose::RECORD_TYPE.number());
                self.log(&mut row);
                self.open[at].close = Some(row);
            }
            Err(error) => self.warn_once(error.to_string()),
        }
    }

    fn row(&self, text: String, kind: u16) -> PendingRecord {
        PendingRecord { time: Timestamp::now(), kind, text, logged: Logged::OFF }
    }

    fn log(&mut self, row: &mut PendingRecord) {
        let Some(audit) = &mut self.audit else { return };
        row.logged = match audit.log(row.kind, &row.text) {
            Ok(logged) => Logged { outcome: logged.proof.into(), serial: logged.serial },
            Err(reason) => {
                let reason = reason.to_string();
                self.warn_once(format!(
                    "{reason}: the kernel does not log the closes of taps; the ledger has them"
                ));
                Logged { outcome: AuditOutcome::NotLogged(reason), serial: None }
            }
        };
    }

    fn write_closes(&mut self) -> Result<(), LedgerError> {
        if self.open.iter().all(|tap| tap.close.is_none()) {
            return Ok(());
        }
        let tx = self.ledger.begin()?;
        for tap in &self.open {
            if let Some(row) = &tap.close {
                tx.bridge_tap_closed(tap.key, &row.as_new(), self.own.pid)?;
            }
        }
        tx.commit()?;
        let closed: Vec<OpenTap> = self.open.extract_if(.., |tap| tap.close.is_some()).collect();
        // One of another boot may have had the number of one that is open.
        for tap in closed.iter().filter(|tap| self.open.iter().all(|open| open.ifindex != tap.ifindex)) {
            self.changes.forget(tap.ifindex);
        }
        Ok(())
    }

    /// Writes when the open taps were last seen: a close that nobody sees was after that. To be
    /// called at the end, too.
    ///
    /// # Errors
    ///
    /// The ledger can't be written.
    pub fn write_last_seen(&mut self) -> Result<(), WatchError> {
        self.last_seen_written = Timestamp::now();
        if self.open.iter().all(|tap| !tap.is_seen) {
            return Ok(());
        }
        let tx = self.ledger.begin()?;
        for tap in self.open.iter().filter(|tap| tap.is_seen) {
            tx.guest_seen(tap.key, tap.last_seen)?;
        }
        Ok(tx.commit()?)
    }

    fn warn_once(&mut self, what: String) {
        if self.warned.len() < 64 && !self.warned.contains(&what) {
            warn!("{what}");
            self.warned.insert(what);
        }
    }
}

/// Whether another tap of `uid` may have an account beside those of the users `open`.
fn has_room(open: impl Iterator<Item = u32>, uid: u32) -> Result<(), AccountError> {
    let (mut all, mut of_user) = (0, 0);
    for of in open {
        all += 1;
        of_user += usize::from(of == uid);
    }
    if of_user >= MAX_OPEN_PER_USER {
        return Err(AccountError::Full { count: of_user, whose: Whose::User(uid) });
    }
    if all >= MAX_OPEN {
        return Err(AccountError::Full { count: all, whose: Whose::AllUsers });
    }
    Ok(())
}

/// Whether a process of the caller's may hold a tap that was moved out of this network namespace,
/// or that can't be known: the process is here, and its tap is not.
fn may_be_held_elsewhere(record: &BridgeOpen, here: u64) -> bool {
    let Ok(holders) = Holders::of(DeviceKind::Tun) else { return true };
    let is_callers = |pid: u32| ProcessStatus::of(pid).is_ok_and(|status| status.uid == record.requester.uid);
    let is_elsewhere = |pid: u32, fd| {
        let tap = ProcessId::of(pid).and_then(|process| NetNs::of_tap(process, fd));
        let process = NetNs::of(pid);
        tap.is_ok_and(|tap| tap.inode() != here) && process.is_ok_and(|of| of.inode() == here)
    };
    let found = |(pid, _, held): &(u32, u32, HeldDevice)| {
        held.ifname.is_some() && is_callers(*pid) && is_elsewhere(*pid, held.fd)
    };
    holders.found.iter().any(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_user_who_asks_in_a_loop_gets_a_burst_and_then_some_a_minute() {
        let (mut rates, begin) = (Rates::default(), Instant::now());
        let mut granted = |uid, at: u64, times: usize| {
            let now = begin + Duration::from_secs(at);
            (0..times).filter(|_| rates.take(uid, now).is_ok()).count()
        };
        assert_eq!(granted(1000, 0, 1000), MAX_OPEN_PER_USER);
        assert_eq!(granted(1000, 5, 9), 0);
        assert_eq!(granted(1001, 5, 9), 9, "another user's is not affected");
        // None of the time is lost between two that ask.
        assert_eq!([6, 11, 12, 60].map(|at| granted(1000, at, 100)), [1, 0, 1, 8]);
        assert_eq!(granted(1000, 1_000_000, 1000), MAX_OPEN_PER_USER);
        assert_eq!(
            rates.take(1000, begin + Duration::from_secs(1_000_000)).unwrap_err().to_string(),
            "user 1000 asks for more than 10 taps a minute"
        );
        rates.take(1002, begin + Duration::from_secs(9_000_000)).unwrap();
        assert_eq!(rates.used.len(), 1, "who has not asked for long is forgotten");
    }

    #[test]
    fn a_limit_is_named_with_whose_it_is() {
        let full = |open: &[u32], uid| has_room(open.iter().copied(), uid).unwrap_err().to_string();
        let mut open = vec![1000; MAX_OPEN_PER_USER - 1];
        open.push(1001);
        has_room(open.iter().copied(), 1000).unwrap();
        open.push(1000);
        assert_eq!(full(&open, 1000), "512 taps of user 1000 have open accounts, the most that are kept");
        // Another user's is not affected.
        has_room(open.iter().copied(), 1001).unwrap();
        open.extend((2000..).take(MAX_OPEN - open.len()));
        assert_eq!(full(&open, 1001), "4096 taps of all users have open accounts, the most that are kept");
        assert_eq!(full(&open, 1000), "512 taps of user 1000 have open accounts, the most that are kept");
    }
}
