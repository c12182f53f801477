//! The Unix sockets of the calling thread's network namespace, as the kernel lists them:
//! sock_diag(7), `NETLINK_SOCK_DIAG`.
//!
//! The kernel knows a socket as long as anything refers to it: a descriptor of any process, one in
//! flight between processes, or io_uring. What it does not say is who holds a socket; `/proc/PID/fd`
//! does ([`sockets_of`]).
//!
//! A list is made in parts, and can lack a socket that is there all the time, when others come and go
//! meanwhile (`unix_diag_dump()` goes on by a bucket and an index). So that a socket is gone is shown by
//! asking for it alone ([`exists`]); where its inode is not known, by lists that agree.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::netlink::{HEADER, attributes, messages, u32_at};
use crate::proc::{descriptor_tables, is_gone};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `AF_UNIX` of linux/socket.h.
const AF_UNIX: u8 = 1;
/// Bytes of `struct unix_diag_req` (linux/unix_diag.h).
const REQUEST: usize = 24;
/// Bytes of `struct unix_diag_msg`, which attributes follow.
const MESSAGE: usize = 16;
/// `UDIAG_SHOW_NAME`, `UDIAG_SHOW_VFS` and `UDIAG_SHOW_PEER`.
const SHOW: u32 = 1 | 2 | 4;
/// `UNIX_DIAG_NAME`, `UNIX_DIAG_VFS` and `UNIX_DIAG_PEER`.
const NAME: u16 = 0;
const VFS: u16 = 1;
const PEER: u16 = 2;
/// `NLM_F_REQUEST`, `NLM_F_REQUEST | NLM_F_DUMP` and `NLM_F_DUMP_INTR` of linux/netlink.h.
const ONE: u16 = 1;
const DUMP: u16 = 0x301;
const DUMP_INTERRUPTED: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// More than one datagram of a dump has.
const MAX_REPLY_BYTES: usize = 64 * 1024;
/// The most sockets that are read. Users can make many.
const MAX_SOCKETS: usize = 1 << 20;
/// Lists that are made until two in succession agree.
const MAX_LISTS: usize = 16;
/// `SOCK_STREAM` of linux/net.h.
const STREAM: u8 = 1;

/// The file to which a socket was bound, and by which others connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFile {
    path: PathBuf,
    /// Its file system's device number as the kernel has it, and its inode. `None`: known by its path
    /// alone.
    id: Option<(u32, u32)>,
}

impl SocketFile {
    /// The socket that is at this path now; by its path alone if there is none.
    pub fn at(path: &Path) -> Self {
        let found = std::fs::symlink_metadata(path).ok().filter(|about| about.file_type().is_socket());
        Self { path: path.to_owned(), id: found.map(|about| id(about.dev(), about.ino())) }
    }

    /// What was bound to this path, whatever is there now.
    pub fn named(path: &Path) -> Self {
        Self { path: path.to_owned(), id: None }
    }

    /// The socket with this [`id`](Self::id), whatever is at the path now.
    pub fn with_id(path: &Path, id: (u32, u32)) -> Self {
        Self { path: path.to_owned(), id: Some(id) }
    }

    /// The path by which it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its file system's device number as the kernel has it, and its inode; `None` if it is known by its
    /// path alone.
    pub fn id(&self) -> Option<(u32, u32)> {
        self.id
    }

    /// The open file, whatever is at its path now.
    pub(crate) fn of(about: &Stat, path: &Path) -> Self {
        Self { path: path.to_owned(), id: Some(id(about.st_dev, about.st_ino)) }
    }
}

fn id(device: u64, inode: u64) -> (u32, u32) {
    // `MKDEV()` of linux/kdev_t.h. The list has the lower half of an inode's number.
    #[allow(clippy::cast_possible_truncation)]
    (rustix::fs::major(device) << 20 | rustix::fs::minor(device), inode as u32)
}

