//! The arguments, as clap reads them.

mod archive;
mod color;
mod complete;
mod doctor;
mod format;
mod groups;
mod guests;
mod lake;
mod lake_sql;
mod learn;
mod man;
mod queries;
mod report;
mod schema;
mod serve;
mod summary;
mod top;
mod verify;
mod watch;
mod who;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ContextKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use taptrail_guest::filter::FilterChoice;
use taptrail_guest::{AuditMode, Dirs, duration};
use taptrail_record::MacAddr;
use uuid::Uuid;

pub(crate) use self::archive::Archive;
pub(crate) use self::color::{ColorChoice, help_color};
pub(crate) use self::complete::{Complete, Shell};
pub(crate) use self::doctor::{Doctor, Job};
use self::format::{OutputFormat, StreamFormat};
pub(crate) use self::groups::{built_command, command, groups as command_groups};
pub(crate) use self::guests::Guests;
pub(crate) use self::lake::{CheckLake, Compact, FleetFindings, LakeCommand, PruneLake, Signing};
pub(crate) use self::lake_sql::{AnswerFormat, LakeEngine, LakeSql};
pub(crate) use self::learn::{Device as LearningDevice, LearnAddresses};
pub(crate) use self::man::Man;
pub(crate) use self::queries::{
    AssumedHost, Findings, Inputs, Output, Scope, Selection, Sources, Times, Trail,
};
pub(crate) use self::report::{PictureFormat, Report};
pub(crate) use self::schema::Schema;
pub(crate) use self::serve::Serve;
pub(crate) use self::summary::Summary;
pub(crate) use self::top::Top;
pub(crate) use self::verify::Verify;
pub(crate) use self::watch::{Watch, arguments as watch_arguments};
pub(crate) use self::who::{Explain, Who};
use crate::log::LogLimits;

/// Read which QEMU guest held which tap, macvtap and vhost-net from audit logs, and run guests with
/// an audit trail that says definitively which device was opened, granted and released
#[derive(Debug, Parser)]
#[command(name = "taptrail", version, propagate_version = true, arg_required_else_help = true)]
#[command(disable_help_flag = true, disable_version_flag = true)]
#[command(
    after_help = "Exit codes:\n  0  success\n  1  the command failed, `findings` or `verify` reported a problem, or\n     `who` or `explain` found nothing\n  2  wrong arguments, or input that can't be read\n  3  the guest, or its supervisor, did not answer in time\n  4  not known: the logs do not cover the time or host in question, or\n     `doctor` may not look\n\n`taptrail run` in the foreground returns QEMU's exit code."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Directory of the ledger
    #[arg(
        long,
        global = true,
        help_heading = "General",
        value_name = "DIR",
        env = "TAPTRAIL_STATE_DIR",
        default_value = "/var/lib/taptrail"
    )]
    pub(crate) state_dir: PathBuf,

    /// Directory of sockets and locks, with a directory for each guest
    #[arg(
        long,
        global = true,
        help_heading = "General",
        value_name = "DIR",
        env = "TAPTRAIL_RUN_DIR",
        default_value = "/run/taptrail"
    )]
    pub(crate) run_dir: PathBuf,

    /// Log more to standard error (-vv: everything)
    #[arg(short, long, global = true, help_heading = "General", action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Log only warnings and errors to standard error
    #[arg(short, long, global = true, help_heading = "General", conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// When to use colours: auto is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, help_heading = "General", value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    pub(crate) color: ColorChoice,

    /// Print long answers without a pager (on a terminal: $TAPTRAIL_PAGER, $PAGER, or less)
    #[arg(long, global = true, help_heading = "General")]
    pub(crate) no_pager: bool,

    /// Print help; -h is a summary
    #[arg(short, long, global = true, help_heading = "General", action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, global = true, help_heading = "General", action = clap::ArgAction::Version)]
    version: Option<bool>,
}

impl Cli {
    pub(crate) fn dirs(&self) -> Dirs {
        Dirs { state: self.state_dir.clone(), run: self.run_dir.clone() }
    }
}

