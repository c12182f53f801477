//! The arguments of the queries: `trail` and `findings`, and what the others share with them.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use taptrail_record::{MacAddr, MacAddrError};
use taptrail_report::{Columns, DeviceFilter, GuestFilter, Presentation, Style};
use taptrail_trail::{FindingKind, Severity};

const INPUT_HEADING: &str = "Input";
pub(super) const SELECTION_HEADING: &str = "Selection";
pub(super) const OUTPUT_HEADING: &str = "Output";

/// The text below the examples of each query.
macro_rules! with_notes {
    ($($examples:expr),+) => {
        concat!(
            $($examples),+,
            "\n\nFILE is a log, compressed or not, or a directory that is searched recursively; - is standard input. \
             Logs in several directories belong to several hosts. Without FILE, taptrail reads this host's audit log, its \
             rotations and the ledger.\n\nTIME is a time as ausearch takes it (now, recent, today, yesterday, this-hour, \
             this-week, week-ago, this-month, this-year, boot; 11/23/2026, '11/23/2026 20:31:05'), or 2026-11-23, \
             '2026-11-23 20:31:05', 23.11.2026, '23.11.2026 20:31', 20:31, tuesday, 'tue 14:05' (the last one), \
             2026-11-23T20:31:05Z, 1795460022.944 (seconds since 1970), '2 hours ago', '90m ago'. A day, minute or \
             second in --at or --end means all of it. Times without a zone are in this host's zone, or in UTC with \
             --utc."
        )
    };
}

pub(super) use with_notes;

#[derive(Debug, Args)]
#[command(
    after_help = "Example: what web1 held this week\n  taptrail trail --guest web1 --start this-week",
    after_long_help = with_notes!(
        "Examples:\n  taptrail trail --guest web1 --start this-week\n  taptrail trail --at '2026-11-23 20:31' --device \
         macvtap /var/log/audit\n  taptrail trail --format csv saved.log.xz > holdings.csv\n\nExit codes: 0 success; \
         2 wrong arguments, or input that can't be read; 4 not known: the logs do not cover the time in question."
    )
)]
pub(crate) struct Trail {
    #[command(flatten)]
    pub(crate) sources: Inputs,

    #[command(flatten)]
    pub(crate) selection: Selection,

    #[command(flatten)]
    pub(crate) times: Times,

    /// Only holdings that were held, or possibly held, at this time, and their findings
    #[arg(long, value_name = "TIME", help_heading = SELECTION_HEADING)]
    pub(crate) at: Option<String>,

    /// Only holdings that are held at the end of the trail, and their findings
    #[arg(long, help_heading = SELECTION_HEADING)]
    pub(crate) held: bool,

    /// A row for each device in the table, with its path, host interface, number and queues
    #[arg(long, help_heading = OUTPUT_HEADING, conflicts_with_all = ["columns", "timeline"])]
    devices: bool,

    /// Draw a lane for each interface, from left to right, instead of a table
    #[arg(long, help_heading = OUTPUT_HEADING, conflicts_with = "columns")]
    timeline: bool,

    /// Columns of the table, with commas between them, at their full width: host, guest, uuid, mac,
    /// devices, opened, from, to, for, end, basis, pid, state, proof; or for each device: device,
    /// path, ifname, rdev, queues
    #[arg(short = 'o', long, value_name = "COLUMNS", help_heading = OUTPUT_HEADING)]
    columns: Option<Columns>,

    #[command(flatten)]
    pub(crate) output: Output,
}

impl Trail {
    /// How a table shows the holdings.
    pub(crate) fn presentation(&self) -> Presentation {
        match &self.columns {
            _ if self.timeline => Presentation::Timeline { ascii: !is_utf8_locale() },
            Some(columns) => Presentation::Rows(columns.clone()),
            None if self.devices => Presentation::Rows(Columns::Devices),
            None => Presentation::Rows(Columns::Sessions),
        }
    }
}

/// Whether the terminal can be expected to show more than ASCII: by the first locale variable that
/// is set, as setlocale(3) reads them.
fn is_utf8_locale() -> bool {
    let value = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(value).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: exit with 1 if the last six hours have findings\n  taptrail findings --start '6 hours ago'",
    after_long_help = with_notes!(
        "Examples:\n  taptrail findings --start '6 hours ago'\n  taptrail findings --severity grave --each\n  \
         taptrail findings --kind open-failed --kind unmanaged-open /var/log/audit\n  taptrail findings --guest web1 --format jsonl\n\nExit codes: 0 no \
         findings; 1 findings; 2 wrong arguments, or input that can't be read; 4 not known: the logs do not cover the \
         time in question."
    )
)]
pub(crate) struct Findings {
    #[command(flatten)]
    pub(crate) sources: Inputs,

