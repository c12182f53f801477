//! The virtual machine's process, which ends with its owner.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

use super::cache::Kept;
use crate::cli::VmArguments;
use crate::programs::QEMU;
use crate::wire::PORT;

const SETPRIV: &str = "/usr/bin/setpriv";
const KVM: &str = "/dev/kvm";

/// Debian's users `nobody` and `nogroup`.
const NOBODY: &str = "65534";

/// The only privilege of QEMU when root starts it: reading any file.
const READ_ALL: &str = "-all,+dac_read_search";

/// The kernel's command line. A panic ends QEMU (with `-no-reboot`) instead of waiting for ever.
const APPEND: &str = "console=ttyS0 loglevel=4 panic=-1 mitigations=off";

/// A virtual machine, which ends when this value is dropped.
#[derive(Debug)]
pub(super) struct Qemu {
    child: Child,
    /// The port to the agent.
    pub(super) port: UnixStream,
    /// The virtual machine's serial console, and QEMU's own messages.
    pub(super) console: UnixStream,
}

impl Qemu {
    /// Boots it.
    pub(super) fn start(arguments: &VmArguments, kernel: &Kept, initramfs: &[u8]) -> Result<Self> {
        ensure!(Path::new(QEMU).exists(), "{QEMU} is missing: install the package qemu-system-x86");
        let (port, its_port) = UnixStream::pair()?;
        let (console, its_console) = UnixStream::pair()?;
        let memory = File::from(memfd_create("initramfs", MemfdFlags::CLOEXEC)?);
        (&memory).write_all(initramfs)?;
        // Only QEMU is started after this, so these descriptors are only for it.
        for inherited in [its_port.as_fd(), its_console.as_fd(), memory.as_fd()] {
            fcntl_setfd(inherited, FdFlags::empty())?;
        }
        let descriptors = Descriptors { port: &its_port, console: &its_console, initramfs: &memory };
        let child = Command::new(SETPRIV)
            .args(privileges(arguments.kvm)?)
            .arg(QEMU)
            .args(machine(arguments, kernel, &descriptors))
            // Ctrl-C is for this process, which ends QEMU.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(its_console.try_clone()?)))
            .stderr(Stdio::from(std::os::fd::OwnedFd::from(its_console.try_clone()?)))
            .spawn()
            .with_context(|| format!("Can't run {SETPRIV}"))?;
        Ok(Self { child, port, console })
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It has no data that would have to be written first.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What QEMU inherits.
struct Descriptors<'a> {
    port: &'a UnixStream,
    console: &'a UnixStream,
    initramfs: &'a File,
}

/// setpriv(1)'s options: the user nobody, who may read everything, or this process's user; QEMU
/// ends with this process.
fn privileges(kvm: bool) -> Result<Vec<OsString>> {
    let mut options: Vec<OsString> = ["--no-new-privs", "--pdeathsig", "KILL"].map(OsString::from).into();
    if rustix::process::geteuid().is_root() {
        options.extend(["--reuid", NOBODY, "--regid", NOBODY].map(OsString::from));
        if kvm {
            options.extend(["--groups".into(), kvm_group()?.into()]);
        } else {
            options.push("--clear-groups".into());
        }
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            options.extend([set, READ_ALL].map(OsString::from));
        }
    }
    options.push("--".into());
    Ok(options)
}

/// The group that may use KVM.
fn kvm_group() -> Result<String> {
    let node = std::fs::metadata(KVM).with_context(|| format!("Can't use {KVM}"))?;
    ensure!(
        node.permissions().mode() & 0o060 == 0o060,
        "Only root may use {KVM}, and QEMU does not run as root here: give it to a group \
         (chgrp kvm {KVM}; chmod g+rw {KVM})"
    );
    Ok(node.gid().to_string())
}

/// QEMU's options.
fn machine(arguments: &VmArguments, kernel: &Kept, descriptors: &Descriptors<'_>) -> Vec<OsString> {
    let (accelerator, cpu) = if arguments.kvm {
        ("kvm", "host")
    } else {
        // Without five-level page tables, which TCG is slower with.
        ("tcg,thread=multi", "max,la57=off")
    };
    let append = format!("{APPEND} {}", arguments.append);
    let mut options = Vec::new();
    let mut option = |name: &str, value: &dyn AsRef<OsStr>| {
        options.extend([OsString::from(name), value.as_ref().to_owned()]);
    };
    option("-machine", &"q35");
    option("-accel", &accelerator);
    option("-cpu", &cpu);
    option("-smp", &arguments.cpus.to_string());
    option("-m", &arguments.memory.to_string());
    option("-display", &"none");
    option("-kernel", &kernel.vmlinux());
    option("-initrd", &format!("/proc/self/fd/{}", descriptors.initramfs.as_raw_fd()));
    option("-append", &append.trim_end());
    option("-chardev", &format!("socket,id=console,fd={}", descriptors.console.as_raw_fd()));
    option("-serial", &"chardev:console");
    option("-fsdev", &"local,id=host,path=/,security_model=none,readonly=on,multidevs=remap");
    option("-device", &"virtio-9p-pci,fsdev=host,mount_tag=host");
    option("-device", &"virtio-rng-pci");
    option("-device", &"virtio-serial-pci");
    option("-chardev", &format!("socket,id=port,fd={}", descriptors.port.as_raw_fd()));
    option("-device", &format!("virtserialport,chardev=port,name={PORT}"));
    options.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
    options
}