/// The error with a usage line that does not demand options whose environment variables are set,
/// as clap's does: they look as if the user had given them.
pub(crate) fn with_plain_usage(
    mut error: clap::Error,
    color: clap::ColorChoice,
    arguments: &[OsString],
) -> clap::Error {
    if error.get(ContextKind::Usage).is_some()
        && let Err(mut again) = without_variables(command(color)).try_get_matches_from(arguments)
        && let Some(usage) = again.remove(ContextKind::Usage)
    {
        error.insert(ContextKind::Usage, usage);
    }
    error
}

/// The command with its options that have variables out of its usage lines.
fn without_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let hide = argument.is_hide_set() || argument.get_env().is_some();
        argument.hide(hide)
    });
    command.mut_subcommands(without_variables)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a guest and supervise it until it ends
    Run(Run),
    /// Validate guest files without starting anything
    Check(Check),
    /// Supervise a running guest whose supervisor has ended
    Adopt(Adopt),
    /// Clean up after supervisors that have ended, on the whole host
    Recover(Recover),
    /// Hot-plug an interface into a running guest
    Attach(Attach),
    /// Hot-unplug an interface, or revoke its devices
    Detach(Detach),
    /// Change an interface's filter while the guest runs
    SetFilter(SetFilter),
    /// Change settings of an interface while its guest runs
    Update(Update),
    /// Shut down or kill a guest
    Stop(Stop),
    /// List the guests of this host
    List(List),
    /// Show a guest's interfaces and the devices that QEMU holds
    Nics(Nics),
    /// Print the events of a guest as they happen
    Events(Events),
    /// Summarize a trail: hosts, guests, interfaces, findings and losses
    Summary(Summary),
    /// Show which guest held which device when
    Trail(Trail),
    /// Show who held a device or an interface, and when
    Who(Who),
    /// Show when each guest ran, and why it ended
    Guests(Guests),
    /// Explain the records of an interface, device or guest
    Explain(Explain),
    /// List errors, gaps and suspicious entries in a trail
    Findings(Findings),
    /// Show who holds what now, and what happened last, as it changes
    Top(Top),
    /// Write a trail as a page for a browser, or as a picture
    Report(Report),
    /// Serve the page of `report` to browsers, and keep it up to date
    Serve(Serve),
    /// Compare the audit trail with the devices that processes hold now
    Verify(Verify),
    /// Follow libvirt's records, and compare them with what guests hold
    Watch(Box<Watch>),
    /// Check, export or prune the ledger, or take a checkpoint of it
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Add the trails of logs and ledgers to a lake of many hosts
    Archive(Archive),
    /// Compact, check, prune and query a lake of many hosts' trails
    #[command(subcommand)]
    Lake(LakeCommand),
    /// Show what this host has and lacks for taptrail's work
    Doctor(Doctor),
    /// Print the JSON Schema of an output
    Schema(Schema),
    #[command(hide = true)]
    Complete(Complete),
    #[command(hide = true)]
    LearnAddresses(LearnAddresses),
    #[command(hide = true)]
    Man(Man),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Check the ledger for damage, and its records for changes that taptrail did not make
    Check(CheckLedger),
    /// Print a checkpoint: one line, to be kept where nobody who can write the ledger can change it
    Checkpoint(LedgerCheckpoint),
    /// Print all records as an audit log, for tools that read one
    Export,
    /// Delete ended guests and their records, up to a time
    Prune(Prune),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  nothing is altered, as far as the checkpoints and the chain show\n  1  the ledger is damaged or altered, or a checkpoint does not hold\n  2  something could not be compared, wrong arguments, or input that can't be read\n\nExample:\n  taptrail ledger check --checkpoint-file /media/checkpoints"
)]
pub(crate) struct CheckLedger {
    /// Check this copy of a ledger [default: this host's ledger]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Checkpoint that the ledger has to hold: a line of `taptrail ledger checkpoint` (repeatable)
    #[arg(long, value_name = "LINE")]
    pub(crate) checkpoint: Vec<String>,

