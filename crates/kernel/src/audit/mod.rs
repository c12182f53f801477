//! Records into the kernel's audit log, each with a proof that it got there.
//!
//! The kernel acknowledges a record with success also when auditing is off, when a rule filters it
//! and when it is lost. So a record counts as logged only when it is **read back** from the
//! kernel's own broadcast of what it logs ([`ReadLog`]), or when the kernel's **counters** say that
//! auditing is on and nothing was lost. What is merely acknowledged says so ([`Proof::AckOnly`]).
//!
//! ```no_run
//! let mut audit = taptrail_kernel::audit::Audit::open()?;
//! let text = "virt=kvm resrc=net reason=open … res=success";
//! match audit.log(taptrail_kernel::audit::VIRT_RESOURCE, text) {
//!     Ok(logged) => assert!(logged.proof.is_proven()),
//!     Err(refusal) => eprintln!("{refusal}"),
//! }
//! # Ok::<(), taptrail_kernel::audit::AuditError>(())
//! ```

mod broadcast;
mod error;
mod group;
mod proof;
mod readlog;
mod socket;
mod status;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

pub use broadcast::{Broadcast, Said};
pub use error::{AuditError, NotLogged};
pub use proof::{LogTime, Logged, Proof};
pub use readlog::ReadLog;
pub use status::AuditStatus;

use proof::{Evidence, Pending, State};
use socket::{AUDIT_GET, DATAGRAM, Requests};

/// `AUDIT_VIRT_CONTROL`: a guest starts or stops (libaudit.h).
pub const VIRT_CONTROL: u16 = 2500;
/// `AUDIT_VIRT_RESOURCE`: a guest gets or loses a resource.
pub const VIRT_RESOURCE: u16 = 2501;
/// `AUDIT_VIRT_MACHINE_ID`: a guest gets its security label.
pub const VIRT_MACHINE_ID: u16 = 2502;

/// The longest text that the kernel keeps whole (`AUDIT_MESSAGE_TEXT_MAX`, linux/audit.h), in bytes.
pub const TEXT_MAX: usize = 8560;

/// How long a record may take to come back. Microseconds as a rule: it waits for one kernel
/// thread only.
const GRACE: Duration = Duration::from_millis(100);
/// The same for a type of which the last record never came back: most likely filtered still.
const SHORT_GRACE: Duration = Duration::from_millis(10);
/// How long an answer may take that the kernel gives at once.
const ANSWER: Duration = Duration::from_secs(2);

/// Records sent in one datagram: at their longest they fit the default send buffer (212992 bytes).
const BATCH: usize = 16;

/// A connection to the kernel's audit subsystem.
#[derive(Debug)]
pub struct Audit {
    socket: OwnedFd,
    readlog: Option<ReadLog>,
    sequence: u32,
    buffer: Box<[u8]>,
    /// Types of which the last record was not read back.
    missed: Vec<u16>,
}

impl Audit {
    /// Opens the way to the kernel's audit subsystem, and the way back where there is one.
    ///
    /// That it opens says nothing yet about auditing being on, or permitted: ask
    /// [`status`](Self::status), or log.
    ///
    /// # Errors
    /// [`AuditError::Unsupported`] when the kernel has no audit subsystem.
    pub fn open() -> Result<Self, AuditError> {
        let readlog = ReadLog::open().inspect_err(|error| {
            tracing::debug!(%error, "the kernel's audit broadcast can't be heard");
        });
        Self::with_readlog(readlog.ok())
    }

