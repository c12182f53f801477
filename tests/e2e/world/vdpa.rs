//! A vDPA network card of the kernel's, by VDUSE (`examples/vduse_nic.rs`).

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::sh;

const VDPA: &str = "/usr/sbin/vdpa";
const NSENTER: &str = "/usr/bin/nsenter";
/// vdpa(8) works in the first network namespace alone.
const NETNS: &str = "--net=/proc/1/ns/net";

/// A vDPA device, which is gone with this.
pub(crate) struct Vdpa {
    name: String,
    card: Child,
    /// Its node, `/dev/vhost-vdpa-N`.
    pub(crate) node: String,
}

impl Vdpa {
    /// A network card with this MAC.
    pub(crate) fn new(name: &str, mac: &str) -> Self {
        sh("/sbin/modprobe", ["-a", "vduse", "vhost_vdpa"]);
        let taptrail = Path::new(env!("CARGO_BIN_EXE_taptrail"));
        let program = taptrail.parent().expect("a directory").join("examples/vduse_nic");
        let mut card =
            Command::new(program).args([name, mac]).stdout(Stdio::piped()).spawn().expect("vduse_nic");
        let output = card.stdout.take().expect("a pipe");
        let mut vdpa = Self { name: name.to_owned(), card, node: String::new() };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        sh(NSENTER, [NETNS, VDPA, "dev", "add", "name", name, "mgmtdev", "vduse"]);
        let entries = std::fs::read_dir(format!("/sys/bus/vdpa/devices/{name}")).expect("a vDPA device");
        let node = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|entry| entry.starts_with("vhost-vdpa-"));
        vdpa.node = format!("/dev/{}", node.expect("the driver vhost-vdpa has it"));
        vdpa
    }

    /// Its name in `/dev`.
    pub(crate) fn short(&self) -> &str {
        self.node.trim_start_matches("/dev/")
    }
}

impl Drop for Vdpa {
    fn drop(&mut self) {
        // A device that is held would have vdpa(8) wait for ever: its card has to go first.
        let _ = self.card.kill();
        let _ = self.card.wait();
        let _ = Command::new("/usr/bin/timeout")
            .args(["5", NSENTER, NETNS, VDPA, "dev", "del", &self.name])
            .stderr(Stdio::null())
            .status();
    }
}