    /// File with such lines, or '-' for standard input; other lines in it are skipped
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  taptrail ledger checkpoint | logger --tag taptrail --server log.example.org"
)]
pub(crate) struct LedgerCheckpoint {
    /// Append the line to this file, instead of printing it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "json"])]
    pub(crate) out: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// Delete ended guests and their records, up to a time
///
/// What is deleted is on record in the ledger's chain: how many records, and when. Take a checkpoint
/// afterwards (`taptrail ledger checkpoint`), as one of a deleted row can't be compared any more.
/// Guests that run stay, however old they are. taptrail-prune.timer does both once a day.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true)))]
#[command(
    after_help = "Exit codes:\n  0  success\n  1  the ledger can't be written, or with --check it is damaged or altered\n  2  wrong arguments\n\nExamples:\n  taptrail ledger prune --before 2026-01-31 --dry-run\n  taptrail ledger prune --keep '400 days' --check"
)]
pub(crate) struct Prune {
    /// Guests that ended before this time: 2026-01-31, '90 days ago', this-year
    #[arg(long, value_name = "TIME", group = "which")]
    pub(crate) before: Option<String>,

    /// Guests that ended longer ago than this: '400 days', '2 years'
    #[arg(long, value_name = "SPAN", group = "which")]
    pub(crate) keep: Option<String>,

    /// Check the ledger first, and delete nothing if it is damaged or altered
    #[arg(long)]
    pub(crate) check: bool,

    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

const SPEC_HELP: &str = "An interface: bridge=BR | tap=NAME | new-tap=on | macvtap=LOWER[,mode=bridge|vepa|private|passthru] | \
vdpa=/dev/vhost-vdpa-N | vhostuser=SOCKET, and mac= model= queues= vhost=on|off|auto mtu= ifname= filter=clean-traffic ip=ADDRESS isolated=on vlan= trunk= \
ovs=on inbound= outbound= script= id= and more: taptrail-nic-spec(7)";

/// The options that a guest file replaces. Not `nft`: an environment variable may set it for all
/// guests.
const IN_FILE: [&str; 18] = [
    "name",
    "uuid",
    "nic",
    "domain",
    "network",
    "user",
    "device",
    "no_private_dev",
    "env",
    "limit",
    "audit",
    "allow",
    "revoke_unfiltered",
    "bpf",
    "no_sandbox",
    "hotplug_ports",
    "stop_timeout",
    "command",
];

#[derive(Debug, Args)]
#[command(
    override_usage = "taptrail run [OPTIONS] --name <NAME> [--nic <SPEC>] -- <QEMU>...\n       taptrail run [OPTIONS] --file <FILE>",
    after_help = "Example:\n  taptrail run --name web1 --nic bridge=br0,filter=no-mac-spoofing -- qemu-system-x86_64 -m 512 -nographic disk.qcow2"
)]
pub(crate) struct Run {
    /// Read all settings from this guest file [default name: the file's]
    #[arg(long, value_name = "FILE", conflicts_with_all = IN_FILE)]
    pub(crate) file: Option<PathBuf>,

    /// Name of the guest, unique on this host
    #[arg(long, required_unless_present = "file")]
    pub(crate) name: Option<String>,

    /// UUID of the guest [default: a random one]
    #[arg(long)]
    pub(crate) uuid: Option<Uuid>,

    #[arg(long, value_name = "SPEC", help = SPEC_HELP)]
    pub(crate) nic: Vec<String>,

    #[command(flatten)]
    pub(crate) libvirt: FromLibvirt,

    /// Run QEMU as this user (QEMU never has capabilities)
    #[arg(long)]
    pub(crate) user: Option<String>,

    /// Give QEMU this device of the host's /dev, such as a disk or /dev/vfio/12 (repeatable). It
    /// always has null, zero, full, random, urandom, ptmx, kvm, and the host's pseudo terminals and
    /// shared memory
    #[arg(long, value_name = "PATH", conflicts_with = "no_private_dev")]
    pub(crate) device: Vec<PathBuf>,

    /// Give QEMU the host's whole /dev and mounts
    #[arg(long)]
    pub(crate) no_private_dev: bool,

