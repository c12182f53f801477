//! The arguments, as clap reads them.

mod questions;
mod verify;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use taptrail_guest::{AuditMode, Dirs, duration};
use taptrail_record::MacAddr;
use uuid::Uuid;

pub(crate) use self::questions::{
    Explain, Findings, Output, Page, Selection, Sources, Target, Times, Trail, Who,
};
pub(crate) use self::verify::Verify;
pub(crate) use self::watch::{Watch, arguments as watch_arguments};

/// Opens raw network devices for QEMU guests, hands them over, takes them back, and keeps an
/// audit trail that says definitively which device was opened, granted and released.
#[derive(Debug, Parser)]
#[command(name = "taptrail", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done; 1 not done, or of `findings` and `verify`, that there are some; 2 unusable arguments or input; 3 the guest did not answer in time; 4 the logs do not tell of the time or host asked for.\n`taptrail run` in the foreground ends with QEMU's own exit code."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Where the ledger lies
    #[arg(
        long,
        global = true,
        help_heading = "General",
        value_name = "DIR",
        env = "TAPTRAIL_STATE_DIR",
        default_value = "/var/lib/taptrail"
    )]
    pub(crate) state_dir: PathBuf,

    /// Where sockets and locks lie, a directory for each guest
    #[arg(
        long,
        global = true,
        help_heading = "General",
        value_name = "DIR",
        env = "TAPTRAIL_RUN_DIR",
        default_value = "/run/taptrail"
    )]
    pub(crate) run_dir: PathBuf,

    /// Say more on standard error (twice: everything)
    #[arg(short, long, global = true, help_heading = "General", action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Say only warnings and errors on standard error
    #[arg(short, long, global = true, help_heading = "General", conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

impl Cli {
    pub(crate) fn dirs(&self) -> Dirs {
        Dirs { state: self.state_dir.clone(), run: self.run_dir.clone() }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a guest and supervise it until it ends
    Run(Run),
    /// Look whether guest files can be used, and start nothing
    Check(Check),
    /// Take up a guest whose supervisor ended before it
    Adopt(Adopt),
    /// Settle what ended supervisors left behind, for the whole host
    Recover(Recover),
    /// Hot-plug an interface into a running guest
    Attach(Attach),
    /// Hot-unplug an interface, or revoke its devices
    Detach(Detach),
    /// Shut a guest down, or end it
    Stop(Stop),
    /// List the guests of this host
    List(List),
    /// Show a guest's interfaces and the devices that QEMU holds for them
    Nics(Nics),
    /// Show what happens to a guest, as it happens
    Events(Events),
    /// Show which guest held which device when
    Trail(Trail),
    /// Show who held a device, or the devices of a MAC
    Who(Who),
    /// Explain what is told of an interface or guest, line by line
    Explain(Explain),
    /// Show where a trail is wrong, incomplete or worth a look
    Findings(Findings),
    /// Hold the trail against what processes really hold
    Verify(Verify),
    /// Watch the guests of another manager: what it says against what they hold, as it happens
    Watch(Box<Watch>),
    /// Look after the ledger
    #[command(subcommand)]
    Ledger(LedgerCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Say whether the ledger is sound: its pages, its references, its accounts (exit code 1 when not)
    Check(CheckLedger),
    /// Write all records as lines of an audit log, for any tool that reads one
    Export,
    /// Forget guests that ended before a time, with all their records; what is open stays
    Prune(Prune),
}

#[derive(Debug, Args)]
pub(crate) struct CheckLedger {
    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// A time as `trail --start` takes it: 2026-01-31, '90 days ago', this-year
    #[arg(long, value_name = "TIME")]
    pub(crate) before: String,

    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const SPEC_HELP: &str = "An interface: bridge=BR | tap=NAME | macvtap=LOWER[,mode=bridge|vepa|private|passthru], and \
mac= model= queues= vhost=on|off|auto mtu= ifname= filter=no-mac-spoofing isolated=on vlan= id= tun-path= vhost-path=";

/// What a guest file says itself. Not `nft`: an environment may name it for all guests.
const IN_FILE: [&str; 14] = [
    "name",
    "uuid",
    "nic",
    "user",
    "device",
    "no_private_dev",
    "env",
    "limit",
    "audit",
    "allow",
    "no_sandbox",
    "hotplug_ports",
    "stop_timeout",
    "command",
];

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  taptrail run --name web1 --nic bridge=br0,filter=no-mac-spoofing -- qemu-system-x86_64 -m 512 -nographic disk.qcow2"
)]
pub(crate) struct Run {
    /// Take all of this from a guest file (see `taptrail check`); the guest is called like the file unless it says otherwise
    #[arg(long, value_name = "FILE", conflicts_with_all = IN_FILE)]
    pub(crate) file: Option<PathBuf>,

