//! The kernel's filters on sockets, which decide what a socket receives: programs of classic BPF
//! (socket(7), linux/filter.h).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// One instruction. `jt` and `jf` instructions are skipped where a condition is true or false.
#[expect(clippy::cast_possible_truncation, reason = "codes are of 16 bits")]
pub(crate) fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Attaches a program in place of an earlier one.
pub(crate) fn attach(socket: BorrowedFd<'_>, mut program: Vec<libc::sock_filter>) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    set(socket, libc::SO_ATTACH_FILTER, &libc::sock_fprog { len, filter: program.as_mut_ptr() })
}

/// Removes the program, if there is one.
pub(crate) fn detach(socket: BorrowedFd<'_>) -> io::Result<()> {
    match set(socket, libc::SO_DETACH_FILTER, &0_i32) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Lets nobody replace or remove the socket's program any more.
pub(crate) fn lock(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SO_LOCK_FILTER, &1_i32)
}

fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads one live value, as long as `size` says, and the program that a
    // sock_fprog points to, which lives as long.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, std::ptr::from_ref(value).cast(), size)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