    /// Pass this environment variable to QEMU, or set it (repeatable). QEMU always has HOME, LANG,
    /// LANGUAGE, LC_*, PATH, TERM, TMPDIR and TZ
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<OsString>,

    /// Resource limit of QEMU: core=, memlock=, nofile= or nproc= a number or 'unlimited'
    /// (repeatable) [default: core=0]
    #[arg(long, value_name = "NAME=N")]
    pub(crate) limit: Vec<String>,

    /// Whether to log to the kernel's audit, too (the ledger is always written)
    #[arg(long, value_enum, default_value_t = Audit::Auto)]
    pub(crate) audit: Audit,

    /// Allow this user, by name or number, to call the guest's API (repeatable). Root and the user
    /// who runs this always may
    #[arg(long, value_name = "USER")]
    pub(crate) allow: Vec<String>,

    /// Revoke an interface's devices when its filter was lost and can't be set again, or the MAC of
    /// its link is changed on and on
    #[arg(long)]
    pub(crate) revoke_unfiltered: bool,

    /// Report each last close by a BPF program in the kernel: a device is released when nobody has
    /// its file open any more (needs Linux 6.1, CAP_BPF and CAP_PERFMON; otherwise the supervisor
    /// runs without it)
    #[arg(long)]
    pub(crate) bpf: bool,

    /// Return as soon as the guest runs; its output goes to RUN_DIR/NAME/log
    #[arg(long)]
    pub(crate) background: bool,

    #[command(flatten)]
    pub(crate) log: LogOptions,

    /// Do not add -sandbox to QEMU's command line
    #[arg(long)]
    pub(crate) no_sandbox: bool,

    /// Number of free PCIe ports for hot-plug, on machines that need them (q35, virt)
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=32))]
    pub(crate) hotplug_ports: u8,

    /// Path of the nft program, which sets filters [default: /usr/sbin/nft or /sbin/nft]
    #[arg(long, value_name = "PATH", env = "TAPTRAIL_NFT")]
    pub(crate) nft: Option<PathBuf>,

    /// How long the guest may take to shut down after Ctrl-C, before QEMU is killed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) stop_timeout: Duration,

    /// Pipe on which the parent of --background waits for the report
    #[arg(long, hide = true, value_name = "FD", conflicts_with = "background")]
    pub(crate) ready_fd: Option<i32>,

    /// Path of QEMU, and its arguments
    #[arg(last = true, required_unless_present = "file", value_name = "QEMU")]
    pub(crate) command: Vec<OsString>,
}

/// Validate guest files without starting anything
///
/// taptrail checks keys and values, every SPEC, and QEMU's command line, program, user and devices,
/// as `taptrail run --file` does before it starts. It does not check that a bridge exists.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  all files are valid\n  2  at least one is not\n\nExample:\n  taptrail check /etc/taptrail/guests/*.toml"
)]
pub(crate) struct Check {
    /// Guest files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// Supervise a running guest whose supervisor has ended
///
/// taptrail compares the devices that QEMU holds with the ledger. It finishes or takes back a
/// hot-plug that was interrupted, and closes the account of devices that QEMU has released. Then it
/// supervises the guest as before. `taptrail run` with the guest's name does the same.
#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// Name of the guest
    pub(crate) guest: String,

    /// Whether to log to the kernel's audit, too (the ledger is always written)
    #[arg(long, value_enum, default_value_t = Audit::Auto)]
    pub(crate) audit: Audit,

    /// Allow this user, by name or number, to call the guest's API (repeatable); this replaces the
    /// users that `run` allowed
    #[arg(long, value_name = "USER")]
    pub(crate) allow: Vec<String>,

    /// Revoke an interface's devices when its filter was lost and can't be set again, or the MAC of
    /// its link is changed on and on
    #[arg(long)]
    pub(crate) revoke_unfiltered: bool,

    /// Report each last close by a BPF program in the kernel: a device is released when nobody has
    /// its file open any more (needs Linux 6.1, CAP_BPF and CAP_PERFMON; otherwise the supervisor
    /// runs without it)
    #[arg(long)]
    pub(crate) bpf: bool,

