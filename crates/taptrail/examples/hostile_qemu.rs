//! A QEMU that was taken over, as the supervisor sees it: it speaks QMP, takes descriptors, and keeps
//! them by any way that a process without capabilities has. `tests/e2e/hostile_qemu.rs` starts it,
//! chooses what it does next by a file, and learns from another what it really holds.
//!
//! `hostile_qemu DIRECTORY ARGUMENT…`: of the arguments only the monitor's socket counts.

#![allow(unsafe_code, reason = "what a hostile process does has no safe names")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

/// Where a descriptor is kept.
enum Kept {
    /// In its table, under some number.
    Here(OwnedFd),
    /// In the table of a thread that has its own; the thread ends with the sender.
    Thread(#[expect(dead_code, reason = "held")] mpsc::Sender<()>),
    /// In flight between these.
    Flight(
        #[expect(dead_code, reason = "held")] UnixStream,
        #[expect(dead_code, reason = "held")] UnixStream,
    ),
    /// Registered with this ring.
    Ring(#[expect(dead_code, reason = "held")] OwnedFd),
    /// In this process, a child that outlives its parent.
    Child(libc::pid_t),
}

impl Kept {
    fn how(&self) -> &'static str {
        match self {
            Self::Here(_) => "here",
            Self::Thread(_) => "thread",
            Self::Flight(..) => "flight",
            Self::Ring(_) => "ring",
            Self::Child(_) => "child",
        }
    }
}

struct Hostile {
    directory: PathBuf,
    kept: BTreeMap<String, Kept>,
}

fn main() {
    let mut words = std::env::args().skip(1);
    let directory = PathBuf::from(words.next().expect("hostile_qemu DIRECTORY ARGUMENT…"));
    let monitor = words.find_map(|word| {
        let rest = word.strip_prefix("socket,id=taptrail-monitor,fd=")?;
        rest.split(',').next()?.parse::<RawFd>().ok()
    });
    // SAFETY: the supervisor has given us this descriptor, and nothing else uses it.
    let listener = unsafe { UnixListener::from_raw_fd(monitor.expect("a monitor")) };
    let mut hostile = Hostile { directory, kept: BTreeMap::new() };
    hostile.write_truth();
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        hostile.serve(stream);
    }
}

