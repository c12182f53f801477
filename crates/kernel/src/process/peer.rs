use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::proc::login_uid;

/// Who is at the other end of a Unix socket: the process that connected, as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its pid in our pid namespace.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Who logged in, whatever user it became since; `None` for nobody, or when it is gone.
    pub login_uid: Option<u32>,
}

/// Asks the kernel who connected (SO_PEERCRED, unix(7)).
///
/// User and group are the kernel's word. The login uid is looked up by pid afterwards, and given
/// only while the peer is seen to live, so that no later process with its pid is taken for it; before
/// Linux 6.5 that can't be seen.
///
/// # Errors
/// When the descriptor is not a connected Unix socket.
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
            // Readable once it has exited: alive still, so what was read is its own.
            let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
            let alive = rustix::event::poll(&mut polled, Some(&Timespec::default())) == Ok(0);
            uid.filter(|_| alive)
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => login_uid(pid).ok().flatten(),
        Err(_) => None,
    }
}

/// The peer by a descriptor that no later process takes over (SO_PEERPIDFD, Linux 6.5).
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
    // SAFETY: the call made this descriptor for us (close-on-exec, as every pidfd); nobody else has it.
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