    /// Return as soon as the guest is supervised; the output goes to RUN_DIR/NAME/log
    #[arg(long)]
    pub(crate) background: bool,

    #[command(flatten)]
    pub(crate) log: LogOptions,

    /// Path of the nft program, which sets filters [default: /usr/sbin/nft or /sbin/nft]
    #[arg(long, value_name = "PATH", env = "TAPTRAIL_NFT")]
    pub(crate) nft: Option<PathBuf>,

    /// How long the guest may take to shut down after Ctrl-C, before QEMU is killed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) stop_timeout: Duration,

    /// Pipe on which the parent of --background waits for the report
    #[arg(long, hide = true, value_name = "FD", conflicts_with = "background")]
    pub(crate) ready_fd: Option<i32>,
}

/// Clean up after supervisors that have ended, on the whole host
///
/// For a guest that has ended, taptrail closes the account with the time range in which it ended,
/// and removes its links and filters. It takes back a start that was interrupted. It leaves running
/// guests alone and names them: `taptrail adopt` supervises them again. A guest whose links are in
/// another network namespace is named, and its account stays open until it is recovered from there.
/// A second run changes nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  everything is clean, or waits for `taptrail adopt`\n  1  something could not be cleaned up, or not from here\n\nExample:\n  taptrail recover"
)]
pub(crate) struct Recover {
    /// Whether to log to the kernel's audit, too (the ledger is always written)
    #[arg(long, value_enum, default_value_t = Audit::Auto)]
    pub(crate) audit: Audit,

    /// Path of the nft program, which removes filters [default: /usr/sbin/nft or /sbin/nft]
    #[arg(long, value_name = "PATH", env = "TAPTRAIL_NFT")]
    pub(crate) nft: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// How much of the log of a guest in the background is kept.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LogOptions {
    /// With --background: size at which the log is rotated, 64K to 1G
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = log_size)]
    pub(crate) log_size: u64,

    /// With --background: number of log files that are kept, the current one among them
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) log_files: u32,
}

impl From<LogOptions> for LogLimits {
    fn from(options: LogOptions) -> Self {
        Self { size: options.log_size, files: options.log_files }
    }
}

/// A size in bytes: a number, and K, M or G for KiB, MiB or GiB.
fn log_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let is_digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let bytes =
        number.parse::<u64>().ok().filter(|_| is_digits).and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(bytes @ 0x1_0000..=0x4000_0000) => Ok(bytes),
        Some(_) => Err("a log's size is from 64K to 1G".to_owned()),
        None => Err("a size is a number of bytes, or with K, M or G behind it".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Audit {
    /// Pass no device to QEMU unless the kernel has logged its open
    Required,
    /// Log to the kernel's audit if it is on, and warn if it is not
    Auto,
    /// Write to the ledger only
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

/// Interfaces as libvirt describes them.
#[derive(Debug, Args)]
pub(crate) struct FromLibvirt {
    /// Take all network interfaces of this libvirt domain, as `virsh dumpxml` writes it; - is standard
    /// input
    #[arg(long, value_name = "FILE")]
    pub(crate) domain: Option<PathBuf>,

    /// Definition of a network that interfaces name, as `virsh net-dumpxml` writes it (repeatable)
    /// [default: libvirt's on this host]
    #[arg(long, value_name = "FILE")]
    pub(crate) network: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("interface").args(["nic", "xml", "domain"]).required(true))]
#[command(after_help = "Example:\n  taptrail attach web1 --nic bridge=br0,queues=2")]
pub(crate) struct Attach {
    /// Name of the guest
    pub(crate) guest: String,

    #[arg(long, value_name = "SPEC", help = SPEC_HELP)]
    pub(crate) nic: Option<String>,

    /// File with libvirt's <interface> element, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) xml: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) libvirt: FromLibvirt,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taptrail detach web1 52:54:00:12:34:56")]
pub(crate) struct Detach {
    /// Name of the guest
    pub(crate) guest: String,

    /// MAC of the interface
    #[arg(value_parser = queries::mac)]
    pub(crate) mac: MacAddr,

    /// How long the guest may take to release the NIC
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// Revoke the devices at once, with the NIC still plugged; where the supervisor does not
    /// answer, delete the link that was made for them
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taptrail set-filter web1 52:54:00:12:34:56 clean-traffic,ip=192.0.2.5\n  taptrail set-filter web1 52:54:00:12:34:56 none"
)]
pub(crate) struct SetFilter {
    /// Name of the guest
    pub(crate) guest: String,

    /// MAC of the interface
    #[arg(value_parser = queries::mac)]
    pub(crate) mac: MacAddr,

    /// The filters with their parameters, as after filter= in a SPEC; none removes the filter
    #[arg(value_parser = filter)]
    pub(crate) filter: String,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  taptrail update web1 52:54:00:12:34:56 link=down\n  taptrail update web1 52:54:00:12:34:56 bridge=br1 vlan=7 inbound=none"
)]
pub(crate) struct Update {
    /// Name of the guest
    pub(crate) guest: String,

