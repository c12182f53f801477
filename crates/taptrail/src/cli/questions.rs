//! The arguments of the questions: `trail`, `who`, `explain` and `findings`.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use taptrail_record::MacAddr;
use taptrail_report::{DeviceFilter, Style, Subject};
use taptrail_trail::FindingKind;
use uuid::Uuid;

const INPUT: &str = "Input";
const ASKED: &str = "What is asked for";
const SHOWN: &str = "How it is shown";

/// What stands below each question's own examples.
macro_rules! with_notes {
    ($examples:literal) => {
        concat!(
            $examples,
            "\n\nFILE is an audit log, raw or packed, or a directory of logs, which is searched with all directories in it; - reads \
             standard input. Logs in several directories are those of several hosts. Without FILE this host's audit log, its rotations and the ledger are read.\n\nTimes: as \
             ausearch takes them (now, recent, today, yesterday, this-hour, this-week, week-ago, this-month, \
             this-year, boot; 11/23/2026, '11/23/2026 20:31:05'), 2026-11-23, '2026-11-23 20:31:05', 20:31, \
             2026-11-23T20:31:05Z, 1795460022.944 (seconds since 1970), '2 hours ago', '90m ago'. A day, minute \
             or second that --at or --end names is meant as a whole. Without a zone they are this host's, with --utc UTC."
        )
    };
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: what web1 held this week\n  taptrail trail --vm web1 --start this-week",
    after_long_help = with_notes!(
        "Examples:\n  taptrail trail --vm web1 --start this-week\n  taptrail trail --at '2026-11-23 20:31' --device \
         macvtap /var/log/audit\n  taptrail trail --format csv saved.log.xz > holdings.csv\n\nExit codes: 0 done; \
         2 unusable arguments, or some input can't be read; 4 not known: the logs do not cover the time asked for."
    )
)]
pub(crate) struct Trail {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) selection: Selection,

    #[command(flatten)]
    pub(crate) times: Times,

    /// Only what was held, or possibly held, at this time, and the findings that concern it
    #[arg(long, value_name = "TIME", help_heading = ASKED)]
    pub(crate) at: Option<String>,

    /// Only what is held as the trail ends, and the findings that concern it
    #[arg(long, help_heading = ASKED)]
    pub(crate) held: bool,

    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: who held /dev/tap198 at half past eight\n  taptrail who /dev/tap198 --at 20:30",
    after_long_help = with_notes!(
        "Examples:\n  taptrail who /dev/tap198 --at 20:30\n  taptrail who 52:54:00:12:34:56 /var/log/audit\n  \
         taptrail who vnet0 --format json\n\nlibvirt names a macvtap by its interface (macvtap4), which records \
         of the kernel's or of taptrail tell together with its /dev/tapN. Of a tap it tells no interface.\n\nExit \
         codes: 0 done; 2 unusable arguments, or some input can't be read; 4 not known: the logs do not cover the time \
         asked for."
    )
)]
pub(crate) struct Who {
    /// A path (/dev/tap198), the host's interface (vnet0, macvtap4), a device number (0A:C8), a kind (tun,
    /// macvtap, vhost-net), or a guest's MAC
    #[arg(value_name = "DEVICE|MAC", help_heading = None::<&'static str>)]
    pub(crate) what: Target,

    #[command(flatten)]
    pub(crate) sources: Sources,

    /// Who held it, or possibly held it, at this time; without, all that ever did
    #[arg(long, value_name = "TIME", help_heading = ASKED)]
    pub(crate) at: Option<String>,

    /// Only on this host
    #[arg(long, value_name = "HOST", help_heading = ASKED)]
    pub(crate) node: Option<String>,

    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: each open for an interface, what followed, and the lines that prove it\n  taptrail \
                  explain 52:54:00:12:34:56",
    after_long_help = with_notes!(
        "Examples:\n  taptrail explain 52:54:00:12:34:56\n  taptrail explain web1 --at yesterday \
         /var/log/audit\n  taptrail explain 2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e --format json\n\nLines are read \
         again where they were found; what came by standard input can't be.\n\nExit codes: 0 done; 2 unusable \
         arguments, or some input can't be read; 4 not known: the logs do not cover the time asked for."
    )
)]
pub(crate) struct Explain {
    /// An interface's MAC, or a guest's name or uuid
    #[arg(value_name = "MAC|GUEST", help_heading = None::<&'static str>, value_parser = subject)]
    pub(crate) what: Subject,

