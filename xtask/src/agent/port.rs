//! The virtual machine's end of the port.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::wire::PORT;

/// The time limit for the port to appear.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the driver has found the port to the host, and opens it.
pub(super) fn open() -> Result<Port> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(node) = find(Path::new("/sys/class/virtio-ports"))? {
            let file = File::options().read(true).write(true).open(&node);
            return Ok(Port(file.with_context(|| format!("Can't open {}", node.display()))?));
        }
        if Instant::now() > end {
            bail!("There is no port named {PORT}");
        }
        pause();
    }
}

/// The port. Reading it waits for the host, which may not be connected at once.
#[derive(Debug)]
pub(super) struct Port(File);

impl Read for &Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // A read of no bytes means that the host is not connected yet.
            match (&self.0).read(buffer)? {
                0 => pause(),
                count => return Ok(count),
            }
        }
    }
}

impl io::Write for &Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// The node of the port with our name.
fn find(class: &Path) -> Result<Option<PathBuf>> {
    let Ok(ports) = fs::read_dir(class) else { return Ok(None) };
    for port in ports {
        let port = port?;
        if fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim_end() == PORT) {
            return Ok(Some(Path::new("/dev").join(port.file_name())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        assert_eq!(find(&class.path().join("absent")).unwrap(), None);
        for (node, name) in [("vport1p1", "other\n"), ("vport2p1", &format!("{PORT}\n"))] {
            fs::create_dir(class.path().join(node)).unwrap();
            fs::write(class.path().join(node).join("name"), name).unwrap();
        }
        fs::create_dir(class.path().join("vport0p0")).unwrap();
        assert_eq!(find(class.path()).unwrap(), Some(PathBuf::from("/dev/vport2p1")));
    }
}