/// One socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct UnixSocket {
    inode: u32,
    is_stream: bool,
    /// That of the other end of a connection; 0 for an end that has none.
    peer: Option<u32>,
    /// The file that it, or the listener that accepted it, was bound to, as in a [`SocketFile`].
    file: Option<(u32, u32)>,
    /// The address that it was bound to.
    name: Option<Box<[u8]>>,
}

/// Unix sockets of a network namespace, by their inodes.
#[derive(Debug, Default)]
pub struct UnixSockets(BTreeMap<u32, UnixSocket>);

impl UnixSockets {
    /// Lists those of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel does not list them, as one without `CONFIG_UNIX_DIAG`.
    pub fn list() -> io::Result<Self> {
        Self::dump().map_err(not_listed)
    }

    /// The inodes of sockets that are connected to one of these files, by two lists in succession that
    /// agree on it: what is not among them is not there. `None` if no two of several lists agree.
    ///
    /// # Errors
    ///
    /// As of [`Self::list`].
    pub fn all_connected_to(files: &[SocketFile]) -> io::Result<Option<BTreeSet<u64>>> {
        let look = || Ok::<_, io::Error>(Self::list()?.connected_to_any(files));
        let mut last = look()?;
        for _ in 1..MAX_LISTS {
            let next = look()?;
            if next == last {
                return Ok(Some(next));
            }
            last = next;
        }
        Ok(None)
    }

    /// Those of these inodes, and the other ends of their connections, each asked for alone.
    ///
    /// # Errors
    ///
    /// As of [`Self::list`].
    pub fn of(inodes: impl IntoIterator<Item = u64>) -> io::Result<Self> {
        Self::each(inodes).map_err(not_listed)
    }

    fn each(inodes: impl IntoIterator<Item = u64>) -> io::Result<Self> {
        let mut socket = diag_socket()?;
        let mut found = Self::default();
        for inode in inodes {
            // The inode of a socket is an `unsigned int`.
            let Ok(inode) = u32::try_from(inode) else { continue };
            if found.0.len() >= MAX_SOCKETS {
                return Err(Errno::NOBUFS.into());
            }
            let Some(one) = ask(&mut socket, inode)? else { continue };
            if let Some(peer) = one.peer.filter(|peer| *peer != 0) {
                found.0.extend(ask(&mut socket, peer)?.map(|other| (peer, other)));
            }
            found.0.insert(inode, one);
        }
        check_that_it_answers(&mut socket)?;
        Ok(found)
    }

    fn dump() -> io::Result<Self> {
        let mut socket = diag_socket()?;
        socket.send(&request(None), 0)?;
        let mut listed = Self::default();
        let mut buffer = Vec::with_capacity(MAX_REPLY_BYTES);
        while !listed.take(receive(&mut socket, &mut buffer)?)? {}
        Ok(listed)
    }

