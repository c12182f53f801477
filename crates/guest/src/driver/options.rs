//! What a guest is started or adopted with.

use std::ffi::OsString;
use std::path::PathBuf;

use taptrail_kernel::process::{Credentials, Limit, PrivateDev};
use taptrail_record::GuestId;

use crate::account::AuditMode;
use crate::qemu::CommandLine;
use crate::run_dir::Dirs;
use crate::spec::NicSpec;

/// The configuration that a guest is started with.
#[derive(Debug)]
pub struct StartOptions {
    /// Its name and uuid.
    pub guest: GuestId,
    /// The SPECs of the guest's interfaces.
    pub nics: Vec<NicSpec>,
    /// QEMU's program and the user's own arguments, checked.
    pub command: CommandLine,
    /// The user that QEMU runs as; `None` for our own.
    pub user: Option<Credentials>,
    /// QEMU's own `/dev`; `None` for the host's.
    pub dev: Option<PrivateDev>,
    /// QEMU's whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// QEMU's resource limits.
    pub limits: Vec<Limit>,
    /// Whether records go to the kernel's audit.
    pub audit: AuditMode,
    /// The state and the run directory.
    pub dirs: Dirs,
    /// Path of the nft program; `None` for the system's.
    pub nft: Option<PathBuf>,
    /// Add QEMU's sandbox, unless the user's own arguments have -sandbox.
    pub sandbox: bool,
    /// Free ports for hot-plug, where the machine needs them.
    pub hotplug_ports: u8,
    /// Users who may call the API, besides root and our own.
    pub allow: Vec<u32>,
    /// Revoke an interface whose filter was lost and can't be set again.
    pub revoke_unfiltered: bool,
    /// Have the kernel report last closes by BPF, if possible.
    pub bpf: bool,
}

/// The arguments of [`adopt`](crate::adopt).
#[derive(Debug, Clone)]
pub struct AdoptOptions {
    /// The name of the guest to adopt.
    pub name: String,
    /// Whether records go to the kernel's audit.
    pub audit: AuditMode,
    /// The state and the run directory.
    pub dirs: Dirs,
    /// Path of the nft program; `None` for the system's.
    pub nft: Option<PathBuf>,
    /// Users who may call the API, besides root and our own.
    pub allow: Vec<u32>,
    /// Revoke an interface whose filter was lost and can't be set again.
    pub revoke_unfiltered: bool,
    /// Have the kernel report last closes by BPF, if possible.
    pub bpf: bool,
}
