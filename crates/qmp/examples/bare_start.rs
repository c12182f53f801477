//! Starts a QEMU, and exits when its monitor replies, which any launcher has to wait for.
//! `cargo xtask bench` compares `taptrail run` with it. It leaves QEMU running.
//!
//! `bare_start SOCKET PIDFILE QEMU ARGUMENT…` adds the monitor to the arguments, and the pid to a
//! file.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use taptrail_qmp::Monitor;

fn main() {
    let mut words = std::env::args_os().skip(1);
    let mut next = || words.next().expect("bare_start SOCKET PIDFILE QEMU ARGUMENT…");
    let (socket, pid_file, program) = (next(), next(), next());

    let listener = UnixListener::bind(&socket).unwrap();
    fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let monitor = format!("socket,id=monitor,fd={},server=on,wait=off", listener.as_raw_fd());
    // QEMU keeps running: it is not waited for.
    #[expect(clippy::zombie_processes, reason = "this program ends before it")]
    let qemu = Command::new(program)
        .args(words)
        .args(["-chardev", &monitor, "-mon", "chardev=monitor,mode=control"])
        .stdin(Stdio::null())
        .spawn()
        .expect("QEMU is needed");
    std::fs::write(pid_file, qemu.id().to_string()).unwrap();
    let stream = UnixStream::connect(&socket).unwrap();
    drop(listener);
    Monitor::from_stream(stream, Instant::now() + Duration::from_secs(20)).unwrap();
}