    /// The guest's name, unique on this host
    #[arg(long, required_unless_present = "file")]
    pub(crate) name: Option<String>,

    /// The guest's uuid; made when left out
    #[arg(long)]
    pub(crate) uuid: Option<Uuid>,

    #[arg(long, value_name = "SPEC", help = SPEC_HELP)]
    pub(crate) nic: Vec<String>,

    /// Run QEMU as this user; without capabilities it runs always
    #[arg(long)]
    pub(crate) user: Option<String>,

    /// Allow QEMU this device of the host's /dev, a disk or /dev/vfio/12 (repeatable). Of itself it has null, zero,
    /// full, random, urandom, ptmx, kvm, and the host's pseudo terminals and shared memory
    #[arg(long, value_name = "PATH", conflicts_with = "no_private_dev")]
    pub(crate) device: Vec<PathBuf>,

    /// Leave QEMU the host's whole /dev and mounts
    #[arg(long)]
    pub(crate) no_private_dev: bool,

    /// Give QEMU a variable of our environment, or one with this value (repeatable). Of itself it has HOME, LANG,
    /// LANGUAGE, LC_*, PATH, TERM, TMPDIR and TZ
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<OsString>,

    /// Limit QEMU: core=, memlock=, nofile= or nproc= a number or 'unlimited' (repeatable); core is 0 when left out
    #[arg(long, value_name = "NAME=N")]
    pub(crate) limit: Vec<String>,

    /// What the kernel's audit is asked for; the ledger is written always
    #[arg(long, value_enum, default_value_t = Audit::Auto)]
    pub(crate) audit: Audit,

    /// Let this user, by name or number, call the guest's API (repeatable). Of itself root may, and who runs this
    #[arg(long, value_name = "USER")]
    pub(crate) allow: Vec<String>,

    /// Return once the guest runs; its output goes to RUN_DIR/NAME/log
    #[arg(long)]
    pub(crate) background: bool,

    /// Don't add QEMU's -sandbox
    #[arg(long)]
    pub(crate) no_sandbox: bool,

    /// Free ports for later hot-plug, on machines that need them (q35, virt)
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=32))]
    pub(crate) hotplug_ports: u8,

    /// The nft program that sets filters; looked for in /usr/sbin and /sbin when left out
    #[arg(long, value_name = "PATH", env = "TAPTRAIL_NFT")]
    pub(crate) nft: Option<PathBuf>,

    /// How long Ctrl-C lets the guest shut down before QEMU is ended
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) stop_timeout: Duration,

    /// Where the background's parent waits for news
    #[arg(long, hide = true, value_name = "FD", conflicts_with = "background")]
    pub(crate) ready_fd: Option<i32>,

    /// QEMU's program and its own arguments
    #[arg(last = true, required_unless_present = "file", value_name = "QEMU")]
    pub(crate) command: Vec<OsString>,
}

/// Look whether guest files can be used, and start nothing.
///
/// Looked at are keys and values, every SPEC, QEMU's command line, its program, user and devices: all that `taptrail run
/// --file` looks at before it begins. Whether a bridge is there shows when the guest starts.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all can be used; 2 one can't.")]
pub(crate) struct Check {
    /// Guest files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Take up a guest whose supervisor ended before it.
///
/// What QEMU holds is looked up and held against the ledger; what was cut off is finished or taken back, what went
/// meanwhile is closed. Then the guest is supervised as before. `taptrail run` with the guest's name does the same.
#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// The guest's name
    pub(crate) guest: String,

