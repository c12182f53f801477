//! Sends records to the kernel's audit, and proves that they were logged.
//!
//! The kernel acknowledges a record with success even if auditing is off, if a rule filters it, or
//! if it is lost. So a record counts as logged only if it is **read back** from the kernel's
//! multicast of logged records ([`ReadLog`]), or if the kernel's **counters** show that auditing is
//! on and nothing was lost. A record that is only acknowledged has [`LogProof::AckOnly`].
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

pub use broadcast::{Broadcast, BroadcastItem};
pub use error::{AuditError, NotLogged};
pub use proof::{LogTime, LoggedRecord};
pub use readlog::ReadLog;
pub use status::AuditStatus;
pub use taptrail_record::LogProof;

use proof::{Evidence, Pending, State};
use socket::{AUDIT_GET, MAX_DATAGRAM_BYTES, Requests};

/// `AUDIT_VIRT_CONTROL`: a guest starts or stops (libaudit.h).
pub const VIRT_CONTROL: u16 = 2500;
/// `AUDIT_VIRT_RESOURCE`: a guest gets or loses a resource.
pub const VIRT_RESOURCE: u16 = 2501;
/// `AUDIT_VIRT_MACHINE_ID`: a guest gets its security label.
pub const VIRT_MACHINE_ID: u16 = 2502;

/// The longest text that the kernel does not cut (`AUDIT_MESSAGE_TEXT_MAX`, linux/audit.h), in
/// bytes.
pub const MAX_TEXT_BYTES: usize = 8560;

/// The time limit for reading a record back. Usually it takes microseconds: it waits only for one
/// kernel thread.
const READ_BACK_TIMEOUT: Duration = Duration::from_millis(100);
/// The same for a type whose last record was not read back: it is probably still filtered.
const SHORT_READ_BACK_TIMEOUT: Duration = Duration::from_millis(10);
/// The time limit for a reply of the kernel, which usually comes at once.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of records in one datagram: even the longest fit the default send buffer (212992
/// bytes).
const MAX_RECORDS_PER_DATAGRAM: usize = 16;

/// A connection to the kernel's audit subsystem.
#[derive(Debug)]
pub struct Audit {
    socket: OwnedFd,
    readlog: Option<ReadLog>,
    sequence: u32,
    buffer: Box<[u8]>,
    /// Types whose last record was not read back.
    missed: Vec<u16>,
}

impl Audit {
    /// Connects to the kernel's audit subsystem, and to its multicast if possible.
    ///
    /// Success does not mean that auditing is on, or permitted: check [`status`](Self::status), or
    /// log a record.
    ///
    /// # Errors
    ///
    /// [`AuditError::Unsupported`] if the kernel has no audit subsystem.
    pub fn open() -> Result<Self, AuditError> {
        let readlog = ReadLog::open().inspect_err(|error| {
            tracing::debug!(%error, "the kernel's audit broadcast can't be heard");
        });
        Self::with_readlog(readlog.ok())
    }

