//! The arguments.

mod bench;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};

pub(crate) use self::bench::{
    BenchArguments, CostArguments, FleetArguments, LakeArguments, ReadingArguments, SignalsArguments,
    VerifyArguments, WatchArguments,
};
use crate::bench::watch;
use crate::kernels::KERNELS;
use crate::libvirt;
use crate::suites::SUITES;

/// Chores of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) chore: Chore,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Chore {
    Vm(VmArguments),
    /// Name the kernels that `vm --kernel` takes, a line each.
    Kernels,
    RecordLibvirt(RecordArguments),
    /// The inner part of `record-libvirt`.
    #[command(name = libvirt::INSIDE, hide = true)]
    Scenarios(ScenariosArguments),
    LinuxGuest(LinuxGuestArguments),
    Promises(PromisesArguments),
    Man(ManArguments),
    Completions(CompletionsArguments),
    Licences(LicencesArguments),
    MuslHeaders(MuslHeadersArguments),
    Documents(DocumentsArguments),
    Demo(DemoArguments),
    Engines(EnginesArguments),
    Bench(CostArguments),
    BenchFleet(FleetArguments),
    BenchLake(LakeArguments),
    BenchReading(ReadingArguments),
    BenchVerify(VerifyArguments),
    BenchWatch(WatchArguments),
    /// A process of `bench-watch`.
    #[command(name = watch::SIGNALS, hide = true)]
    BenchSignals(SignalsArguments),
    /// The other end of `vm`: the virtual machine's first process.
    #[command(hide = true)]
    Agent,
}

/// Write docs/promises.md, which lists the tests that show each promise of SPECIFICATION.md.
#[derive(Debug, Args)]
pub(crate) struct PromisesArguments {
    /// Only check that it is up to date
    #[arg(long)]
    pub(crate) check: bool,
}

/// Write the manual pages: of each command, of records, of guest files and of the bridge helper.
///
/// They are in DIR/man1, DIR/man5, DIR/man7 and DIR/man8: `man -M DIR taptrail-run` shows one. Their date is that of
/// SOURCE_DATE_EPOCH, or today.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Directory for them; pages of the same names are overwritten
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// The program, which knows its command line [default: it is built]
    #[arg(long, value_name = "PATH")]
    pub(crate) taptrail: Option<PathBuf>,
}

/// Write the completions of bash, zsh and fish: DIR/taptrail.bash, DIR/_taptrail, DIR/taptrail.fish.
///
/// A package installs them as /usr/share/bash-completion/completions/taptrail, as _taptrail in a directory of zsh's
/// fpath (/usr/share/zsh/vendor-completions, /usr/share/zsh/site-functions), and as
/// /usr/share/fish/vendor_completions.d/taptrail.fish.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// Directory for them; files of the same names are overwritten
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Write the documents as packages have them: links to what is not packaged lead to the repository.
#[derive(Debug, Args)]
pub(crate) struct DocumentsArguments {
    /// Directory for them: README.md and the like, and docs below it
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Write the licences of all that is linked into the packaged programs, as one text.
#[derive(Debug, Args)]
pub(crate) struct LicencesArguments {
    /// The target that the programs are built for
    #[arg(long, value_name = "TRIPLE", default_value = "x86_64-unknown-linux-gnu")]
    pub(crate) target: String,

    /// Where to write it
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// Fetch the headers of musl for another machine from Debian 12, unless DIR is there already.
///
/// apt-get verifies them; nothing is installed.
#[derive(Debug, Args)]
pub(crate) struct MuslHeadersArguments {
    /// The machine, as the compiler's targets begin: aarch64
    #[arg(value_name = "MACHINE")]
    pub(crate) machine: String,

    /// Directory for them, for the compiler's -isystem
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Ask the questions of `taptrail lake sql` in DuckDB, ClickHouse and Spark, and compare the answers
/// with taptrail's own, row by row.
///
/// The lake is generated, and lies in an S3 server. Spark is a cluster of a master and two workers,
/// one of which is killed in the middle. All of it is on this machine, and listens on loopback only.
/// It needs root (to mount the bucket), Java 17 and s3fs; the engines are installed into
/// target/engines from PyPI (2 GB).
#[derive(Debug, Args)]
pub(crate) struct EnginesArguments {
    /// The program
    #[arg(value_name = "TAPTRAIL", default_value = "target/debug/taptrail")]
    pub(crate) taptrail: PathBuf,

    /// Hosts of the lake
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(8..))]
    pub(crate) hosts: u64,

    /// Days of the lake
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(4..))]
    pub(crate) days: u64,
}

/// Show taptrail at work: a guest on a real QEMU from start to stop, and its trail.
///
/// It needs root. What it makes is in a network namespace of its own; the kernel's auditing, one
/// switch for the whole machine, is on meanwhile.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// The program
    #[arg(value_name = "TAPTRAIL", default_value = "target/release/taptrail")]
    pub(crate) taptrail: PathBuf,
}

