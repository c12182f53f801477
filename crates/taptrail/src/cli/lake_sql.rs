//! The arguments of `lake sql`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use taptrail_lake::sql::Question;
use taptrail_trail::Severity;

use super::queries::{OUTPUT_HEADING, SELECTION_HEADING, Selection, Times, severities};

#[derive(Debug, Args)]
#[command(
    after_help = "Example: who had this MAC, as SQL for DuckDB\n  taptrail lake sql s3://logs/lake who --mac \
                  52:54:00:12:34:56 --at 'tue 14:05'",
    after_long_help = "Examples:\n  taptrail lake sql s3://logs/lake who --mac 52:54:00:12:34:56 --at 'tue 14:05' | \
                       duckdb\n  taptrail lake sql s3://logs/lake device --device vhost-net --at yesterday --run \
                       --engine taptrail\n  taptrail lake sql s3://logs/lake mac-on-two-hosts --start this-month \
                       --engine spark --run --server spark://master:7077\n\nThe SQL names the objects of the lake's \
                       last generation one by one, and sets the session's zone to UTC. Batches that no generation has \
                       yet are not in it: `taptrail lake compact` adds them. With who and device, the hosts whose \
                       answer is not known at that time are asked for, too.\n\nExit codes: 0 success; 2 wrong \
                       arguments, a lake that can't be read, or a client that failed."
)]
pub(crate) struct LakeSql {
    /// URL of the lake: file:///DIRECTORY, s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// Question to ask
    #[arg(value_name = "QUESTION", required = true, value_parser = questions())]
    pub(crate) questions: Vec<Question>,

    /// Engine to ask
    #[arg(long, value_enum, value_name = "ENGINE", default_value_t = LakeEngine::Duckdb)]
    pub(crate) engine: LakeEngine,

    /// Ask the engine, and print its answer
    #[arg(long)]
    pub(crate) run: bool,

    /// Client that asks the engine: duckdb, clickhouse, or a python3 with the module duckdb, chdb
    /// or pyspark [default: an installed one]
    #[arg(long, value_name = "PATH", requires = "run")]
    pub(crate) client: Option<PathBuf>,

    /// Server that Spark's client asks: spark://HOST:7077, sc://HOST:15002, local[*]
    /// [default: as Spark's configuration says]
    #[arg(long, value_name = "URL", requires = "run")]
    pub(crate) server: Option<String>,

    /// The lake's URL or directory as the engine reads it [default: derived from URL]
    #[arg(long, value_name = "URL")]
    pub(crate) engine_url: Option<String>,

    #[command(flatten)]
    pub(crate) selection: Selection,

    /// Time of who, device and unknown-hosts; clock-skew compares with it [default: the time of the
    /// last generation, for clock-skew]
    #[arg(long, value_name = "TIME", help_heading = SELECTION_HEADING)]
    pub(crate) at: Option<String>,

    #[command(flatten)]
    pub(crate) times: Times,

    /// Only findings of at least this severity
    #[arg(long, value_name = "LEVEL", help_heading = SELECTION_HEADING, value_parser = severities())]
    pub(crate) severity: Option<Severity>,

    /// Only silences longer than this, and clocks that are further ahead [default: 1h; 5m for
    /// clock-skew]
    #[arg(long, value_name = "DURATION", help_heading = SELECTION_HEADING, value_parser = taptrail_guest::duration)]
    pub(crate) longer_than: Option<std::time::Duration>,

    /// Output format of --run
    #[arg(long, value_enum, default_value_t = AnswerFormat::Table, requires = "run", help_heading = OUTPUT_HEADING)]
    pub(crate) format: AnswerFormat,

    /// The same as --format json
    #[arg(long, conflicts_with = "format", requires = "run", help_heading = OUTPUT_HEADING)]
    pub(crate) json: bool,

    /// Use UTC for the times in the output, and for TIME without a zone
    #[arg(long, help_heading = OUTPUT_HEADING)]
    pub(crate) utc: bool,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LakeEngine {
    /// DuckDB
    Duckdb,
    /// ClickHouse
    Clickhouse,
    /// Apache Spark
    Spark,
    /// Trino, with tables of the Hive connector (docs/lake-engines.md)
    Trino,
    /// DataFusion's command line
    Datafusion,
    /// taptrail itself, without SQL
    Taptrail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnswerFormat {
    /// A table for people
    Table,
    /// JSON
    Json,
    /// CSV; of one question only
    Csv,
}

/// Each question with its meaning, for `--help`.
fn questions() -> impl TypedValueParser<Value = Question> {
    let named = |question: &Question| PossibleValue::new(question.as_str()).help(question.summary());
    PossibleValuesParser::new(Question::ALL.iter().map(named)).map(|word| {
        // Only words of ALL come here.
        Question::ALL.into_iter().find(|question| question.as_str() == word).unwrap_or(Question::Who)
    })
}