impl Hostile {
    fn serve(&mut self, mut stream: UnixStream) {
        let version = json!({"major": 7, "minor": 2, "micro": 0});
        let greeting = json!({"QMP": {"version": {"qemu": version, "package": ""}, "capabilities": []}});
        if writeln!(stream, "{greeting}\r").is_err() {
            return;
        }
        let mut text = Vec::new();
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; 65_536];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let mut vectors = [IoSliceMut::new(&mut bytes)];
            let Ok(got) = recvmsg(&stream, &mut vectors, &mut ancillary, flags) else { return };
            let mut fds: Vec<OwnedFd> = Vec::new();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            if got.bytes == 0 {
                return;
            }
            text.extend_from_slice(&bytes[..got.bytes]);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let Ok(command) = serde_json::from_slice::<Value>(&line) else { continue };
                let answers = self.answer(&command, &mut fds);
                // What it holds is on record before the supervisor hears of it.
                self.write_truth();
                for mut answer in answers {
                    if let (Some(id), None) = (command.get("id"), answer.get("event")) {
                        answer["id"] = id.clone();
                    }
                    if writeln!(stream, "{answer}\r").is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn answer(&mut self, command: &Value, fds: &mut Vec<OwnedFd>) -> Vec<Value> {
        let mode = fs::read_to_string(self.directory.join("mode")).unwrap_or_default();
        let does = |word: &str| mode.split_whitespace().any(|found| found == word);
        let arguments = &command["arguments"];
        let text = |key: &str| arguments[key].as_str().unwrap_or_default().to_owned();
        let refused = |class: &str| vec![json!({"error": {"class": class, "desc": "no"}})];
        if does("free") {
            self.free();
        }
        let done = vec![json!({"return": {}})];
        match command["execute"].as_str().unwrap_or_default() {
            "getfd" => {
                if let Some(fd) = fds.pop() {
                    self.kept.insert(text("fdname"), Kept::Here(fd));
                }
                if does("refuse-getfd") { refused("GenericError") } else { done }
            }
            "closefd" => {
                let name = text("fdname");
                if does("lie") || does("hide-closefd") {
                    return done;
                }
                if matches!(self.kept.get(&name), Some(Kept::Here(_))) {
                    self.kept.remove(&name);
                    return done;
                }
                refused("GenericError")
            }
            "netdev_add" if does("exit-netdev") => std::process::exit(3),
            "netdev_add" if does("refuse-netdev") => refused("GenericError"),
            "device_add" if does("refuse-device") => refused("GenericError"),
            "netdev_del" => {
                let id = text("id");
                self.release(id.strip_prefix("host-").unwrap_or(&id), &mode);
                done
            }
            "device_del" => {
                let mut answers = done;
                let deleted = |device: &str| {
                    let timestamp = json!({"seconds": 1, "microseconds": 1});
                    let data = json!({"device": device, "path": "/machine/peripheral/x"});
                    json!({"event": "DEVICE_DELETED", "data": data, "timestamp": timestamp})
                };
                if does("deleted") {
                    answers.push(deleted(&text("id")));
                }
                if does("deleted-twice") {
                    answers.extend([deleted(&text("id")), deleted("nic0"), deleted("no-such")]);
                }
                answers
            }
            "query-status" => {
                vec![json!({"return": {"status": "running", "singlestep": false, "running": true}})]
            }
            "qom-list" => vec![json!({"return": []})],
            "qom-get" => refused("DeviceNotFound"),
            "quit" => std::process::exit(0),
            _ => done,
        }
    }

    /// Gives an interface's descriptors up, or says so.
    fn release(&mut self, nic: &str, mode: &str) {
        let does = |word: &str| mode.split_whitespace().any(|found| found == word);
        if does("lie") {
            return;
        }
        let prefix = format!("taptrail-{nic}-");
        let names: Vec<String> = self.kept.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        for name in names {
            if !matches!(self.kept.get(&name), Some(Kept::Here(_))) {
                continue;
            }
            let Some(Kept::Here(fd)) = self.kept.remove(&name) else { continue };
            // The backend comes first.
            if does("only-vhost") && name.ends_with("-0") {
                continue;
            }
            if does("persist") {
                tap_ioctl(fd.as_fd(), libc::TUNSETPERSIST, 1);
            }
            if does("own") {
                tap_ioctl(fd.as_fd(), libc::TUNSETOWNER, 65_534);
            }
            if does("no-persist") {
                tap_ioctl(fd.as_fd(), libc::TUNSETPERSIST, 0);
            }
            let kept = if does("dup") {
                Some(Kept::Here(rustix::io::fcntl_dupfd_cloexec(&fd, 300).unwrap()))
            } else if does("thread") {
                Some(in_a_thread(&fd))
            } else if does("flight") {
                Some(in_flight(&fd))
            } else if does("ring") {
                in_a_ring(&fd)
            } else if does("reopen") {
                Some(in_flight(&reopened(&fd)))
            } else if does("child") {
                Some(in_a_child(&fd, &self.directory))
            } else {
                None
            };
            if does("no-carrier") {
                carrier_off(fd.as_fd());
            }
            drop(fd);
            if let Some(kept) = kept {
                self.kept.insert(name, kept);
            }
        }
    }

    /// Lets go of all that is hidden.
    fn free(&mut self) {
        self.kept.retain(|_, kept| match kept {
            Kept::Here(fd) => fd.as_raw_fd() < 300,
            Kept::Child(pid) => {
                // SAFETY: it is our own child, and nobody else waits for it.
                unsafe {
                    libc::kill(*pid, libc::SIGKILL);
                    libc::waitpid(*pid, std::ptr::null_mut(), 0);
                }
                false
            }
            _ => false,
        });
        // A thread's table goes with the thread, which has to see that its sender is gone.
        while fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
            std::thread::yield_now();
        }
    }