    /// What the kernel's audit is asked for; the ledger is written always
    #[arg(long, value_enum, default_value_t = Audit::Auto)]
    pub(crate) audit: Audit,

    /// Let this user, by name or number, call the guest's API (repeatable): whom `run` allowed is forgotten
    #[arg(long, value_name = "USER")]
    pub(crate) allow: Vec<String>,

    /// Return once the guest is taken up; the output goes to RUN_DIR/NAME/log
    #[arg(long)]
    pub(crate) background: bool,

    /// The nft program that sets filters; looked for in /usr/sbin and /sbin when left out
    #[arg(long, value_name = "PATH", env = "TAPTRAIL_NFT")]
    pub(crate) nft: Option<PathBuf>,

    /// How long Ctrl-C lets the guest shut down before QEMU is ended
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) stop_timeout: Duration,

    /// Where the background's parent waits for news
    #[arg(long, hide = true, value_name = "FD", conflicts_with = "background")]
    pub(crate) ready_fd: Option<i32>,
}

/// Settle what ended supervisors left behind, for the whole host.
///
/// Of a guest that has ended, the account is closed, with the time span in which it ended; its links and filters are
/// removed. A start that was cut off is taken back. A guest that runs is left alone, and named: `taptrail adopt` gives
/// it a supervisor. Run twice it changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all is settled, or to be adopted; 1 something could not be settled.")]
pub(crate) struct Recover {
    /// What the kernel's audit is asked for; the ledger is written always
    #[arg(long, value_enum, default_value_t = Audit::Auto)]
    pub(crate) audit: Audit,

    /// The nft program that removes filters; looked for in /usr/sbin and /sbin when left out
    #[arg(long, value_name = "PATH", env = "TAPTRAIL_NFT")]
    pub(crate) nft: Option<PathBuf>,

    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Audit {
    /// Hand nothing over unless the kernel has logged it
    Required,
    /// Use the kernel when it can, and say when not
    Auto,
    /// Use the ledger alone
    Off,
}

impl Audit {
    /// The value as it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl From<Audit> for AuditMode {
    fn from(audit: Audit) -> Self {
        match audit {
            Audit::Required => Self::Required,
            Audit::Auto => Self::Auto,
            Audit::Off => Self::Off,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// The guest's name
    pub(crate) guest: String,

    #[arg(long, value_name = "SPEC", help = SPEC_HELP, required_unless_present = "xml")]
    pub(crate) nic: Option<String>,

    /// The interface as libvirt's <interface> element; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "nic")]
    pub(crate) xml: Option<PathBuf>,

    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Detach {
    /// The guest's name
    pub(crate) guest: String,

    /// The interface's MAC
    pub(crate) mac: MacAddr,

    /// How long the guest may take to let go
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// Revoke: take the devices at once, with the NIC still plugged
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) force: bool,

    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The guest's name
    pub(crate) guest: String,

    /// How long the guest may take to shut down
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// End QEMU at once
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) force: bool,
}

/// List the guests of this host.
///
/// Beside those that run with a supervisor, those that lost theirs: `orphaned`, which run on (`taptrail adopt` gives
/// them one), and `unsettled`, which have ended (`taptrail recover` closes their accounts). And those of another
/// manager, libvirt's for one, which `taptrail watch` has seen to run: `watched`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Nics {
    /// The guest's name
    pub(crate) guest: String,

    /// Answer with JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what happens to a guest, as it happens.
///
/// Each device opened, granted, released, kept and closed, as it goes on record, and each change of the guest's and its
/// interfaces' state; first of all the state as it is. Ends with the guest.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the guest has ended, or nobody reads on; 1 it can't be asked, or this reader was too slow."
)]
pub(crate) struct Events {
    /// The guest's name
    pub(crate) guest: String,

    /// Answer with JSON, one line for each event
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_contradict_nothing() {
        Cli::command().debug_assert();
    }
}