    #[command(flatten)]
    pub(crate) sources: Sources,

    /// Only what was held, or possibly held, at this time
    #[arg(long, value_name = "TIME", help_heading = ASKED)]
    pub(crate) at: Option<String>,

    /// Only on this host
    #[arg(long, value_name = "HOST", help_heading = ASKED)]
    pub(crate) node: Option<String>,

    /// How to tell it
    #[arg(long, value_enum, default_value_t = Page::Table, help_heading = SHOWN)]
    pub(crate) format: Page,

    /// Times in UTC, those shown and those given without a zone
    #[arg(long, help_heading = SHOWN)]
    pub(crate) utc: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: exit code 1 when the last hours' trail has any\n  taptrail findings --start '6 hours ago'",
    after_long_help = with_notes!(
        "Examples:\n  taptrail findings --start '6 hours ago'\n  taptrail findings --kind open-failed --kind \
         unaudited-open /var/log/audit\n  taptrail findings --vm web1 --format jsonl\n\nExit codes: 0 there are \
         none; 1 there are some; 2 unusable arguments, or some input can't be read; 4 the logs do not cover the time \
         asked for."
    )
)]
pub(crate) struct Findings {
    #[command(flatten)]
    pub(crate) sources: Sources,

    /// Only of this kind; may be given several times
    #[arg(long, value_name = "KIND", help_heading = ASKED, value_parser = kinds())]
    pub(crate) kind: Vec<FindingKind>,

    #[command(flatten)]
    pub(crate) selection: Selection,

    #[command(flatten)]
    pub(crate) times: Times,

    #[command(flatten)]
    pub(crate) output: Output,
}

/// What is read.
#[derive(Debug, Args)]
#[command(next_help_heading = INPUT)]
pub(crate) struct Sources {
    /// Audit logs, directories of them, or - for standard input; without, this host's own
    #[arg(value_name = "FILE", help_heading = None::<&'static str>)]
    pub(crate) files: Vec<PathBuf>,

    /// Host name for lines without one [default: '?' for files, or their directory's name where there are
    /// several; this host for its own logs]
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,

    /// Host name for lines without one in this file, or in all files of this directory; may be given several times
    #[arg(long, value_name = "NAME=PATH", value_parser = assumed_host)]
    pub(crate) assume_host: Vec<(String, PathBuf)>,

    /// The input was selected by record type (ausearch -m, grep VIRT_): serial numbers that it skips are those of
    /// other records, not of lost ones
    #[arg(long)]
    pub(crate) extract: bool,

    /// This host's audit log, where auditd.conf does not say
    #[arg(long, value_name = "PATH", env = "TAPTRAIL_AUDIT_LOG", hide_env_values = true)]
    pub(crate) audit_log: Option<PathBuf>,

    /// Say on standard error how much was read, and how fast
    #[arg(long)]
    pub(crate) stats: bool,
}

/// About whom and what.
#[derive(Debug, Args)]
#[command(next_help_heading = ASKED)]
pub(crate) struct Selection {
    /// Only of the guest of exactly this name
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<String>,

    /// Only of the guest of this uuid
    #[arg(long)]
    pub(crate) uuid: Option<Uuid>,

    /// Only of the interface with this MAC
    #[arg(long)]
    pub(crate) mac: Option<MacAddr>,

    /// Only of such a device: a path, the host's interface, a number (0A:C8), tun, macvtap or vhost-net
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceFilter>,

    /// Only on this host
    #[arg(long, value_name = "HOST")]
    pub(crate) node: Option<String>,
}

