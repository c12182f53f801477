//! Ways to keep a device out of sight of its descriptor's number: in this test's process, or in a
//! program that the test controls.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};

/// A number far from those that the kernel gives.
const FAR_OFF: RawFd = 500;

/// Where this process keeps a file. Dropped, the file is closed.
#[derive(Debug)]
pub(crate) enum Hidden {
    Elsewhere(#[allow(dead_code, reason = "it is held")] OwnedFd),
    Table(Option<Sender<()>>, Option<JoinHandle<()>>),
    Flight(OwnedFd),
    Child(Child),
}

impl Drop for Hidden {
    fn drop(&mut self) {
        match self {
            Self::Elsewhere(_) | Self::Flight(_) => {}
            Self::Table(stop, thread) => {
                drop(stop.take());
                thread.take().unwrap().join().unwrap();
            }
            Self::Child(child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }
}

/// How a file is kept while its descriptor is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Number,
    Thread,
    Flight,
    Child,
}

impl Way {
    /// Whether `/proc` still shows the file.
    pub(crate) fn is_shown(self) -> bool {
        matches!(self, Self::Number | Self::Thread)
    }

    /// Hides a file of this process.
    pub(crate) fn hides(self, file: OwnedFd) -> Hidden {
        match self {
            Self::Number => Hidden::Elsewhere(fcntl_dupfd_cloexec(&file, FAR_OFF).unwrap()),
            // The thread's table begins as a copy, in which everything else is closed.
            Self::Thread => {
                let ((ready, is_ready), (stop, is_over)) = (channel(), channel::<()>());
                let kept = file.as_raw_fd();
                let thread = std::thread::spawn(move || {
                    unshare(CloneFlags::CLONE_FILES).unwrap();
                    let others = std::fs::read_dir("/proc/thread-self/fd").unwrap();
                    let others = others.map(|other| other.unwrap().file_name().into_string().unwrap());
                    let others: Vec<RawFd> = others.map(|other| other.parse().unwrap()).collect();
                    // The descriptor of the listing itself is gone by now.
                    for other in others.into_iter().filter(|other| *other > 2 && *other != kept) {
                        let _ = nix::unistd::close(other);
                    }
                    ready.send(()).unwrap();
                    let _ = is_over.recv();
                });
                is_ready.recv().unwrap();
                drop(file);
                Hidden::Table(Some(stop), Some(thread))
            }
            Self::Flight => Hidden::Flight(in_flight(&file)),
            Self::Child => {
                let copy = file.try_clone().unwrap();
                fcntl_setfd(&copy, FdFlags::empty()).unwrap();
                let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
                Hidden::Child(child)
            }
        }
    }
}

/// Sends a file to a socket from which no process reads.
#[allow(clippy::disallowed_methods, reason = "the test sends what a hostile process would")]
fn in_flight(file: &OwnedFd) -> OwnedFd {
    let (from, to) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(&from, &[std::io::IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
    to
}

/// Receives a file that is in flight.
pub(crate) fn lands(socket: &OwnedFd) -> OwnedFd {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [std::io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    files.flatten().next().unwrap()
}

/// A program that takes descriptors from this one, and follows commands about them.
#[derive(Debug)]
pub(crate) struct Puppet {
    child: Child,
    commands: ChildStdin,
    replies: std::io::Lines<BufReader<ChildStdout>>,
    pidfd: OwnedFd,
}

/// Each input line is a command and a descriptor; the program answers with a number.
const PUPPET: &str = r#"
    use POSIX;
    $| = 1;
    my %held;
    my $parent = syscall(434, getppid(), 0);
    my %does = (
        take => sub { syscall(438, $parent, $_[0] + 0, 0) },
        dup => sub { my $far = 500; $far++ while -e "/proc/self/fd/$far"; POSIX::dup2($_[0], $far) },
        close => sub { POSIX::close($_[0]) },
        # Registered with io_uring.
        ring => sub {
            my $parameters = "\0" x 120;
            my $ring = syscall(425, 4, $parameters);
            $ring >= 0 && syscall(427, $ring, 2, pack("i", $_[0]), 1) == 0 or die "$!";
            $ring
        },
        # Kept by a child, which has nothing else.
        child => sub {
            pipe(my $reader, my $writer);
            my $child = fork();
            if ($child == 0) {
                opendir(my $all, "/proc/self/fd");
                POSIX::close($_) for grep { /^\d+$/ && $_ != $_[0] } readdir($all);
                sleep 1000;
                POSIX::_exit(0);
            }
            close $writer;
            <$reader>;
            $child
        },
        # A queue of a tap, set aside and taken up again (TUNSETQUEUE).
        aside => sub { queue($_[0], 0x400) },
        back => sub { queue($_[0], 0x200) },
        # The tap outlives its descriptors (TUNSETPERSIST).
        persist => sub { open(my $file, "+<&", $_[0]) or die; ioctl($file, 0x400454cb, 1) or die "$!"; 0 },
    );
    sub queue {
        open(my $file, "+<&", $_[0]) or die;
        ioctl($file, 0x400454d9, pack("x16 s x22", $_[1])) or die "$!";
        0
    }
    while (<STDIN>) {
        my ($does, $fd) = split;
        my $is = $does{$does}->($fd);
        defined $is && $is >= 0 or die "$does $fd: $!";
        print $is + 0, "\n";
    }
"#;

impl Puppet {
    pub(crate) fn start() -> Self {
        let mut puppet = Command::new("/usr/bin/perl");
        let mut child =
            puppet.args(["-e", PUPPET]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, replies) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let pidfd = pidfd_of(child.id());
        Self { child, commands, replies: BufReader::new(replies).lines(), pidfd }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn does(&mut self, what: &str, fd: RawFd) -> RawFd {
        writeln!(self.commands, "{what} {fd}").unwrap();
        let reply = self.replies.next().unwrap_or_else(|| panic!("{what} {fd}: it has ended"));
        reply.unwrap().parse().unwrap()
    }

    /// Takes a file of this process. Returns its number there.
    pub(crate) fn takes(&mut self, file: &OwnedFd) -> RawFd {
        self.does("take", file.as_raw_fd())
    }

    pub(crate) fn closes(&mut self, fd: RawFd) {
        self.does("close", fd);
    }

    /// Moves a file to another number.
    pub(crate) fn moves(&mut self, fd: RawFd) -> RawFd {
        let moved = self.does("dup", fd);
        self.closes(fd);
        moved
    }

    /// Keeps a file only in an io_uring. Returns the number of the ring.
    pub(crate) fn registers(&mut self, fd: RawFd) -> RawFd {
        let ring = self.does("ring", fd);
        self.closes(fd);
        ring
    }

    /// Keeps a file only in flight. Returns the number of the socket.
    pub(crate) fn sends(&mut self, fd: RawFd) -> RawFd {
        let socket = self.takes(&in_flight(&self.file(fd)));
        self.closes(fd);
        socket
    }

    /// Keeps a file only in a child, which outlives the program.
    pub(crate) fn leaves(&mut self, fd: RawFd) -> Orphan {
        let child = u32::try_from(self.does("child", fd)).unwrap();
        self.closes(fd);
        Orphan(pidfd_of(child))
    }

    /// Receives a file that is in flight. Returns its number.
    pub(crate) fn lands(&mut self, socket: RawFd) -> RawFd {
        let file = lands(&self.file(socket));
        self.closes(socket);
        self.takes(&file)
    }

    /// Detaches a queue from its tap, or attaches it again.
    pub(crate) fn sets_aside(&mut self, fd: RawFd, is_aside: bool) {
        self.does(if is_aside { "aside" } else { "back" }, fd);
    }

    /// Makes a tap outlive its descriptors.
    pub(crate) fn makes_stay(&mut self, fd: RawFd) {
        self.does("persist", fd);
    }

    /// A copy of one of its files, in this process.
    fn file(&self, fd: RawFd) -> OwnedFd {
        pidfd_getfd(&self.pidfd, fd, PidfdGetfdFlags::empty()).unwrap()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child of a puppet. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Orphan(OwnedFd);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
        // The pidfd becomes readable when the child has ended.
        let mut ended = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).unwrap();
    }
}

fn pidfd_of(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}
