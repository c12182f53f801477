//! The Linux guest as its host sees it: QEMU's command line, the guest's words on its serial console, its answers on the
//! network, and what its QEMU's monitor does and knows.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::World;
use crate::world::qmp::{self, Qmp};

/// For the guest's first words, and for all others. The guest is emulated by an emulated processor, maybe.
const BOOT: Duration = Duration::from_secs(400);
const PATIENCE: Duration = Duration::from_secs(90);

/// What `cargo xtask linux-guest` wrote.
const IMAGE: &str = "TAPTRAIL_LINUX_GUEST";

/// See the module.
pub(crate) struct System {
    console: PathBuf,
    monitor: PathBuf,
}

impl System {
    pub(crate) fn new(world: &World) -> Self {
        Self { console: world.path("console"), monitor: world.path("qmp") }
    }

    /// QEMU with this system, and with the firmware's hot-plugging or PCI Express's own.
    pub(crate) fn qemu(&self, options: &[&str]) -> Vec<String> {
        let image = std::env::var_os(IMAGE);
        let image =
            PathBuf::from(image.unwrap_or_else(|| panic!("{IMAGE} is not set: make test-linux-guest")));
        let accelerator = if Path::new("/dev/kvm").exists() { "kvm" } else { "tcg" };
        let machine = format!("q35,accel={accelerator}");
        let kernel = image.join("vmlinux").display().to_string();
        let initramfs = image.join("initramfs").display().to_string();
        let console = format!("file:{}", self.console.display());
        let monitor = qmp::option(&self.monitor);
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
            // The firmware's own driver would have to be started each time.
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
            "-qmp",
            &monitor,
        ];
        words.iter().chain(options).map(|word| (*word).to_owned()).collect()
    }

    /// Waits for the system's boot.
    pub(crate) fn boots(&self) {
        self.wait_for("ready", 1, BOOT);
    }

    /// Waits until the console has had this line so many times.
    pub(crate) fn says(&self, line: &str, times: usize) {
        self.wait_for(line, times, PATIENCE);
    }

    fn wait_for(&self, line: &str, times: usize, patience: Duration) {
        try_for(patience, || {
            let text = self.text();
            let had = text.lines().filter(|had| had.trim_end() == line).count();
            assert!(had <= times, "'{line}' came {had} times");
            if had == times { Ok(()) } else { Err(format!("'{line}' did not come {times} times")) }
        });
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Stops the guest's processors, or lets them go on.
    pub(crate) fn stands_still(&self, still: bool) {
        Qmp::connect(self.monitor.clone()).execute(if still { "stop" } else { "cont" }, json!({}));
    }

    /// Do the frames of so many NICs, which are all, go through the kernel's vhost-net?
    #[track_caller]
    pub(crate) fn uses_vhost(&self, nics: usize) {
        assert_eq!(Qmp::connect(self.monitor.clone()).vhost_started(), vec![true; nics]);
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // What a test that fails will be asked about.
        if std::thread::panicking() {
            eprintln!("the guest's console:\n{}", self.text());
        }
    }
}

/// Waits until the system answers at this address. To a datagram for a port where nobody listens, it answers that: a ping
/// that needs no program.
pub(crate) fn ping(address: &str) {
    try_for(PATIENCE, || {
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

/// Waits for what the guest does.
#[track_caller]
pub(crate) fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    try_for(PATIENCE, || if is_so() { Ok(()) } else { Err(format!("{what}: not within {PATIENCE:?}")) });
}

/// Tries until it goes well.
#[track_caller]
fn try_for(patience: Duration, mut attempt: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + patience;
    while let Err(why) = attempt() {
        assert!(Instant::now() < end, "{why}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
