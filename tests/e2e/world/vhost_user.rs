//! A vhost-user backend: DPDK's testpmd, which listens on a socket and is the other side of virtio.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{OwnedChild, World};

/// A backend, which is gone with this.
pub(crate) struct Backend {
    program: OwnedChild,
    /// The socket on which it listens.
    pub(crate) socket: PathBuf,
}

impl Backend {
    /// Starts one that listens on a socket of this name in the world's directory.
    pub(crate) fn new(world: &World, name: &str) -> Self {
        let socket = world.path(name);
        let log = std::fs::File::create(socket.with_extension("log")).expect("a log");
        let program = Command::new("/usr/bin/dpdk-testpmd")
            .args(["--no-pci", "--no-huge", "-m", "64", "--no-shconf", "--no-telemetry", "-l", "0,1"])
            .args(["--file-prefix", name, "--vdev"])
            .arg(format!("net_vhost0,iface={},client=0,queues=2", socket.display()))
            // Without --auto-start it does not poll, which would take a whole processor.
            .args(["--", "--no-mlockall", "--total-num-mbufs=2048"])
            // It ends with its standard input.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .env("RUNTIME_DIRECTORY", socket.with_extension("dpdk"))
            .spawn()
            .expect("dpdk-testpmd");
        let backend = Self { program: program.into(), socket };
        world.until("testpmd listens", || is_listening(&backend.socket));
        backend
    }

    /// Kills it: its connections end, and its socket stays without a listener.
    pub(crate) fn kill(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// By the kernel's list (proc(5)), which costs the backend no connection.
fn is_listening(socket: &Path) -> bool {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").expect("Unix sockets");
    // __SO_ACCEPTCON is 0x10000.
    sockets
        .lines()
        .any(|line| line.contains(" 00010000 ") && line.ends_with(socket.to_str().expect("a path")))
}
