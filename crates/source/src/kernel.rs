//! The kernel's own records of an open(2): two lines of one event.

use bstr::ByteSlice as _;
use memchr::{memchr, memmem, memrchr};
use taptrail_record::{KernelOpen, Line, PathRecord, Syscall};
use taptrail_trail::Content;

use crate::feed::CONTEXT;
use crate::found::{Found, Voice};
use crate::shape;

/// The open that the `PATH` record `bytes[start..end]` is a part of. The `SYSCALL` record comes before
/// it, with no more than some records of other events between.
pub(crate) fn open(bytes: &[u8], start: usize, end: usize) -> Option<Found> {
    let this = &bytes[start..end];
    let line = Line::parse(this).ok()?;
    let path = PathRecord::of(&line)?;
    let stamp = stamp(this)?;
    let before = &bytes[start.saturating_sub(CONTEXT)..start];
    let mut until = before.len();
    while let Some(at) = memmem::rfind(&before[..until], stamp) {
        let begin = memrchr(b'\n', &before[..at]).map_or(0, |newline| newline + 1);
        let end = memchr(b'\n', &before[at..]).map_or(before.len(), |newline| at + newline);
        let other = Line::parse(&before[begin..end]).ok();
        let other = other.filter(|other| other.stamp == line.stamp && other.node == line.node);
        if let Some(syscall) = other.as_ref().and_then(Syscall::of) {
            return Some(Found {
                when: shape::first_time(this)?,
                serial: Some(line.stamp.serial),
                host: line.node.map(|node| node.to_str_lossy().into()),
                writer: None,
                voice: Voice::Auditd,
                boot: None,
                content: Content::KernelOpen(KernelOpen::join(&syscall, &path)?),
            });
        }
        until = begin;
    }
    None
}

/// `msg=audit(1795459763.120:1918):` of a line.
fn stamp(line: &[u8]) -> Option<&[u8]> {
    let at = memmem::find(line, b"msg=audit(")?;
    let end = memchr(b')', &line[at..])?;
    Some(&line[at..=at + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] =
        include_bytes!("../../../tests/data/libvirt/libvirt-9.0-kernel-rules/02-macvtap/audit.log");

    #[test]
    fn a_path_is_put_together_with_its_system_call() {
        let start = memmem::find(LOG, b"type=PATH").unwrap();
        let end = start + memchr(b'\n', &LOG[start..]).unwrap();
        let found = open(LOG, start, end).unwrap();
        assert_eq!(found.serial, Some(1918));
        let Content::KernelOpen(open) = found.content else { panic!("{found:?}") };
        assert_eq!((open.pid, open.fd, open.device.path.as_str()), (23941, Some(30), "/dev/tap198"));
        assert_eq!(super::open(&LOG[start..], 0, end - start), None, "no system call before it");
    }
}
