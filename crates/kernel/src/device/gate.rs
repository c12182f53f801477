use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use taptrail_record::{DeviceKind, IfName, Rdev};

use super::DeviceError;
use crate::unix_sockets::SocketFile;

/// The facts of one open(2) that have to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFacts {
    /// The requested kind of device; `rdev` shows the real one.
    pub kind: DeviceKind,
    /// The path given to open(2).
    pub path: PathBuf,
    /// The number of the device that was opened, or else of the node at the path; `None` if there
    /// is no device node.
    pub rdev: Option<Rdev>,
    /// Of a vhost-user socket: the file.
    pub socket: Option<SocketFile>,
    /// The host interface behind it, once it has one. A vhost-net has none.
    pub dev: Option<IfName>,
    /// The queue of the interface, from 0.
    pub queue: u32,
    /// The outcome of open(2) itself, whatever the outcome of later steps.
    pub outcome: Result<(), Errno>,
}

/// One open(2) that was made, with its inaccessible descriptor.
///
/// Only [`admit`] gives access to the descriptor. Dropping an attempt closes it, and leaves an open
/// without a record.
#[must_use = "an open(2) has to be recorded, by way of admit()"]
pub struct Attempt {
    facts: OpenFacts,
    fd: Option<OwnedFd>,
}

impl Attempt {
    /// An open(2) that gave `fd`.
    pub(super) fn opened(facts: OpenFacts, fd: OwnedFd) -> Self {
        Self { facts, fd: Some(fd) }
    }

    /// An open(2) that failed, as `facts.outcome` says.
    pub(super) fn failed(facts: OpenFacts) -> Self {
        Self { facts, fd: None }
    }

    /// The facts to be recorded.
    pub fn facts(&self) -> &OpenFacts {
        &self.facts
    }
}

// Not derived: a descriptor's number would be a way round the gate.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// All open(2) calls made for one request, and the error that stopped it.
#[derive(Debug)]
#[must_use = "each open(2) has to be recorded, by way of admit()"]
pub struct Opening {
    /// The opens in their order, including failed ones.
    pub attempts: Vec<Attempt>,
    /// The error of a failed open(2), or of a step before or after one. `None` is success.
    pub error: Option<DeviceError>,
}

impl Opening {
    /// Runs the steps of an opening, which end at the first failure.
    pub(super) fn run(steps: impl FnOnce(&mut Vec<Attempt>) -> Result<(), DeviceError>) -> Self {
        let mut attempts = Vec::new();
        let error = steps(&mut attempts).err();
        Self { attempts, error }
    }

    /// Records all opens. If an error stopped the opening, it is returned with the devices, which
    /// then should only be closed.
    ///
    /// # Errors
    ///
    /// The recorder's own. All descriptors are closed then.
    pub fn admit<B: OpenRecorder>(
        self,
        recorder: &mut B,
    ) -> Result<(Vec<Admitted>, Option<DeviceError>), B::Error> {
        Ok((admit(self.attempts, recorder)?, self.error))
    }
}

/// Writes the audit records of opens.
pub trait OpenRecorder {
    /// Why a record can't be written.
    type Error;

    /// Records these opens, successes and failures; called once with all of them. `Ok` means that
    /// each of them is recorded.
    ///
    /// # Errors
    ///
    /// One of them is not recorded. The devices are closed then, and never passed to QEMU.
    fn record(&mut self, opens: &[OpenFacts]) -> Result<(), Self::Error>;
}

/// An open device that is recorded, and so may be passed to QEMU.
pub struct Admitted {
    facts: OpenFacts,
    fd: OwnedFd,
}

impl Admitted {
    /// The recorded facts.
    pub fn facts(&self) -> &OpenFacts {
        &self.facts
    }
}

impl AsFd for Admitted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("facts", &self.facts).field("fd", &self.fd).finish()
    }
}

/// Records opens, and returns the devices of the successful ones.
///
/// # Errors
///
/// The recorder's own. All descriptors are closed then.
pub fn admit<B: OpenRecorder>(attempts: Vec<Attempt>, recorder: &mut B) -> Result<Vec<Admitted>, B::Error> {
    let (opens, fds): (Vec<OpenFacts>, Vec<Option<OwnedFd>>) =
        attempts.into_iter().map(|attempt| (attempt.facts, attempt.fd)).unzip();
    if !opens.is_empty() {
        recorder.record(&opens)?;
    }
    Ok(opens.into_iter().zip(fds).filter_map(|(facts, fd)| Some(Admitted { facts, fd: fd? })).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FakeRecorder {
        pages: Vec<Vec<OpenFacts>>,
        accepts: bool,
    }

    impl OpenRecorder for FakeRecorder {
        type Error = &'static str;

        fn record(&mut self, opens: &[OpenFacts]) -> Result<(), Self::Error> {
            self.pages.push(opens.to_vec());
            if self.accepts { Ok(()) } else { Err("out of ink") }
        }
    }

    fn facts(queue: u32, outcome: Result<(), Errno>) -> OpenFacts {
        OpenFacts {
            kind: DeviceKind::VhostNet,
            path: "/dev/vhost-net".into(),
            socket: None,
            rdev: Some(Rdev::VHOST_NET),
            dev: None,
            queue,
            outcome,
        }
    }

    /// Two opens, the second failed, and the end of a pipe that is closed with the first.
    fn two_attempts() -> (Vec<Attempt>, OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let attempts =
            vec![Attempt::opened(facts(0, Ok(())), writer), Attempt::failed(facts(1, Err(Errno::NOENT)))];
        (attempts, reader)
    }

    #[test]
    fn only_successes_come_out_but_failures_are_entered_too() {
        let mut paper = FakeRecorder { pages: Vec::new(), accepts: true };
        let (attempts, _reader) = two_attempts();
        let admitted = admit(attempts, &mut paper).unwrap();
        assert_eq!(paper.pages, [[facts(0, Ok(())), facts(1, Err(Errno::NOENT))]]);
        assert_eq!(admitted.iter().map(|a| a.facts().queue).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn every_descriptor_is_closed_when_the_recorder_refuses() {
        let mut paper = FakeRecorder { pages: Vec::new(), accepts: false };
        let (attempts, reader) = two_attempts();
        assert_eq!(admit(attempts, &mut paper).unwrap_err(), "out of ink");
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0), "the writing end is still open");
    }

    #[test]
    fn nothing_opened_needs_no_recorder() {
        let mut paper = FakeRecorder { pages: Vec::new(), accepts: false };
        assert!(admit(Vec::new(), &mut paper).unwrap().is_empty());
        assert!(paper.pages.is_empty());
    }
}
