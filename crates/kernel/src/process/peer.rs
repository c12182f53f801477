use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::proc::login_uid;

/// The process that connected to a Unix socket, at the time of connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its pid in the calling process's pid namespace.
    pub pid: u32,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its login uid, which su(1) does not change; `None` without a login, or if it has ended.
    pub login_uid: Option<u32>,
}

/// The peer of a connected socket (SO_PEERCRED, unix(7)).
///
/// User and group are from the kernel. The login uid is read by pid afterwards, and used only if
/// the peer is still alive, so that it is not that of a later process with the same pid; before
/// Linux 6.5 this can't be checked.
///
/// # Errors
///
/// The descriptor is not a connected Unix socket.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<Peer> {
    let socket = socket.as_fd();
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    let pid = credentials.pid.as_raw_nonzero().get().unsigned_abs();
    Ok(Peer {
        pid,
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
        login_uid: login_uid_of_peer(socket, pid),
    })
}

fn login_uid_of_peer(socket: BorrowedFd<'_>, pid: u32) -> Option<u32> {
    match peer_pidfd(socket) {
        Ok(pidfd) => {
            let uid = login_uid(pid).ok().flatten();
            // Readable after the exit. If not, the peer is alive, and the login uid is its own.
            let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
            let alive = rustix::event::poll(&mut polled, Some(&Timespec::default())) == Ok(0);
            uid.filter(|_| alive)
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => login_uid(pid).ok().flatten(),
        Err(_) => None,
    }
}

/// A pidfd of the peer, which no later process reuses (SO_PEERPIDFD, Linux 6.5).
fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&fd)).unwrap_or_default();
    // SAFETY: the kernel writes one int, of the length given, to a live one.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made this descriptor for us (close-on-exec, as every pidfd); nobody else has
    // it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = peer_credentials(&ours).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.login_uid, login_uid(peer.pid).unwrap());
    }

    #[test]
    fn the_peer_is_pinned_where_the_kernel_can() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        match peer_pidfd(ours.as_fd()) {
            Ok(pidfd) => {
                assert!(rustix::io::fcntl_getfd(&pidfd).unwrap().contains(rustix::io::FdFlags::CLOEXEC))
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT), "{error}"),
        }
    }

    #[test]
    fn a_file_has_no_peer() {
        assert!(peer_credentials(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
