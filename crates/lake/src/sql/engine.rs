//! The engines' dialects.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::Moment;
use crate::{Day, Micros, Row as _, Table};

/// An engine that reads Parquet by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// DuckDB.
    Duckdb,
    /// ClickHouse, its server or `clickhouse local`.
    Clickhouse,
    /// Apache Spark.
    Spark,
    /// Trino, with a table of the Hive connector.
    Trino,
    /// DataFusion's command line.
    Datafusion,
}

/// No time of a lake is later. Nanoseconds since 1970, as some engines have them, end in 2262.
const NEVER: &str = "2262-01-01T00:00:00Z";

/// No time of a lake is earlier: ClickHouse has none before.
const EARLIEST: &str = "1900-01-01T00:00:00Z";

/// Characters of paths that no engine takes for a pattern, an escape or the end of a text.
pub(super) fn is_plain(path: &str) -> bool {
    path.chars().all(|c| c.is_alphanumeric() || "._-/:=+@~ ".contains(c))
}

impl Engine {
    /// All engines.
    pub const ALL: [Self; 5] = [Self::Duckdb, Self::Clickhouse, Self::Spark, Self::Trino, Self::Datafusion];

    /// Its name on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duckdb => "duckdb",
            Self::Clickhouse => "clickhouse",
            Self::Spark => "spark",
            Self::Trino => "trino",
            Self::Datafusion => "datafusion",
        }
    }

    /// A text, as it is written in SQL.
    pub(super) fn text(self, text: &str) -> String {
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('\'');
        for c in text.chars() {
            match (self, c) {
                (Self::Duckdb | Self::Trino | Self::Datafusion, '\'') => quoted.push_str("''"),
                (Self::Duckdb | Self::Trino | Self::Datafusion, _) => quoted.push(c),
                (Self::Clickhouse | Self::Spark, '\'' | '\\') => quoted.extend(['\\', c]),
                // Spark replaces `${…}` by its configuration's values before it parses.
                (Self::Spark, '$') => quoted.push_str("\\u0024"),
                (Self::Spark, c) if c.is_control() => {
                    // Writing to a string does not fail.
                    let _ = write!(quoted, "\\u{:04x}", u32::from(c));
                }
                (Self::Clickhouse, c) if c.is_ascii_control() => {
                    let _ = write!(quoted, "\\x{:02x}", u32::from(c));
                }
                (Self::Clickhouse | Self::Spark, _) => quoted.push(c),
            }
        }
        quoted.push('\'');
        quoted
    }

    /// A time, whatever the session's zone.
    pub(super) fn time(self, micros: Micros) -> String {
        let bound = |text: &str| text.parse::<Timestamp>().unwrap_or_default();
        let time = Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        });
        let time = time.clamp(bound(EARLIEST), bound(NEVER));
        let (day, clock) = (time.strftime("%Y-%m-%d"), time.strftime("%H:%M:%S%.6f"));
        match self {
            Self::Duckdb => format!("TIMESTAMPTZ '{day} {clock}+00'"),
            Self::Clickhouse => format!("toDateTime64('{day} {clock}', 6, 'UTC')"),
            Self::Spark => format!("TIMESTAMP '{day} {clock}+00:00'"),
            Self::Trino => format!("TIMESTAMP '{day} {clock} UTC'"),
            Self::Datafusion => {
                format!("arrow_cast('{day}T{clock}Z', 'Timestamp(Microsecond, Some(\"UTC\"))')")
            }
        }
    }

    /// A time after all others.
    pub(super) fn never(self) -> String {
        self.time(Micros::MAX)
    }

    /// Seconds, as they are added to a time.
    pub(super) fn seconds(self, seconds: u32) -> String {
        match self {
            Self::Datafusion => format!("INTERVAL '{seconds} seconds'"),
            _ => format!("INTERVAL '{seconds}' SECOND"),
        }
    }

    /// Whether a list of ranges, `possibly_held`, has one that has a moment in common with `at`.
    pub(super) fn possibly_held(self, at: Moment) -> String {
        let (last, first) = (self.time(at.last), self.time(at.first));
        match self {
            Self::Duckdb => format!(
                "len(list_filter(possibly_held, lambda p: coalesce(p.\"from\" <= {last}, true) \
                 AND coalesce(p.\"until\" > {first}, true))) > 0"
            ),
            Self::Clickhouse => format!(
                "arrayExists(p -> coalesce(tupleElement(p, 'from') <= {last}, true) \
                 AND coalesce(tupleElement(p, 'until') > {first}, true), possibly_held)"
            ),
            Self::Spark => format!(
                "exists(possibly_held, p -> coalesce(p.`from` <= {last}, true) \
                 AND coalesce(p.`until` > {first}, true))"
            ),
            Self::Trino => format!(
                "any_match(possibly_held, p -> coalesce(p.\"from\" <= {last}, true) \
                 AND coalesce(p.\"until\" > {first}, true))"
            ),
            Self::Datafusion => format!(
                "array_any_match(possibly_held, p -> coalesce(p['from'] <= {last}, true) \
                 AND coalesce(p['until'] > {first}, true))"
            ),
        }
    }

    /// Statements to run before a question: the session's zone is UTC, and texts mean what they
    /// say.
    pub fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Duckdb => &["SET TimeZone = 'UTC'"],
            Self::Clickhouse => &[],
            Self::Spark => &[
                "SET spark.sql.session.timeZone = UTC",
                "SET spark.sql.variable.substitute = false",
                "SET spark.sql.parser.escapedStringLiterals = false",
            ],
            Self::Trino => &["SET TIME ZONE 'UTC'"],
            Self::Datafusion => &["SET datafusion.execution.time_zone = '+00:00'"],
        }
    }

    /// The function that says whether a text begins with another.
    pub(super) fn starts_with(self) -> &'static str {
        match self {
            Self::Clickhouse => "startsWith",
            Self::Spark => "startswith",
            Self::Duckdb | Self::Trino | Self::Datafusion => "starts_with",
        }
    }

    /// What ends a question.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Clickhouse => "\nSETTINGS session_timezone = 'UTC', use_hive_partitioning = 0",
            _ => "",
        }
    }

    /// The time of the first (1) or last (-1) proof.
    fn time_of_proof(self, index: i8) -> String {
        match self {
            Self::Duckdb => format!("proof[{index}].time"),
            // An index outside of an array gives no null there, but zeros.
            Self::Clickhouse => format!("if(empty(proof), NULL, tupleElement(proof[{index}], 'time'))"),
            Self::Spark => format!("try_element_at(proof, {index}).time"),
            Self::Trino => format!("element_at(proof, {index}).time"),
            Self::Datafusion => format!("array_element(proof, {index})['time']"),
        }
    }

    /// The first moment of the day, or of the next one.
    fn midnight(self, next: bool) -> String {
        let plus = if next { " + 1" } else { "" };
        match self {
            Self::Duckdb => format!("timezone('UTC', CAST(day{plus} AS TIMESTAMP))"),
            Self::Clickhouse => format!("toDateTime64(day{plus}, 6, 'UTC')"),
            Self::Spark => format!("timestamp_seconds(86400 * (unix_date(day){plus}))"),
            Self::Trino => {
                let day = if next { "date_add('day', 1, day)" } else { "day" };
                format!("with_timezone(CAST({day} AS TIMESTAMP(6)), 'UTC')")
            }
            Self::Datafusion => {
                let more = if next { " + INTERVAL '1 day'" } else { "" };
                format!("arrow_cast(day, 'Timestamp(Microsecond, Some(\"UTC\"))'){more}")
            }
        }
    }

    /// The definition of a table in a `WITH`: its columns, and those that follow from them.
    /// `base`: the lake's URL as the engine reads it; `objects`: their paths below it, with their
    /// days. `never`: no row is wanted.
    pub(super) fn table(self, table: Table, base: &str, objects: &[(Day, String)], never: bool) -> String {
        let mut columns = columns(table).join(", ");
        if table == Table::Held {
            let never = self.never();
            let first_proof = self.time_of_proof(1);
            let begun = format!("coalesce(granted, CASE WHEN opened IS NULL THEN {first_proof} END)");
            let or_never = |name: &str| format!("coalesce({name}, {never})");
            let ends = ["released", "last_seen", "uncertain_since"].map(or_never).join(", ");
            let last_proof = self.time_of_proof(-1);
            let _ = write!(
                columns,
                ", {first_proof} AS first_proof_time, {last_proof} AS last_proof_time, {begun} AS begun, \
                 least({ends}) AS ended"
            );
        }
        let midnights = format!("{} AS day_start, {} AS day_end", self.midnight(false), self.midnight(true));
        let nothing = if never { " WHERE 1 = 0" } else { "" };
        let paths = objects.iter().map(|(_, path)| path.as_str());
        let name = table.as_str();
        match self {
            Self::Duckdb => {
                let paths: Vec<_> = paths.map(|path| self.text(&format!("{base}/{path}"))).collect();
                format!(
                    "{name} AS NOT MATERIALIZED (\n  SELECT {columns}, day, {midnights}\n  FROM read_parquet([\n    {}],\n    \
                     hive_partitioning = true, hive_types = {{'day': DATE}}, union_by_name = true){nothing}),",
                    paths.join(",\n    ")
                )
            }
            Self::Clickhouse => {
                let all = format!("{base}/{{{}}}", paths.collect::<Vec<_>>().join(","));
                // A pattern of one is none.
                let all = if let [(_, only)] = objects { format!("{base}/{only}") } else { all };
                let function = if base.contains("://") { "s3" } else { "file" };
                format!(
                    "{name} AS (\n  SELECT {columns}, toDate(extract(_path, '/day=([0-9-]+)/')) AS day, {midnights}\n  \
                     FROM {function}({}, 'Parquet'){nothing}),",
                    self.text(&all)
                )
            }
            Self::Spark => {
                format!(
                    "{name} AS (\n  SELECT {columns}, day, {midnights}\n  FROM taptrail_{name}{nothing}),"
                )
            }
            Self::Trino => {
                let paths: Vec<_> = paths.map(|path| self.text(&format!("{base}/{path}"))).collect();
                format!(
                    "{name} AS (\n  SELECT {columns}, day, {midnights}\n  FROM taptrail_{name}\n  WHERE \"$path\" IN (\n    {}){}),",
                    paths.join(",\n    "),
                    if never { " AND 1 = 0" } else { "" }
                )
            }
            Self::Datafusion => {
                let each = objects.iter().map(|(day, path)| {
                    let path = self.text(&format!("{base}/{path}"));
                    format!("SELECT *, DATE '{day}' AS day FROM {path}")
                });
                let all = each.collect::<Vec<_>>().join("\n    UNION ALL ");
                format!("{name} AS (\n  SELECT {columns}, day, {midnights}\n  FROM (\n    {all}){nothing}),")
            }
        }
    }

    /// A statement to run before, which makes the objects of a table known.
    pub(super) fn view(self, table: Table, base: &str, objects: &[(Day, String)]) -> Option<String> {
        (self == Self::Spark).then(|| {
            let paths: Vec<_> = objects.iter().map(|(_, path)| path.as_str()).collect();
            let all = if let [only] = paths[..] {
                format!("{base}/{only}")
            } else {
                format!("{base}/{{{}}}", paths.join(","))
            };
            let base = format!("{base}/{table}");
            format!(
                "CREATE OR REPLACE TEMPORARY VIEW taptrail_{table} USING parquet OPTIONS (\n  path {},\n  \
                 basePath {}, mergeSchema 'true')",
                self.text(&all),
                self.text(&base)
            )
        })
    }
}

/// The columns of a table that questions use. All versions of the table have them.
fn columns(table: Table) -> Vec<String> {
    let all = match table {
        Table::Held => crate::HeldRow::columns(),
        Table::Coverage => crate::CoverageRow::columns(),
        Table::Findings => crate::FindingRow::columns(),
        Table::Runs | Table::Records => Vec::new(),
    };
    all.iter().map(|field| field.name().clone()).filter(|name| name != "proof").collect()
}