    /// Only findings of this kind (repeatable)
    #[arg(long, value_name = "KIND", help_heading = SELECTION_HEADING, value_parser = kinds())]
    pub(crate) kind: Vec<FindingKind>,

    /// Only findings of at least this severity
    #[arg(long, value_name = "LEVEL", help_heading = SELECTION_HEADING, value_parser = severities())]
    pub(crate) severity: Option<Severity>,

    /// List each finding in the table, and not only each kind
    #[arg(long, help_heading = OUTPUT_HEADING)]
    pub(crate) each: bool,

    #[command(flatten)]
    pub(crate) selection: Selection,

    #[command(flatten)]
    pub(crate) times: Times,

    #[command(flatten)]
    pub(crate) output: Output,
}

/// The input.
#[derive(Debug, Args)]
#[command(next_help_heading = INPUT_HEADING)]
pub(crate) struct Sources {
    /// Logs, directories of logs, or - for standard input [default: this host's audit log and
    /// ledger]
    #[arg(value_name = "FILE", help_heading = None::<&'static str>)]
    pub(crate) files: Vec<PathBuf>,

    /// Host name for lines without one; with =PATH, only for those of this file, or of all files of
    /// this directory (repeatable) [default: '?' for files, or their directory's name where there
    /// are several; this host for its own logs]
    #[arg(long, value_name = "NAME[=PATH]")]
    pub(crate) assume_host: Vec<AssumedHost>,

    /// The input has only some record types (ausearch -m, grep VIRT_): its missing serial numbers
    /// are no lost records
    #[arg(long)]
    pub(crate) extract: bool,

    /// Path of this host's audit log [default: as auditd.conf says]
    #[arg(
        long,
        alias = "audit-log",
        value_name = "FILE",
        env = "TAPTRAIL_AUDIT_LOG",
        hide_env_values = true
    )]
    pub(crate) log: Option<PathBuf>,

    /// Print how much was read, and how fast, to standard error
    #[arg(long)]
    pub(crate) stats: bool,
}

/// The input of queries: logs, or a lake.
#[derive(Debug, Args)]
#[command(next_help_heading = INPUT_HEADING)]
pub(crate) struct Inputs {
    #[command(flatten)]
    logs: Sources,

    /// Ask the lake at this URL, which `taptrail archive` fills, instead of logs:
    /// file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(long, value_name = "URL", conflicts_with_all = ["files", "assume_host", "extract"])]
    pub(crate) lake: Option<String>,
}

impl std::ops::Deref for Inputs {
    type Target = Sources;

    fn deref(&self) -> &Sources {
        &self.logs
    }
}

/// The selection of guests, interfaces and devices.
#[derive(Debug, Args)]
#[command(next_help_heading = SELECTION_HEADING)]
pub(crate) struct Selection {
    /// Only guests with this name or UUID (repeatable)
    #[arg(long, visible_aliases = ["vm", "uuid"], value_name = "NAME|UUID", value_parser = guest)]
    pub(crate) guest: Vec<GuestFilter>,

    /// Only interfaces with this MAC
    #[arg(long, value_parser = mac)]
    pub(crate) mac: Option<MacAddr>,

    /// Only devices with this path, host interface, number (0A:C8), or kind (tun, macvtap,
    /// vhost-net, vhost-vdpa, vhost-user)
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceFilter>,

    /// Only on this host
    #[arg(long, value_name = "HOST", visible_alias = "node")]
    pub(crate) host: Option<String>,
}

/// The time and the host that `who` and `explain` are asked about.
#[derive(Debug, Args)]
#[command(next_help_heading = SELECTION_HEADING)]
pub(crate) struct Scope {
    /// Only holdings that were held, or possibly held, at this time [default: at any time]
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,

    /// Only on this host
    #[arg(long, value_name = "HOST", visible_alias = "node")]
    pub(crate) host: Option<String>,
}

/// The time range.
#[derive(Debug, Args)]
#[command(next_help_heading = SELECTION_HEADING)]
pub(crate) struct Times {
    /// Only holdings that had not ended before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<String>,

    /// Only holdings that had begun by this time
    #[arg(long, value_name = "TIME")]
    pub(crate) end: Option<String>,
}

/// The output.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = OUTPUT_HEADING)]
pub(crate) struct Output {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Add the SHA-256 of each input to JSON (`input.files[].sha256`): of the file's bytes as they
    /// are stored, compressed or not, as sha256sum prints it. Each file is read a second time for
    /// that. It is null, with the reason in `no_sha256`, for standard input, pipes and ledgers, and
    /// for a file that changed while it was read
    #[arg(long)]
    pub(crate) hash: bool,

