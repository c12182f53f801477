//! The arguments of `doctor`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::format::OutputFormat;

/// Show what this host has and lacks for taptrail, with the way out
///
/// taptrail looks at the kernel, its auditing, libvirt's settings, programs, directories, the ledger
/// and the rights of the caller. Each line is `ok`, `missing`, or `unknown` where the rights to look
/// are missing. It changes nothing. Of what is missing, it says which jobs need it: one for which it
/// is essential fails without it, one for which it is useful does less.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  nothing essential is missing; with --for, all that is essential is there\n  1  something essential is missing\n  2  wrong arguments\n  4  with --for: nothing essential is known to be missing, and something is not known\n\nExamples:\n  taptrail doctor\n  taptrail doctor --for watch"
)]
pub(crate) struct Doctor {
    /// Show what this job needs, and let the exit code say whether all of it is there (repeatable)
    #[arg(long = "for", value_name = "JOB", value_enum, value_delimiter = ',')]
    pub(crate) jobs: Vec<Job>,

    /// Path of this host's audit log [default: as auditd.conf says]
    #[arg(long, value_name = "FILE", env = "TAPTRAIL_AUDIT_LOG", hide_env_values = true)]
    pub(crate) log: Option<PathBuf>,

    /// Path of the nft program, which sets filters [default: /usr/sbin/nft or /sbin/nft]
    #[arg(long, value_name = "PATH", env = "TAPTRAIL_NFT")]
    pub(crate) nft: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// What a host is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Job {
    /// Run guests: `run`, `adopt`, `attach`
    Run,
    /// Watch another manager's guests: `watch`
    Watch,
    /// Compare the trail with what processes hold: `verify`
    Verify,
    /// Read this host's trail: `trail`, `who`, `findings`, `report` without a FILE
    Read,
    /// Add this host's trail to a lake: `archive` without a FILE
    Archive,
    /// Give taps to unprivileged users' QEMUs: taptrail-bridge-helper
    BridgeHelper,
}

impl Job {
    pub(crate) const ALL: [Self; 6] =
        [Self::Run, Self::Watch, Self::Verify, Self::Read, Self::Archive, Self::BridgeHelper];

    /// Its name, as in the arguments.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Watch => "watch",
            Self::Verify => "verify",
            Self::Read => "read",
            Self::Archive => "archive",
            Self::BridgeHelper => "bridge-helper",
        }
    }
}