    /// Writes what is held, and how, for the test to read.
    fn write_truth(&self) {
        let held: BTreeMap<&str, &str> =
            self.kept.iter().map(|(name, kept)| (name.as_str(), kept.how())).collect();
        let new = self.directory.join("truth.new");
        fs::write(&new, serde_json::to_vec(&held).unwrap()).unwrap();
        fs::rename(&new, self.directory.join("truth")).unwrap();
    }
}

fn tap_ioctl(fd: BorrowedFd<'_>, request: libc::Ioctl, argument: libc::c_ulong) {
    // SAFETY: the request takes a number and touches no memory of ours.
    unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
}

/// `TUNSETCARRIER`, which reads an int.
fn carrier_off(fd: BorrowedFd<'_>) {
    let off: libc::c_int = 0;
    // SAFETY: the request reads one int, which lives longer than the call.
    unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETCARRIER, &raw const off) };
}

/// A thread with a table of its own, in which only this descriptor is.
fn in_a_thread(fd: &OwnedFd) -> Kept {
    let number = fd.as_raw_fd();
    let (hold, held) = mpsc::channel::<()>();
    let (ready, wait) = mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: this thread's own copies of the descriptors; those that are closed are nobody else's.
        unsafe {
            libc::unshare(libc::CLONE_FILES);
            if number > 0 {
                libc::close_range(0, number.unsigned_abs() - 1, 0);
            }
            libc::close_range(number.unsigned_abs() + 1, u32::MAX, 0);
        }
        ready.send(()).unwrap();
        let _ = held.recv();
    });
    wait.recv().unwrap();
    Kept::Thread(hold)
}

#[allow(clippy::disallowed_methods, reason = "a hostile process sends what it likes")]
fn in_flight(fd: &OwnedFd) -> Kept {
    let (one, other) = UnixStream::pair().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&one, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
    Kept::Flight(one, other)
}

/// Another open file of the same node.
fn reopened(fd: &OwnedFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::File::options().read(true).write(true).open(path).unwrap().into()
}

/// None where the kernel has no io_uring for us.
fn in_a_ring(fd: &OwnedFd) -> Option<Kept> {
    const IORING_REGISTER_FILES: libc::c_long = 2;
    let mut parameters = [0_u8; 120];
    // SAFETY: io_uring_setup(2) fills a `struct io_uring_params` of 120 bytes.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    let ring = RawFd::try_from(ring).ok().filter(|ring| *ring >= 0)?;
    // SAFETY: the kernel has just made it, and nothing else knows it.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let files = [fd.as_raw_fd()];
    // SAFETY: io_uring_register(2) reads one int.
    let registered = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), IORING_REGISTER_FILES, files.as_ptr(), 1)
    };
    (registered == 0).then_some(Kept::Ring(ring))
}

fn in_a_child(fd: &OwnedFd, directory: &Path) -> Kept {
    let number = fd.as_raw_fd();
    let directory = CString::new(directory.as_os_str().as_bytes()).unwrap();
    // SAFETY: between fork and its end the child calls nothing but the kernel.
    let pid = unsafe {
        match libc::fork() {
            0 => {
                if number > 0 {
                    libc::close_range(0, number.unsigned_abs() - 1, 0);
                }
                libc::close_range(number.unsigned_abs() + 1, u32::MAX, 0);
                // It outlives its parent, and ends with the test, whatever becomes of that.
                while libc::access(directory.as_ptr(), libc::F_OK) == 0 {
                    libc::usleep(20_000);
                }
                libc::_exit(0)
            }
            pid => pid,
        }
    };
    assert!(pid > 0);
    Kept::Child(pid)
}