    /// Takes one datagram of a dump; whether it was the last.
    pub(crate) fn take(&mut self, datagram: &[u8]) -> io::Result<bool> {
        for message in messages(datagram) {
            if message.flags & DUMP_INTERRUPTED != 0 {
                return Err(Errno::INTR.into());
            }
            match message.kind {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let code = u32_at(message.payload, 0).unwrap_or_default().cast_signed();
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                SOCK_DIAG_BY_FAMILY if self.0.len() >= MAX_SOCKETS => return Err(Errno::NOBUFS.into()),
                SOCK_DIAG_BY_FAMILY => {
                    self.0.extend(UnixSocket::read(message.payload).map(|one| (one.inode, one)));
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Whether the kernel knows the socket of this inode, or knew it when it was asked.
    pub fn has(&self, inode: u64) -> bool {
        self.get(inode).is_some()
    }

    fn get(&self, inode: u64) -> Option<&UnixSocket> {
        self.0.get(&u32::try_from(inode).ok()?)
    }

    /// The inodes of sockets that are connected to this file by a connection whose other end exists.
    pub fn connected_to(&self, file: &SocketFile) -> impl Iterator<Item = u64> {
        let accepted = self.0.values().filter(|end| end.is_stream && end.is_of(file));
        // The accepted end has the file; the end that connected has the accepted one as its peer.
        accepted.filter_map(|end| self.get(end.peer?.into()).map(|peer| u64::from(peer.inode)))
    }

    /// Those of any of these files.
    pub fn connected_to_any(&self, files: &[SocketFile]) -> BTreeSet<u64> {
        files.iter().flat_map(|file| self.connected_to(file)).collect()
    }

    /// Whether the socket of this inode is connected, and to what is not known: its other end was not
    /// accepted yet, or is gone.
    pub fn is_half_open(&self, inode: u64) -> bool {
        self.get(inode).is_some_and(|socket| socket.is_stream && socket.peer == Some(0))
    }

    /// Whether the socket of this inode may be connected to a file, which another may have replaced at
    /// its path: the listener that accepted its other end was bound to one, which is not known to be
    /// another.
    pub fn may_be_connected_to(&self, inode: u64, file: &SocketFile) -> bool {
        let peer = self.get(inode).filter(|socket| socket.is_stream).and_then(|socket| socket.peer);
        let of = peer.and_then(|peer| self.get(peer.into())?.file);
        // By the inode alone: btrfs shows another device number to stat(2).
        of.is_some_and(|(_, of)| file.id.is_none_or(|(_, inode)| of == inode))
    }
}

impl UnixSocket {
    /// Reads a `struct unix_diag_msg` and its attributes.
    fn read(payload: &[u8]) -> Option<Self> {
        let is_stream = payload.get(1) == Some(&STREAM);
        let mut socket = Self { inode: u32_at(payload, 4)?, is_stream, ..Self::default() };
        for (kind, value) in attributes(payload.get(MESSAGE..)?) {
            match kind {
                NAME if !value.is_empty() => socket.name = Some(value.into()),
                // `struct unix_diag_vfs`: inode, device.
                VFS => socket.file = u32_at(value, 4).zip(u32_at(value, 0)),
                PEER => socket.peer = u32_at(value, 0),
                _ => {}
            }
        }
        Some(socket)
    }

    /// Whether it, or the listener that accepted it, was bound to this file.
    fn is_of(&self, file: &SocketFile) -> bool {
        // The address of a path may end with a NUL.
        let is_named = || {
            let name = self.name.as_deref().unwrap_or_default();
            name.strip_suffix(b"\0").unwrap_or(name) == file.path.as_os_str().as_bytes()
        };
        match (file.id, self.file) {
            // btrfs shows another device number to stat(2).
            (Some((device, inode)), Some((of, has))) => inode == has && (device == of || is_named()),
            (Some(_), None) => false,
            (None, _) => is_named(),
        }
    }
}

/// Whether anything refers to the socket of this inode, of the calling thread's network namespace.
///
/// # Errors
///
/// As of [`UnixSockets::list`].
pub fn exists(inode: u64) -> io::Result<bool> {
    let Ok(inode) = u32::try_from(inode) else { return Ok(false) };
    let look = || {
        let mut socket = diag_socket()?;
        // Again: bind(2) moves a socket to another place in the kernel's table, and can do so once.
        let is_there = ask(&mut socket, inode)?.or(ask(&mut socket, inode)?).is_some();
        if !is_there {
            check_that_it_answers(&mut socket)?;
        }
        Ok(is_there)
    };
    look().map_err(not_listed)
}

/// A kernel that can't answer, as without the module, says the same as of a socket that is not there: so
/// it is asked for one that is.
fn check_that_it_answers(socket: &mut Socket) -> io::Result<()> {
    let (own, _other) = UnixStream::pair()?;
    let inode = u32::try_from(rustix::fs::fstat(&own)?.st_ino).unwrap_or_default();
    // Without a file it is not moved in the kernel's table.
    ask(socket, inode)?.map(drop).ok_or_else(|| Errno::NOSYS.into())
}

/// Whether a process's descriptor may be a Unix socket: it is, or it can't be seen.
pub fn may_be_unix(pid: u32, fd: RawFd) -> bool {
    let mut name = [0; 64];
    let path = format!("/proc/{pid}/fd/{fd}");
    match rustix::fs::getxattr(&path, "system.sockprotoname", &mut name) {
        // Names of protocols: TCP, NETLINK, UNIX, UNIX-STREAM.
        Ok(long) => name.get(..long).is_none_or(|name| name.starts_with(b"UNIX")),
        Err(_) => true,
    }
}

/// Not as a system call's error, which would say that a process or a file is gone.
fn not_listed(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the kernel does not list Unix sockets (unix_diag): {error}"))
}

fn diag_socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn receive<'a>(socket: &mut Socket, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    loop {
        buffer.clear();
        match socket.recv(buffer, 0) {
            Ok(_) => return Ok(buffer),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Asks for one socket; `None` if there is none of this inode.
fn ask(socket: &mut Socket, inode: u32) -> io::Result<Option<UnixSocket>> {
    if inode == 0 {
        return Ok(None);
    }
    socket.send(&request(Some(inode)), 0)?;
    let mut answer = UnixSockets::default();
    let mut buffer = Vec::with_capacity(MAX_REPLY_BYTES);
    match answer.take(receive(socket, &mut buffer)?) {
        Ok(_) => answer.0.remove(&inode).map(Some).ok_or_else(|| Errno::BADMSG.into()),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `struct nlmsghdr` and `struct unix_diag_req`: the socket of this inode, or all, in all states.
fn request(inode: Option<u32>) -> Vec<u8> {
    let length = u32::try_from(HEADER + REQUEST).unwrap_or_default();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(if inode.is_some() { ONE } else { DUMP }.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([AF_UNIX, 0, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(inode.unwrap_or(0).to_ne_bytes());
    bytes.extend(SHOW.to_ne_bytes());
    // Any cookie: `INET_DIAG_NOCOOKIE`.
    bytes.extend([0xff; 8]);
    bytes
}

/// The sockets that a process holds, in the descriptor tables of all its threads: numbers of
/// descriptors, and inodes.
///
/// # Errors
///
/// ENOENT if the process has ended, EACCES without permission to inspect it.
pub fn sockets_of(pid: u32) -> io::Result<Vec<(RawFd, u64)>> {
    let mut sockets = Vec::new();
    for thread in descriptor_tables(pid)? {
        match std::fs::read_dir(format!("/proc/{thread}/fd")) {
            Ok(entries) => sockets.extend(entries.flatten().filter_map(|entry| {
                let fd = entry.file_name().to_str()?.parse().ok()?;
                let target = std::fs::read_link(entry.path()).ok()?;
                let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                Some((fd, inode.parse().ok()?))
            })),
            // A thread may end before its process.
            Err(error) if thread != pid && is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn own(stream: &UnixStream) -> u64 {
        let held = sockets_of(std::process::id()).unwrap();
        held.iter().find(|(fd, _)| *fd == stream.as_raw_fd()).unwrap().1
    }

    #[test]
    fn a_connection_is_found_by_its_file_and_is_gone_with_its_last_copy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backend.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let file = SocketFile::at(&path);
        let connected =
            |file: &SocketFile| UnixSockets::list().unwrap().connected_to(file).collect::<Vec<_>>();
        assert_eq!(connected(&file), [0; 0]);
        let stream = UnixStream::connect(&path).unwrap();
        let inode = own(&stream);
        let is_half_open = || UnixSockets::list().unwrap().is_half_open(inode);
        assert!(is_half_open(), "nobody has accepted it");
        let (accepted, _) = listener.accept().unwrap();
        assert!(!is_half_open());
        assert_eq!(connected(&file), [inode]);
        // Another file at the path is another socket; the connection is that of the first one.
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        assert_eq!(connected(&SocketFile::at(&path)), [0; 0]);
        assert_eq!(connected(&file), [inode]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(connected(&SocketFile::at(&path)), [inode], "by the name that it was bound to");
        // Without its other end it is no connection, and exists nevertheless.
        drop(accepted);
        assert_eq!(connected(&file), [0; 0]);
        assert!(is_half_open());
        let copy = stream.try_clone().unwrap();
        drop(stream);
        assert!(exists(inode).unwrap());
        drop(copy);
        assert!(!exists(inode).unwrap());
        assert!(!UnixSockets::of([inode]).unwrap().is_half_open(inode));
    }

    #[test]
    fn a_connection_is_known_by_asking_for_it_alone_and_only_a_stream_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backend.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let file = SocketFile::at(&path);
        let stream = UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let inode = own(&stream);
        let asked = UnixSockets::of([inode]).unwrap();
        assert_eq!(asked.connected_to(&file).collect::<Vec<_>>(), [inode]);
        assert!(asked.may_be_connected_to(inode, &SocketFile::named(&path)));
        // The end that was accepted connected to nothing, nor did a pair.
        let own_of_accepted = own(&accepted);
        assert!(
            !UnixSockets::of([own_of_accepted])
                .unwrap()
                .may_be_connected_to(own_of_accepted, &SocketFile::named(&path))
        );
        let (pair, _other) = UnixStream::pair().unwrap();
        let of_pair = own(&pair);
        assert!(exists(of_pair).unwrap());
        assert!(!UnixSockets::of([of_pair]).unwrap().may_be_connected_to(of_pair, &SocketFile::named(&path)));
        // Its other end gone, a datagram socket is no connection that is half open.
        let (datagram, gone) = UnixDatagram::pair().unwrap();
        drop(gone);
        let held = sockets_of(std::process::id()).unwrap();
        let of_datagram = held.iter().find(|(fd, _)| *fd == datagram.as_raw_fd()).unwrap().1;
        assert!(!UnixSockets::of([of_datagram]).unwrap().is_half_open(of_datagram));
    }

    #[test]
    fn a_socket_of_another_family_is_none_and_what_can_not_be_seen_may_be_one() {
        let (unix, _other) = UnixStream::pair().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = std::process::id();
        assert!(may_be_unix(own, unix.as_raw_fd()));
        assert!(!may_be_unix(own, tcp.as_raw_fd()));
        assert!(may_be_unix(own, RawFd::MAX), "there is none");
    }

    #[test]
    fn connections_are_listed_until_two_lists_agree() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backend.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let files = [SocketFile::at(&path)];
        let connected = || UnixSockets::all_connected_to(&files).unwrap().unwrap();
        assert!(connected().is_empty());
        let stream = UnixStream::connect(&path).unwrap();
        let _accepted = listener.accept().unwrap();
        // Others come and go meanwhile.
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|_| drop(UnixStream::pair())));
            assert_eq!(connected(), BTreeSet::from([own(&stream)]));
        });
    }

    #[test]
    fn what_is_malformed_is_no_socket() {
        assert_eq!(UnixSocket::read(&[0; 7]), None);
        assert_eq!(UnixSocket::read(&[0; MESSAGE - 1]), None);
        assert_eq!(UnixSocket::read(&[0; MESSAGE]), Some(UnixSocket::default()));
        // An attribute that is longer than its message, and one that is too short for its kind.
        let cut = [&[0; MESSAGE][..], &[200, 0, 2, 0, 1]].concat();
        assert_eq!(UnixSocket::read(&cut), Some(UnixSocket::default()));
        let short = [&[0; MESSAGE][..], &[5, 0, 2, 0, 1, 0, 0, 0]].concat();
        assert_eq!(UnixSocket::read(&short), Some(UnixSocket::default()));
        assert!(UnixSockets::default().take(b"\0\0\0\0").is_ok_and(|over| !over));
    }
}