/// Run a command as root in a virtual machine with a Debian kernel, which has /dev/vhost-net.
///
/// The machine sees this machine's files under the same paths, and the command starts in the same directory: what was
/// built here runs there. What is written there stays in the virtual machine's memory and goes with it; nothing here
/// changes. Its devices, modules, network, processes and kernel audit are its own.
///
/// The kernel, and with --suite a root file system, are fetched from Debian once and kept in target/vm; nothing is
/// installed.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER)]
pub(crate) struct VmArguments {
    /// Which of Debian's kernels (the list is in xtask/src/kernels.rs)
    #[arg(long, value_name = "NAME", default_value = KERNELS[0].name, value_parser = kernel_names())]
    pub(crate) kernel: String,

    /// Run the command in a minimal Debian of this release instead of on this machine's files, which are at /host then
    /// (the list is in xtask/src/suites.rs)
    #[arg(long, value_name = "SUITE", value_parser = suite_names())]
    pub(crate) suite: Option<String>,

    /// Directory whose files lie over the suite's, such as the DESTDIR of a program that was built for it
    #[arg(long, value_name = "DIR", requires = "suite")]
    pub(crate) over: Option<PathBuf>,

    /// Look for a newer version of the kernel first
    #[arg(long)]
    pub(crate) update: bool,

    /// How long the command may take: 90, 90s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// Pass a variable of the environment, or set one [repeatable]
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) variables: Vec<OsString>,

    /// Use the processor's virtualisation instead of QEMU's emulation
    #[arg(long)]
    pub(crate) kvm: bool,

    /// The virtual machine's processors
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) cpus: u16,

    /// The virtual machine's memory in MiB; a half of it is for files written there
    #[arg(long, value_name = "MIB", default_value_t = 3072, value_parser = clap::value_parser!(u32).range(128..))]
    pub(crate) memory: u32,

    /// More words for the kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub(crate) append: String,

    /// Show the virtual machine's console, on standard error
    #[arg(long)]
    pub(crate) console: bool,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Record what libvirt logs about guests with vhost-net, and which devices their QEMUs held meanwhile.
///
/// An unmodified libvirt, auditd and QEMU run in the virtual machine of `vm`: this machine's, or those of another Debian
/// release. DIR/libvirt-VERSION gets a folder for each scenario: the audit log, libvirt's own log, and the truth, which
/// is what /proc showed every 20 ms. A scenario takes half a minute to a minute and a half. When one fails, the command
/// says so and records the others. When the virtual machine dies, the scenarios recorded before are kept.
#[derive(Debug, Args)]
#[command(after_long_help = RECORD_AFTER)]
pub(crate) struct RecordArguments {
    /// Directory for the recordings; files of the same names are overwritten
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// Debian release whose libvirt is recorded (the list is in xtask/src/suites.rs) [default: this machine's libvirt]
    #[arg(long, value_name = "SUITE", value_parser = suite_names())]
    pub(crate) suite: Option<String>,

    /// Directory whose files lie over the suite's: the DESTDIR of a libvirt that was built for it. If it has virtqemud,
    /// the modular daemons are recorded
    #[arg(long, value_name = "DIR", requires = "suite")]
    pub(crate) over: Option<PathBuf>,

    /// Record only this scenario [repeatable]
    #[arg(long, value_name = "SCENARIO", value_parser = scenario_names())]
    pub(crate) only: Vec<String>,

    /// Debian kernel to boot (the list is in xtask/src/kernels.rs)
    #[arg(long, value_name = "NAME", default_value = KERNELS[0].name, value_parser = kernel_names())]
    pub(crate) kernel: String,

    /// Time limit for the whole recording: 90, 90s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ScenariosArguments {
    #[arg(long, value_parser = suite_names())]
    pub(crate) suite: Option<String>,

    #[arg(value_parser = scenario_names())]
    pub(crate) names: Vec<String>,
}

const RECORD_AFTER: &str = "\
Requirements:
  Without --suite, the libvirt that `scripts/setup test` installs. It is not started on this machine.
  With --suite, network access for the first recording: packages are fetched and unpacked into target/vm.

Exit status:
  0         all scenarios were recorded
  1         at least one scenario failed
  124, 125, 128 + N
            as of `cargo xtask vm`

Examples:
  cargo xtask record-libvirt /tmp/recorded --only 01-three-nics
  cargo xtask record-libvirt --suite trixie /tmp/recorded";