    /// Opens as [`open`](Self::open) does, with the given way back, or with none.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn with_readlog(readlog: Option<ReadLog>) -> Result<Self, AuditError> {
        let socket = socket::open_socket(0, |_| ()).map_err(|errno| match errno {
            Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => AuditError::Unsupported,
            errno => AuditError::Io(errno.into()),
        })?;
        Ok(Self {
            socket,
            readlog,
            sequence: 0,
            buffer: vec![0; DATAGRAM].into_boxed_slice(),
            missed: Vec::new(),
        })
    }

    /// Whether records can be read back here.
    pub fn reads_back(&self) -> bool {
        self.readlog.as_ref().is_some_and(ReadLog::is_reliable)
    }

    /// The kernel's audit status now; takes about 30 µs.
    ///
    /// # Errors
    /// [`AuditError::StatusRefused`] without CAP_AUDIT_CONTROL, or outside the initial user and pid
    /// namespaces.
    pub fn status(&mut self) -> Result<AuditStatus, AuditError> {
        let sequence = self.next_sequence();
        let mut requests = Requests::default();
        requests.ask(AUDIT_GET, sequence);
        requests.send(self.socket.as_fd()).map_err(refused_status)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            while let Some(reply) =
                socket::receive(self.socket.as_fd(), &mut self.buffer).map_err(refused_status)?
            {
                if reply.sequence != sequence {
                    continue;
                }
                if let Some(Err(errno)) = reply.acknowledgement() {
                    return Err(refused_status(errno));
                }
                if reply.kind == AUDIT_GET {
                    return AuditStatus::parse(reply.payload)
                        .ok_or_else(|| AuditError::Io(io::ErrorKind::InvalidData.into()));
                }
            }
            if !socket::wait_readable(self.socket.as_fd(), deadline).map_err(refused_status)? {
                return Err(AuditError::Io(io::ErrorKind::TimedOut.into()));
            }
        }
    }

    /// Logs one record: its type (2500-2502 for guests) and its text, as it stands between the
    /// quotes of `msg='…'`.
    ///
    /// # Errors
    /// As for [`log_all`](Self::log_all).
    pub fn log(&mut self, kind: u16, text: &str) -> Result<Logged, NotLogged> {
        let outcome = self.log_all(&[(kind, text)]).pop();
        outcome.unwrap_or_else(|| Err(NotLogged::Io(io::ErrorKind::UnexpectedEof.into())))
    }

    /// Logs records in their order, with one outcome for each. Proven in well under a millisecond
    /// as a rule; when a record does not come back it takes 0.1 s to say so.
    ///
    /// The kernel itself may hold the sender for `backlog_wait_time` (a minute by default) while
    /// its backlog is over the limit; no other wait is longer than 2 s.
    ///
    /// # Errors
    /// For each record on its own, the reason why it is not provably logged. [`Proof::AckOnly`] is
    /// no error here: whoever needs proof must ask [`Proof::is_proven`].
    pub fn log_all<T: AsRef<str>>(&mut self, records: &[(u16, T)]) -> Vec<Result<Logged, NotLogged>> {
        let mut batch: Vec<Pending<'_>> =
            records.iter().map(|(kind, text)| Pending::new(*kind, text.as_ref())).collect();
        for part in batch.chunks_mut(BATCH) {
            self.log_part(part);
        }
        batch.into_iter().map(Pending::outcome).collect()
    }

    fn log_part(&mut self, batch: &mut [Pending<'_>]) {
        // A refusal here leaves the acknowledgements to name the cause.
        let before = self.status().ok();
        if before.is_some_and(|before| !before.enabled) {
            for record in batch.iter_mut().filter(|record| record.is_waiting()) {
                record.fail(NotLogged::Disabled);
            }
            return;
        }
        if let Some(Err(error)) = self.readlog.as_mut().map(ReadLog::drain) {
            tracing::warn!(%error, "the kernel's audit broadcast failed; counters are the proof from here on");
            self.readlog = None;
        }
        if let Err(errno) = self.send(batch) {
            for record in batch.iter_mut().filter(|record| record.is_waiting()) {
                record.fail(NotLogged::Io(errno.into()));
            }
        }
        if let Err(error) = self.read_back(batch) {
            tracing::warn!(%error, "the kernel's audit broadcast failed; counters are the proof from here on");
            self.readlog = None;
        }
        self.settle(batch, before);
    }

    /// Sends what is waiting in one datagram and takes the acknowledgements.
    fn send(&mut self, batch: &mut [Pending<'_>]) -> Result<(), Errno> {
        let mut requests = Requests::default();
        for record in batch.iter_mut().filter(|record| record.is_waiting()) {
            record.sequence = self.next_sequence();
            requests.record(record.kind, record.sequence, record.text);
        }
        if requests.is_empty() {
            return Ok(());
        }
        requests.send(self.socket.as_fd())?;
        let deadline = Instant::now() + ANSWER;
        while batch.iter().any(Pending::is_waiting) {
            let Some(reply) = socket::receive(self.socket.as_fd(), &mut self.buffer)? else {
                if !socket::wait_readable(self.socket.as_fd(), deadline)? {
                    return Err(Errno::TIMEDOUT);
                }
                continue;
            };
            let answered =
                batch.iter_mut().find(|record| record.is_waiting() && record.sequence == reply.sequence);
            if let (Some(record), Some(answer)) = (answered, reply.acknowledgement()) {
                record.acknowledge(answer);
            }
        }
        Ok(())
    }

    /// Matches what the kernel logs with what it accepted, until all is there or time is up.
    fn read_back(&mut self, batch: &mut [Pending<'_>]) -> Result<(), Errno> {
        let Some(readlog) = &mut self.readlog else { return Ok(()) };
        let missing = |record: &Pending<'_>| record.is_accepted() && ReadLog::hears(record.kind);
        let start = Instant::now();
        loop {
            readlog.read_own(|heard| {
                let ours = batch.iter_mut().find(|record| {
                    missing(record) && record.kind == heard.kind && record.text.as_bytes() == heard.text
                });
                if let Some(record) = ours {
                    record.read_back(heard.serial, heard.time);
                }
            })?;
            let Some(grace) = batch
                .iter()
                .filter(|record| missing(record))
                .map(|record| if self.missed.contains(&record.kind) { SHORT_GRACE } else { GRACE })
                .max()
            else {
                break;
            };
            if !socket::wait_readable(readlog.as_fd(), start + grace)? {
                break;
            }
        }
        for record in batch.iter().filter(|record| record.is_read_back()) {
            self.missed.retain(|kind| *kind != record.kind);
        }
        Ok(())
    }

    /// Judges what was accepted and not read back.
    fn settle(&mut self, batch: &mut [Pending<'_>], before: Option<AuditStatus>) {
        if !batch.iter().any(Pending::is_accepted) {
            return;
        }
        let after = self.status().ok();
        let reliable = self.reads_back();
        let mut counted = false;
        for record in batch.iter_mut().filter(|record| record.is_accepted()) {
            let hears = self.readlog.is_some() && ReadLog::hears(record.kind);
            if hears && !self.missed.contains(&record.kind) {
                self.missed.push(record.kind);
            }
            let outcome = Evidence { before, after, listening: hears && reliable }.judge(record.kind);
            counted |= hears && matches!(outcome, Ok(Proof::Counters));
            record.state = State::Done(outcome.map(|proof| Logged { serial: None, time: None, proof }));
        }
        if counted && self.readlog.as_ref().is_some_and(ReadLog::is_deaf) {
            // Logged, yet it never heard anything: it would only cost its wait each time.
            tracing::debug!("the kernel's audit broadcast does not reach this network namespace");
            self.readlog = None;
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

fn refused_status(errno: Errno) -> AuditError {
    match errno {
        Errno::PERM | Errno::CONNREFUSED => AuditError::StatusRefused,
        errno => AuditError::Io(errno.into()),
    }
}
