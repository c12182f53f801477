//! Another process: this program again, which receives descriptors over its standard input.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use taptrail_kernel::proc::ProcessId;

/// Sends a descriptor.
#[allow(clippy::disallowed_methods)] // The tests play a process that passes descriptors.
pub(crate) fn send(stream: &UnixStream, descriptor: BorrowedFd<'_>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(stream, &[IoSlice::new(b"d")], &mut ancillary, SendFlags::empty()).unwrap();
}

fn receive(stream: &UnixStream) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

pub(crate) struct Other {
    child: Child,
    process: ProcessId,
    wire: UnixStream,
}

impl Other {
    pub(crate) fn start() -> Self {
        Self::spawn(Stdio::inherit())
    }

    /// A process whose standard error is this descriptor, of which there is no other copy.
    pub(crate) fn inherits(descriptor: OwnedFd) -> Self {
        Self::spawn(descriptor.into())
    }

    fn spawn(stderr: Stdio) -> Self {
        let (wire, stdin) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "other::the_other_process", "--ignored", "--quiet"])
            .stdin(OwnedFd::from(stdin))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        let mut other = Self { child, process, wire };
        other.wait_for_reply();
        other
    }

    pub(crate) fn process(&self) -> ProcessId {
        self.process
    }

    fn wait_for_reply(&mut self) {
        self.wire.read_exact(&mut [0]).unwrap();
    }

    /// Passes it a descriptor, and waits until it has received it.
    pub(crate) fn pass(&mut self, descriptor: BorrowedFd<'_>) {
        send(&self.wire, descriptor);
        self.wait_for_reply();
    }

    /// Ends it, and waits for its exit.
    pub(crate) fn end(mut self) {
        drop(self.wire);
        self.child.wait().unwrap();
    }
}

/// Keeps all descriptors that it receives until its input ends; its exit closes them.
#[test]
#[ignore = "the other side of the tests"]
fn the_other_process() {
    let wire = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut kept = Vec::new();
    (&wire).write_all(b"!").unwrap();
    while let Some(descriptor) = receive(&wire) {
        kept.push(descriptor);
        (&wire).write_all(b"!").unwrap();
    }
    std::mem::forget(kept);
}