    /// As [`open`](Self::open), with the given multicast socket, or with none.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn with_readlog(readlog: Option<ReadLog>) -> Result<Self, AuditError> {
        let socket = socket::open_socket(0, |_| ()).map_err(|errno| match errno {
            Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => AuditError::Unsupported,
            errno => AuditError::Io(errno.into()),
        })?;
        Ok(Self {
            socket,
            readlog,
            sequence: 0,
            buffer: vec![0; MAX_DATAGRAM_BYTES].into_boxed_slice(),
            missed: Vec::new(),
        })
    }

    /// Whether records can be read back here.
    pub fn reads_back(&self) -> bool {
        self.readlog.as_ref().is_some_and(ReadLog::is_reliable)
    }

    /// The kernel's current audit status; takes about 30 µs.
    ///
    /// # Errors
    ///
    /// [`AuditError::StatusRefused`] without CAP_AUDIT_CONTROL, or outside the initial user and pid
    /// namespaces.
    pub fn status(&mut self) -> Result<AuditStatus, AuditError> {
        let sequence = self.next_sequence();
        let mut requests = Requests::default();
        requests.ask(AUDIT_GET, sequence);
        requests.send(self.socket.as_fd()).map_err(refused_status)?;
        let deadline = Instant::now() + REPLY_TIMEOUT;
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

    /// Logs one record: its type (2500-2502 for guests), and its text between the quotes of
    /// `msg='…'`.
    ///
    /// # Errors
    ///
    /// As [`log_all`](Self::log_all).
    pub fn log(&mut self, kind: u16, text: &str) -> Result<LoggedRecord, NotLogged> {
        let outcome = self.log_all(&[(kind, text)]).pop();
        outcome.unwrap_or_else(|| Err(NotLogged::Io(io::ErrorKind::UnexpectedEof.into())))
    }

    /// Logs records in their order, with one outcome for each. The proof usually takes well under a
    /// millisecond; it takes 0.1 s to find that a record is not read back.
    ///
    /// The kernel may block the sender for `backlog_wait_time` (a minute by default) while its
    /// backlog is over the limit; no other wait is longer than 2 s.
    ///
    /// # Errors
    ///
    /// For each record, the reason why it is not provably logged. [`LogProof::AckOnly`] is not an
    /// error here: callers that need proof must check [`LogProof::is_proven`].
    pub fn log_all<T: AsRef<str>>(&mut self, records: &[(u16, T)]) -> Vec<Result<LoggedRecord, NotLogged>> {
        let mut batch: Vec<Pending<'_>> =
            records.iter().map(|(kind, text)| Pending::new(*kind, text.as_ref())).collect();
        for part in batch.chunks_mut(MAX_RECORDS_PER_DATAGRAM) {
            self.log_part(part);
        }
        batch.into_iter().map(Pending::outcome).collect()
    }

    fn log_part(&mut self, batch: &mut [Pending<'_>]) {
        // If the status is refused, the acknowledgements show the cause.
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
        self.decide_unread(batch, before);
    }

    /// Sends waiting records in one datagram, and reads the acknowledgements.
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
        let deadline = Instant::now() + REPLY_TIMEOUT;
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

    /// Matches logged records with accepted ones, until all are matched or the time limit is
    /// reached.
    fn read_back(&mut self, batch: &mut [Pending<'_>]) -> Result<(), Errno> {
        let Some(readlog) = &mut self.readlog else { return Ok(()) };
        let missing = |record: &Pending<'_>| record.is_accepted() && ReadLog::receives(record.kind);
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
            let Some(timeout) = batch
                .iter()
                .filter(|record| missing(record))
                .map(|record| {
                    if self.missed.contains(&record.kind) {
                        SHORT_READ_BACK_TIMEOUT
                    } else {
                        READ_BACK_TIMEOUT
                    }
                })
                .max()
            else {
                break;
            };
            if !socket::wait_readable(readlog.as_fd(), start + timeout)? {
                break;
            }
        }
        for record in batch.iter().filter(|record| record.is_read_back()) {
            self.missed.retain(|kind| *kind != record.kind);
        }
        Ok(())
    }

    /// Decides the outcome of records that were accepted and not read back.
    fn decide_unread(&mut self, batch: &mut [Pending<'_>], before: Option<AuditStatus>) {
        if !batch.iter().any(Pending::is_accepted) {
            return;
        }
        let after = self.status().ok();
        let reliable = self.reads_back();
        let mut counted = false;
        for record in batch.iter_mut().filter(|record| record.is_accepted()) {
            let receives = self.readlog.is_some() && ReadLog::receives(record.kind);
            if receives && !self.missed.contains(&record.kind) {
                self.missed.push(record.kind);
            }
            let outcome = Evidence { before, after, listening: receives && reliable }.judge(record.kind);
            counted |= receives && matches!(outcome, Ok(LogProof::Counters));
            record.state = State::Done(outcome.map(|proof| LoggedRecord { serial: None, time: None, proof }));
        }
        if counted && self.readlog.as_ref().is_some_and(ReadLog::may_receive_nothing) {
            // The record was logged, but the socket never received one: waiting for it would only
            // cost time.
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