/// From when to when.
#[derive(Debug, Args)]
#[command(next_help_heading = ASKED)]
pub(crate) struct Times {
    /// Only what was not over before
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<String>,

    /// Only what had begun by then; a day, minute or second that is named is included
    #[arg(long, value_name = "TIME")]
    pub(crate) end: Option<String>,
}

/// How it is shown.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = SHOWN)]
pub(crate) struct Output {
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,

    /// Times in UTC, those shown and those given without a zone
    #[arg(long)]
    pub(crate) utc: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs: one object with holdings (not of `findings`), findings and input
    Json,
    /// For programs: an object on each line, {"holding": …}, {"finding": …} and last {"input": …}; a holding
    /// as soon as it is over
    Jsonl,
    /// For spreadsheets: a row for each holding, or of `findings` for each finding; a name that begins with
    /// = + - @ or ' gets a ' before it
    Csv,
}

impl Format {
    /// The format, its tables in this style.
    pub(crate) fn of(self, style: Style) -> taptrail_report::Format {
        match self {
            Self::Table => taptrail_report::Format::Table(style),
            Self::Json => taptrail_report::Format::Json,
            Self::Jsonl => taptrail_report::Format::Jsonl,
            Self::Csv => taptrail_report::Format::Csv,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    /// For people: sentences, and the lines that prove them
    Table,
    /// For programs: one object
    Json,
}

/// What `who` asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Mac(MacAddr),
    Device(DeviceFilter),
}

impl std::str::FromStr for Target {
    type Err = taptrail_report::DeviceFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::Mac).or_else(|_| text.parse().map(Self::Device))
    }
}

fn assumed_host(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("NAME=PATH is needed, such as web1=/srv/logs/web1".to_owned()),
    }
}

fn subject(text: &str) -> Result<Subject, Infallible> {
    text.parse()
}

/// Each kind with what it means, for `--help`.
fn kinds() -> impl TypedValueParser<Value = FindingKind> {
    let named = |kind: &FindingKind| PossibleValue::new(kind.as_str()).help(kind.summary());
    PossibleValuesParser::new(FindingKind::ALL.iter().map(named)).map(|word| {
        let kind = FindingKind::ALL.iter().find(|kind| kind.as_str() == word);
        // Only words of ALL come here.
        kind.copied().unwrap_or(FindingKind::ALL[0])
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::{Cli, Command};

    fn trail(arguments: &[&str]) -> Trail {
        match Cli::try_parse_from(["taptrail", "trail"].iter().chain(arguments)).unwrap().command {
            Command::Trail(trail) => trail,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn questions_take_files_anywhere_between_options() {
        let asked = trail(&["a.log", "--vm", "it's", "-", "--held", "--format", "csv"]);
        assert_eq!(asked.sources.files, [PathBuf::from("a.log"), PathBuf::from("-")]);
        assert_eq!((asked.selection.vm.as_deref(), asked.held), (Some("it's"), true));
        assert_eq!(asked.output.format, Format::Csv);
    }

    #[test]
    fn every_kind_of_finding_is_explained_in_the_help() {
        let mut command = Cli::command();
        let findings = command.find_subcommand_mut("findings").unwrap();
        let help = findings.render_long_help().to_string();
        for kind in FindingKind::ALL {
            assert!(help.contains(kind.as_str()), "{kind:?}");
            let first = kind.summary().split_whitespace().take(3).collect::<Vec<_>>().join(" ");
            assert!(help.contains(&first), "{kind:?}");
        }
    }

    #[test]
    fn a_target_is_a_mac_or_a_device() {
        assert_eq!("52:54:00:00:00:01".parse(), Ok(Target::Mac(MacAddr::kvm([0, 0, 1]))));
        assert!(matches!("0A:C8".parse(), Ok(Target::Device(DeviceFilter::Number(_)))));
        assert!(matches!("vnet0".parse(), Ok(Target::Device(DeviceFilter::Interface(_)))));
        assert!("52:54:00".parse::<Target>().is_err());
    }
}
