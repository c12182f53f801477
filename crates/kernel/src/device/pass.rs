use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::Admitted;

impl Admitted {
    /// Passes the device's descriptor over a connected Unix socket, with one byte of zero: the
    /// answer that QEMU and libvirt expect of a bridge helper. Does not wait for room.
    ///
    /// # Errors
    ///
    /// sendmsg(2) fails, and nothing was passed.
    // The method is disallowed elsewhere because it can pass any descriptor. This one is recorded.
    #[allow(clippy::disallowed_methods)]
    pub fn pass(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [self.as_fd()];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::NOBUFS);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}