/// Write a Linux system for guests: a kernel and the archive that it begins with, for QEMU's -kernel and -initrd.
///
/// It gives each of its NICs an address derived from its MAC, 10.0.NN.HH/24 for 52:54:00:00:NN:HH, says so on its serial
/// console, lets go of NICs that are unplugged, and ends when its power button is pressed.
///
/// The kernel is the one that `vm` boots.
#[derive(Debug, Args)]
#[command(after_long_help = FILES)]
pub(crate) struct LinuxGuestArguments {
    /// Which of Debian's kernels (the list is in xtask/src/kernels.rs)
    #[arg(long, value_name = "NAME", default_value = KERNELS[0].name, value_parser = kernel_names())]
    pub(crate) kernel: String,

    /// Where to write it
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

const FILES: &str = "\
Files:
  DIR/vmlinux      the kernel, for -kernel
  DIR/initramfs    all of the system, for -initrd

Environment:
  TAPTRAIL_VM_CACHE    where fetched kernels are kept, instead of target/vm

Example:
  cargo xtask linux-guest target/linux-guest
  qemu-system-x86_64 -machine q35 -m 256 -nodefaults -display none -serial stdio \\
    -kernel target/linux-guest/vmlinux -initrd target/linux-guest/initramfs -append console=ttyS0";

const AFTER: &str = "\
Environment:
  Passed are PATH, HOME, LANG, TERM, TZ, some names of Rust and CI, and what starts
  with LC_, TAPTRAIL_, NEXTEST_, INSTA_ or PROPTEST_. Standard input is empty.
  TAPTRAIL_VM_CACHE    directory for fetched kernels and root file systems, instead of target/vm

Exit status:
  the command's own, or
  124       the command did not end within --timeout
  125       the virtual machine failed (the end of its console is shown),
            or the arguments can't be used
  126, 127  the command can't be run, is not there
  128 + N   signal N ended the command, or this program (Ctrl-C: 130)

Examples:
  cargo xtask vm -- sh -c 'uname -r; ls -l /dev/vhost-net'
  cargo xtask vm --kernel backports --timeout 2m -- target/debug/taptrail --version
  cargo xtask vm --suite trixie -- libvirtd --version";

fn kernel_names() -> PossibleValuesParser {
    KERNELS.iter().map(|kernel| kernel.name).collect::<Vec<_>>().into()
}

fn suite_names() -> PossibleValuesParser {
    SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().into()
}

fn scenario_names() -> PossibleValuesParser {
    libvirt::ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().into()
}

/// A number of seconds, or one with its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        unit => return Err(format!("no unit of time: {unit}")),
    };
    let number: u32 = digits.parse().map_err(|_| "a number is missing, as in 90s, 5m or 1h".to_owned())?;
    match u64::from(number) * seconds {
        0 => Err("no time at all".to_owned()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(arguments: &[&str]) -> Result<VmArguments, String> {
        let all = ["xtask", "vm"].iter().chain(arguments);
        match Cli::try_parse_from(all).map_err(|error| error.to_string())?.chore {
            Chore::Vm(arguments) => Ok(arguments),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_command_keeps_its_own_options() {
        let arguments = vm(&["--kernel", "backports", "--", "sh", "-c", "exit 3", "--kernel", "--"]).unwrap();
        assert_eq!(arguments.kernel, "backports");
        assert_eq!(arguments.command, ["sh", "-c", "exit 3", "--kernel", "--"]);
    }

    #[test]
    fn the_first_kernel_of_the_list_is_the_usual_one() {
        assert_eq!(vm(&["--", "true"]).unwrap().kernel, "stable");
    }

    #[test]
    fn a_kernel_that_is_not_in_the_list_is_refused_with_the_list() {
        let said = vm(&["--kernel", "hurd", "--", "true"]).unwrap_err();
        assert!(said.contains("stable") && said.contains("backports"), "{said}");
    }

    #[test]
    fn a_suite_that_is_not_in_the_table_is_refused_with_the_table() {
        assert_eq!(vm(&["--suite", "trixie", "--", "true"]).unwrap().suite.as_deref(), Some("trixie"));
        let said = vm(&["--suite", "potato", "--", "true"]).unwrap_err();
        assert!(said.contains("bookworm") && said.contains("trixie"), "{said}");
        assert!(Cli::try_parse_from(["xtask", "record-libvirt", "--suite", "potato", "/tmp/r"]).is_err());
        let said = vm(&["--over", "/tmp/out", "--", "true"]).unwrap_err();
        assert!(said.contains("--suite"), "{said}");
    }

    #[test]
    fn a_command_is_needed() {
        assert!(vm(&[]).unwrap_err().contains("COMMAND"));
    }

    #[test]
    fn a_linux_guest_needs_a_place() {
        assert!(Cli::try_parse_from(["xtask", "linux-guest"]).unwrap_err().to_string().contains("DIR"));
    }

    #[test]
    fn times_have_units_and_an_end() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("1h"), Ok(3600));
        for wrong in ["", "s", "0", "0m", "-1s", "1d", "1hm", "5000000000", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
