//! A QEMU that was taken over (`examples/hostile_qemu.rs`), and the descriptors that it really
//! holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Guest, World};

/// The program of the hostile QEMU.
fn program() -> PathBuf {
    let taptrail = Path::new(env!("CARGO_BIN_EXE_taptrail"));
    taptrail.parent().expect("the hostile peer").join("examples/hostile_qemu")
}

/// A guest whose QEMU is hostile.
pub(crate) struct Hostile<'a> {
    world: &'a World,
    pub(crate) guest: Guest,
    pub(crate) directory: PathBuf,
}

impl<'a> Hostile<'a> {
    pub(crate) fn start(world: &'a World, name: &str) -> Self {
        Self::start_with(world, name, &[])
    }

    /// Starts the guest with these options of `run`.
    pub(crate) fn start_with(world: &'a World, name: &str, options: &[&str]) -> Self {
        let directory = world.path(&format!("{name}-hostile"));
        fs::create_dir(&directory).expect("the hostile peer");
        fs::write(directory.join("mode"), "").expect("the hostile peer");
        let (program, path) = (program().display().to_string(), directory.display().to_string());
        let guest = world.start_with(name, options, &[&program, &path]);
        Self { world, guest, directory }
    }

    /// Sets its behaviour from now on: words of `examples/hostile_qemu.rs`.
    pub(crate) fn set_mode(&self, mode: &str) {
        fs::write(self.directory.join("mode"), mode).expect("the hostile peer");
    }

    /// The descriptors that it really holds: the name under which it got each, and how it holds it.
    pub(crate) fn held_descriptors(&self) -> BTreeMap<String, String> {
        serde_json::from_slice(&fs::read(self.directory.join("truth")).expect("the hostile peer"))
            .expect("the hostile peer")
    }

    /// Makes it close its hidden descriptors, which it does at the next command.
    pub(crate) fn release_all(&self) {
        self.set_mode("free deleted");
        let _ = self.world.detach(&self.guest, 0xEE, &["--force"]);
        let spec = "bridge=br0,mac=52:54:00:00:00:ee,id=free,vhost=off";
        let _ = self.world.attach(&self.guest, spec);
        // The supervisor notices closed devices before the next hot-plug.
        let _ = self.world.detach(&self.guest, 0xEE, &["--force"]);
        let _ = self.world.attach(&self.guest, spec);
        let _ = self.world.detach(&self.guest, 0xEE, &["--force"]);
    }
}
