//! The benchmarks' arguments.

use std::path::PathBuf;

use clap::Args;

/// What the benchmarks have in common.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// The program to measure, built for a release
    #[arg(value_name = "TAPTRAIL", default_value = "target/release/taptrail")]
    pub(crate) taptrail: PathBuf,

    /// Directory for the raw figures [default: performance, in Cargo's target directory]
    #[arg(long, value_name = "DIR", env = "BENCH_OUT", hide_env = true)]
    pub(crate) out: Option<PathBuf>,
}

/// Measure what it costs to have each open on record: opens, attaches and starts, beside a bare
/// QEMU.
///
/// It needs root. With CI=true or TAPTRAIL_TEST_AUDIT=1 all is measured a second time with the
/// kernel's auditing on, which changes the whole machine for that time.
#[derive(Debug, Args)]
pub(crate) struct CostArguments {
    #[command(flatten)]
    pub(crate) common: BenchArguments,

    /// How often the commands take turns
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub(crate) rounds: usize,
}

/// Measure how fast trails of large logs are read, against wc, auvirt and ausearch.
#[derive(Debug, Args)]
pub(crate) struct ReadingArguments {
    #[command(flatten)]
    pub(crate) common: BenchArguments,

    /// How often the quick commands take turns
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub(crate) rounds: usize,

    /// Make the logs so many times smaller, to try the benchmark
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) divisor: u64,
}

/// Measure how fast questions to a lake of a fleet are answered, beside DuckDB on the same objects,
/// and how fast logs are archived.
///
/// The lake is generated: with 1,000 hosts and 365 days it has some 80 million rows, and takes an
/// hour to write. DuckDB is installed from PyPI into target/duckdb.
#[derive(Debug, Args)]
pub(crate) struct LakeArguments {
    #[command(flatten)]
    pub(crate) common: BenchArguments,

    /// Hosts of the lake
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(8..))]
    pub(crate) hosts: u64,

    /// Days of the lake
    #[arg(long, value_name = "COUNT", default_value_t = 365, value_parser = clap::value_parser!(u64).range(8..))]
    pub(crate) days: u64,

    /// Megabytes of the log that is archived
    #[arg(long, value_name = "MB", default_value_t = 200)]
    pub(crate) log: u64,
}

/// Measure what a lake costs to which each host sends its own log every day: batches, objects, time
/// and memory of `archive` and of `lake compact`.
///
/// The logs are generated, each host's for all days. Each day each host archives what its log has
/// until then, as by the timer, and the lake is compacted.
#[derive(Debug, Args)]
pub(crate) struct FleetArguments {
    #[command(flatten)]
    pub(crate) common: BenchArguments,

    /// Hosts, each with a log of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) hosts: u64,

    /// Days
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) days: u64,

    /// Kilobytes that a host's log grows by on a day
    #[arg(long, value_name = "KB", default_value_t = 80)]
    pub(crate) log: u64,
}

/// Measure how long `taptrail verify` takes beside many guests, against lsof and fuser.
///
/// It needs root, and 50 MiB for each guest.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    pub(crate) common: BenchArguments,

    /// Paused QEMUs with a tap of two queues
    #[arg(long, value_name = "COUNT", default_value_t = 200, env = "BENCH_GUESTS", hide_env = true)]
    pub(crate) guests: u16,

    /// Interfaces of further QEMUs, which have 20 each
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub(crate) nics: u16,

    /// How often the commands take turns
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub(crate) rounds: usize,
}

/// Measure what it costs to watch: a log that grows, beside tail and grep, and guests at rest.
///
/// It needs root. With CI=true or TAPTRAIL_TEST_AUDIT=1 the kernel's own broadcast is followed,
/// too, which turns the machine's auditing on for that time.
#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    #[command(flatten)]
    pub(crate) common: BenchArguments,

    /// Length of each burst of lines
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,

    /// QEMUs at rest
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub(crate) guests: u8,

    /// How long they are watched
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) rest: u64,
}

#[derive(Debug, Args)]
pub(crate) struct SignalsArguments {
    pub(crate) rounds: u64,
}
