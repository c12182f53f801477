//! The Linux guest as its host sees it: QEMU's command line, the guest's serial console, its
//! answers on the network, and its QEMU's monitor.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::qmp::{self, Qmp};
use crate::world::{Guest, World};

/// Timeouts for the guest's first console line, and for later ones. An emulated processor may
/// emulate the guest's.
const BOOT_TIMEOUT: Duration = Duration::from_secs(400);
const GUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// The variable with the directory that `cargo xtask linux-guest` wrote, and where it is otherwise.
const IMAGE: &str = "TAPTRAIL_LINUX_GUEST";
const DEFAULT_IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/linux-guest");

/// A running Linux guest (see the module).
pub(crate) struct System {
    console: PathBuf,
    monitor: PathBuf,
    shell: PathBuf,
}

impl System {
    pub(crate) fn new(world: &World) -> Self {
        Self { console: world.path("console"), monitor: world.path("qmp"), shell: world.path("shell") }
    }

    /// Starts the guest `web1` with one NIC, and waits until it has booted. `options` choose the
    /// firmware's hot-plug or PCI Express's own.
    pub(crate) fn start(&self, world: &World, nic: &str, accelerator: &str, options: &[&str]) -> Guest {
        let qemu = self.qemu(accelerator, options);
        let qemu: Vec<&str> = qemu.iter().map(String::as_str).collect();
        let guest = world.start_with("web1", &["--nic", nic], &qemu);
        self.wait_for_within("ready", 1, BOOT_TIMEOUT);
        guest
    }

    fn qemu(&self, accelerator: &str, options: &[&str]) -> Vec<String> {
        let image = std::env::var_os(IMAGE).map_or_else(|| PathBuf::from(DEFAULT_IMAGE), PathBuf::from);
        assert!(image.exists(), "no {}: cargo xtask linux-guest target/linux-guest", image.display());
        let machine = format!("q35,accel={accelerator}");
        let kernel = image.join("vmlinux").display().to_string();
        let initramfs = image.join("initramfs").display().to_string();
        let console = format!("file:{}", self.console.display());
        let (monitor, shell) = (qmp::option(&self.monitor), qmp::option(&self.shell));
        let words = [
            "qemu-system-x86_64",
            "-machine",
            &machine,
            "-smp",
            "2",
            "-m",
            "256",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            // The firmware's driver would have to be started each time.
            "-global",
            "virtio-net-pci.romfile=",
            "-kernel",
            &kernel,
            "-initrd",
            &initramfs,
            "-append",
            "console=ttyS0 loglevel=4 panic=-1 mitigations=off pci=noearly",
            "-serial",
            &console,
            "-serial",
            &shell,
            "-qmp",
            &monitor,
        ];
        words.iter().chain(options).map(|word| (*word).to_owned()).collect()
    }

    /// Waits until the console has shown this line so many times.
    pub(crate) fn wait_for_line(&self, line: &str, times: usize) {
        self.wait_for_within(line, times, GUEST_TIMEOUT);
    }

    fn wait_for_within(&self, line: &str, times: usize, timeout: Duration) {
        retry_for(timeout, || {
            let text = self.text();
            let had = text.lines().filter(|had| had.trim_end() == line).count();
            assert!(had <= times, "'{line}' came {had} times");
            if had == times { Ok(()) } else { Err(format!("'{line}' did not come {times} times")) }
        });
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// The guest's shell; one at a time.
    pub(crate) fn shell(&self) -> Shell {
        let stream = UnixStream::connect(&self.shell).expect("the second serial port");
        stream.set_read_timeout(Some(GUEST_TIMEOUT)).expect("a socket");
        Shell(BufReader::new(stream))
    }

    /// Stops the guest's processors, or lets them run.
    pub(crate) fn set_paused(&self, paused: bool) {
        Qmp::connect(self.monitor.clone()).execute(if paused { "stop" } else { "cont" }, json!({}));
    }

    /// Asserts that there are so many NICs, and that the kernel's vhost-net passes the frames of
    /// all.
    #[track_caller]
    pub(crate) fn assert_vhost_in_use(&self, nics: usize) {
        assert_eq!(Qmp::connect(self.monitor.clone()).vhost_started(), vec![true; nics]);
    }
}

/// A shell in the guest.
pub(crate) struct Shell(BufReader<UnixStream>);

impl Shell {
    /// Runs a command. Whether it succeeded, and its output.
    pub(crate) fn run(&mut self, command: &str) -> (bool, String) {
        // The terminal echoes this line, in which the end is written in another way.
        writeln!(self.0.get_mut(), "{command}; echo EN''D $?").expect("a running guest");
        let mut output = String::new();
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line);
            assert!(read.is_ok_and(|read| read > 0), "'{command}' does not end: {output}{line}");
            match line.trim_end().strip_prefix("END ") {
                Some(code) => return (code == "0", output),
                None => output += &line,
            }
        }
    }

    /// Runs a command that succeeds.
    #[track_caller]
    pub(crate) fn ok(&mut self, command: &str) -> String {
        let (is_ok, output) = self.run(command);
        assert!(is_ok, "{command}: {output}");
        output
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // Prints the console of a failed test.
        if std::thread::panicking() {
            eprintln!("the guest's console:\n{}", self.text());
        }
    }
}

/// Waits until the system answers at this address. It rejects a datagram for a port where nobody
/// listens: a ping that needs no program.
pub(crate) fn ping(address: &str) {
    retry_for(GUEST_TIMEOUT, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let answer =
            socket.connect((address, 9)).and_then(|()| socket.send(b"?")).and_then(|_| socket.recv(&mut [0]));
        match answer.unwrap_err() {
            error if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            error => Err(format!("{address} does not answer: {error}")),
        }
    });
}

/// Waits for an action of the guest.
#[track_caller]
pub(crate) fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    retry_for(GUEST_TIMEOUT, || {
        if is_so() { Ok(()) } else { Err(format!("{what}: not within {GUEST_TIMEOUT:?}")) }
    });
}

/// Repeats the attempt until it succeeds or the time is over.
#[track_caller]
fn retry_for(timeout: Duration, mut attempt: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + timeout;
    while let Err(why) = attempt() {
        assert!(Instant::now() < end, "{why}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