    /// Use UTC for the times in the output, and for TIME without a zone
    #[arg(long)]
    pub(crate) utc: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people
    Table,
    /// One object with `input` and what the command lists: `holdings` and `findings`, `findings`,
    /// `runs` or `events`
    Json,
    /// One object on each line: {"holding": …} or {"run": …} as soon as it ends, {"finding": …},
    /// {"event": …}, and at the end {"input": …}
    Jsonl,
    /// One row for each holding, finding, run or event; a ' is put before a name that begins with
    /// = + - @ or '
    Csv,
    /// One document of the Elastic Common Schema 8.17 on each line: a holding or a finding
    /// (docs/ecs.md)
    Ecs,
}

impl Output {
    /// Whether it is text for people.
    pub(crate) fn is_table(self) -> bool {
        !self.json && self.format == Format::Table
    }

    /// Whether it describes the input, as JSON and JSON lines do.
    pub(crate) fn has_input(self) -> bool {
        self.json || matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Whether it is documents of the Elastic Common Schema.
    pub(crate) fn is_ecs(self) -> bool {
        self.format == Format::Ecs
    }

    /// The format, its tables in this style.
    pub(crate) fn format(self, style: Style) -> taptrail_report::Format {
        match self.format {
            _ if self.json => taptrail_report::Format::Json,
            Format::Table => taptrail_report::Format::Table(style),
            Format::Json => taptrail_report::Format::Json,
            Format::Jsonl => taptrail_report::Format::Jsonl,
            Format::Csv => taptrail_report::Format::Csv,
            Format::Ecs => taptrail_report::Format::Ecs,
        }
    }
}

/// A value of --assume-host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssumedHost {
    pub(crate) name: String,
    /// The file or directory whose lines are this host's; `None` for all other lines without a
    /// host.
    pub(crate) path: Option<PathBuf>,
}

impl std::str::FromStr for AssumedHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name, Some(path)),
            None => (text, None),
        };
        if name.is_empty() || path.is_some_and(str::is_empty) {
            return Err("give a host's name, or NAME=PATH, such as web1=/srv/logs/web1");
        }
        Ok(Self { name: name.to_owned(), path: path.map(PathBuf::from) })
    }
}

pub(super) fn guest(text: &str) -> Result<GuestFilter, Infallible> {
    text.parse()
}

/// A MAC, as users write it.
pub(crate) fn mac(text: &str) -> Result<MacAddr, MacAddrError> {
    MacAddr::from_any_form(text)
}

/// Each kind with its meaning, for `--help`.
fn kinds() -> impl TypedValueParser<Value = FindingKind> {
    let named = |kind: &FindingKind| {
        let help = format!("[{}] {}", kind.severity().as_str(), kind.summary());
        let value = PossibleValue::new(kind.as_str()).help(help);
        value.aliases(kind.former_words())
    };
    PossibleValuesParser::new(FindingKind::ALL.iter().map(named)).map(|word| {
        // Only words of ALL, or former ones, come here.
        FindingKind::from_word(&word).unwrap_or(FindingKind::ALL[0])
    })
}

/// Each severity with its meaning, for `--help`.
pub(super) fn severities() -> impl TypedValueParser<Value = Severity> {
    let named = |severity: &Severity| PossibleValue::new(severity.as_str()).help(severity.summary());
    PossibleValuesParser::new(Severity::ALL.iter().map(named)).map(|word| {
        // Only words of ALL come here.
        Severity::ALL.into_iter().find(|severity| severity.as_str() == word).unwrap_or(Severity::Notice)
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
        let asked = trail(&["a.log", "--guest", "it's", "-", "--held", "--format", "csv"]);
        assert_eq!(asked.sources.files, [PathBuf::from("a.log"), PathBuf::from("-")]);
        assert_eq!(
            (&asked.selection.guest[..], asked.held),
            (&[GuestFilter::Name("it's".to_owned())][..], true)
        );
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
    fn a_kind_stands_beside_its_severity() {
        let mut command = Cli::command();
        let findings = command.find_subcommand_mut("findings").unwrap();
        let help = findings.render_long_help().to_string();
        for kind in FindingKind::ALL {
            let line =
                help.lines().find_map(|line| line.trim().strip_prefix(&format!("- {}:", kind.as_str())));
            let severity = format!("[{}] ", kind.severity().as_str());
            assert!(line.is_some_and(|line| line.trim().starts_with(&severity)), "{kind:?} {line:?}");
        }
        let words = ["taptrail", "findings", "--severity", "warning", "--each"];
        let Command::Findings(asked) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        assert_eq!((asked.severity, asked.each), (Some(Severity::Warning), true));
        assert!(Cli::try_parse_from(["taptrail", "findings", "--severity", "info"]).is_err());
    }

    #[test]
    fn a_kind_is_known_by_the_word_that_it_had_before() {
        let words = ["taptrail", "findings", "--kind", "unaudited-open", "--kind", "serial-gap"];
        let Command::Findings(asked) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        assert_eq!(asked.kind, [FindingKind::UnmanagedOpen, FindingKind::SerialGap]);
    }
}