    /// MAC of the interface
    #[arg(value_parser = queries::mac)]
    pub(crate) mac: MacAddr,

    /// What to change, in keys and values of a SPEC: bridge, filter and its parameters, isolated,
    /// vlan, trunk, vlan-mode, link, mtu, rx-frames, inbound, outbound; none removes a value, except
    /// of bridge and mtu
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// Checks a filter; it is read again where it is set.
fn filter(text: &str) -> Result<String, String> {
    match text {
        "none" => Ok(text.to_owned()),
        _ => FilterChoice::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taptrail stop web1 --timeout 2m")]
pub(crate) struct Stop {
    /// Name of the guest
    pub(crate) guest: String,

    /// How long the guest may take to shut down
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// Kill QEMU at once, also where the supervisor does not answer
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) force: bool,
}

/// List the guests of this host
///
/// States beside those of supervised guests: `unresponsive`, the guest's supervisor runs and does
/// not answer; `elsewhere`, it serves the guest in another run directory; `orphaned`, the guest
/// runs without a supervisor (see `taptrail adopt`); `unsettled`, the guest has ended and its
/// account is open (see `taptrail recover`); `watched`, another manager such as libvirt runs the
/// guest, and `taptrail watch` has seen it; `unrecorded`, the guest runs and is not on record,
/// because its ledger was removed: it is known by the links that it holds or by its command line.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// Show a guest's interfaces and the devices that QEMU holds
///
/// taptrail asks the guest's supervisor. For the guest of another manager, such as libvirt, taptrail
/// looks into QEMU itself: it shows what QEMU holds, with the MAC as far as libvirt's state or the
/// host interface has it. A vhost-net has no interface of its own: it stands alone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taptrail nics web1\n  taptrail nics web1 --format json")]
pub(crate) struct Nics {
    /// Name of the guest; for another manager's guest, name or UUID
    pub(crate) guest: String,

    #[command(flatten)]
    pub(crate) output: OutputFormat,
}

/// Print the events of a guest as they happen
///
/// The first event is the current state. Then follow each open, grant, release, keep and close as
/// it is recorded, and each change of state of the guest and its interfaces. The command ends with
/// the guest.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  the guest has ended, or the reader has closed the pipe\n  1  nobody serves the guest, or this command read too slowly\n  3  its supervisor does not answer\n\nExample:\n  taptrail events web1 --json"
)]
pub(crate) struct Events {
    /// Name of the guest
    pub(crate) guest: String,

    #[command(flatten)]
    pub(crate) output: StreamFormat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logs_size_is_a_number_with_a_letter() {
        for (text, bytes) in [("65536", 65_536), ("64K", 65_536), ("1m", 1 << 20), ("1G", 1 << 30)] {
            assert_eq!(log_size(text), Ok(bytes), "{text}");
        }
        for text in ["65535", "2G", "", "K", "1MiB", "+100000", "-1", "18446744073709551615G", "é"] {
            assert!(log_size(text).is_err(), "{text}");
        }
    }
}
