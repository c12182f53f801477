//! Clients of engines: programs that run a question, and their rows.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value as Json, json};
use taptrail_lake::sql::{Answer, ColumnType, Engine, Question, Statement, Value};

/// Where programs are searched for.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];

/// The most characters of a client's error that are shown.
const MAX_ERROR: usize = 2000;

/// A program that runs questions.
#[derive(Debug)]
pub(super) struct Client {
    program: PathBuf,
    engine: Engine,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Python, with the engine's module.
    Python,
    /// DuckDB's command line.
    Duckdb,
    /// ClickHouse's program, as `clickhouse local`.
    Clickhouse,
}

impl Client {
    /// The engine's client: this program, or one that is installed.
    pub(super) fn find(engine: Engine, program: Option<&Path>) -> anyhow::Result<Self> {
        let names: &[&str] = match engine {
            Engine::Duckdb => &["duckdb", "python3"],
            Engine::Clickhouse => &["clickhouse", "python3"],
            Engine::Spark => &["python3"],
            Engine::Trino | Engine::Datafusion => {
                bail!("{} has no client that is run here: print the SQL without --run", engine.as_str())
            }
        };
        let installed = || {
            let all =
                names.iter().flat_map(|name| DIRECTORIES.map(|directory| Path::new(directory).join(name)));
            all.into_iter().find(|path| path.exists())
        };
        let program = program.map(Path::to_owned).or_else(installed);
        let program = program
            .with_context(|| format!("No client of {} is installed: --client PATH", engine.as_str()))?;
        ensure!(program.is_absolute() || program.components().count() > 1, "--client is no path");
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let kind = match name {
            name if name.starts_with("python") => Kind::Python,
            name if name.starts_with("duckdb") && engine == Engine::Duckdb => Kind::Duckdb,
            name if name.starts_with("clickhouse") && engine == Engine::Clickhouse => Kind::Clickhouse,
            name => {
                bail!("{name} is no client of {} that is known here: {}", engine.as_str(), names.join(", "))
            }
        };
        Ok(Self { program, engine, kind })
    }

    /// Runs questions, and returns the rows of each. `server`: Spark's master or Connect server.
    pub(super) fn run(
        &self,
        questions: &[(Question, Statement)],
        server: Option<&str>,
    ) -> anyhow::Result<Vec<Answer>> {
        let asked: Vec<_> = questions.iter().filter(|(_, statement)| statement.query.is_some()).collect();
        let mut rows: Vec<Vec<Vec<Json>>> = Vec::new();
        if self.kind == Kind::Python {
            let script = match self.engine {
                Engine::Duckdb => include_str!("clients/duckdb.py"),
                Engine::Clickhouse => include_str!("clients/clickhouse.py"),
                _ => include_str!("clients/spark.py"),
            };
            let each = asked
                .iter()
                .map(|(_, statement)| json!({"before": statement.before, "query": statement.query}));
            let input = json!({"server": server, "questions": each.collect::<Vec<_>>()});
            let text = if asked.is_empty() {
                String::new()
            } else {
                self.output(&["-c", script], &input.to_string())?
            };
            let mut of_one = Vec::new();
            for line in text.lines() {
                if line == "end" {
                    rows.push(std::mem::take(&mut of_one));
                } else {
                    of_one.push(
                        serde_json::from_str(line)
                            .with_context(|| format!("{}: no row of JSON", self.program.display()))?,
                    );
                }
            }
        } else {
            for (question, statement) in &asked {
                rows.push(self.run_one(*question, statement)?);
            }
        }
        ensure!(
            rows.len() == asked.len(),
            "{} answered {} of {} questions",
            self.program.display(),
            rows.len(),
            asked.len()
        );
        let mut rows = rows.into_iter();
        let answer = |(question, statement): &(Question, Statement)| {
            let rows = if statement.query.is_some() { rows.next().unwrap_or_default() } else { Vec::new() };
            rows.into_iter().map(|row| values(*question, row)).collect()
        };
        questions.iter().map(answer).collect()
    }

    /// Runs one question in a command line.
    fn run_one(&self, question: Question, statement: &Statement) -> anyhow::Result<Vec<Vec<Json>>> {
        let all: Vec<&str> =
            statement.before.iter().map(String::as_str).chain(statement.query.as_deref()).collect();
        let sql = all.join(";\n") + ";\n";
        let arguments: &[&str] = match self.kind {
            Kind::Duckdb => &["-batch", "-json", "-no-init", ":memory:"],
            _ => &["local", "--output-format", "JSONEachRow"],
        };
        let text = self.output(arguments, &sql)?;
        let objects: Vec<Json> = if self.kind == Kind::Duckdb {
            // Without rows there is no text, or an array that is not closed.
            if text.trim().len() < 3 { Vec::new() } else { serde_json::from_str(&text)? }
        } else {
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?
        };
        let columns = question.columns();
        let row = |object: &Json| columns.iter().map(|column| object[column.name].clone()).collect();
        Ok(objects.iter().map(row).collect())
    }

    /// The standard output of the program; its standard error is shown if it fails.
    fn output(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Every session is in UTC.
        command.env("TZ", "UTC");
        let name = self.program.display();
        let mut child = command.spawn().with_context(|| format!("{name} can't be run"))?;
        let stdin = child.stdin.take();
        let input = input.to_owned();
        // A client that ends early says why on its standard error.
        let writer = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().with_context(|| format!("{name} can't be waited for"))?;
        let _ = writer.join();
        let said = String::from_utf8_lossy(&output.stderr);
        let skipped = said.chars().count().saturating_sub(MAX_ERROR);
        let said: String = said.chars().skip(skipped).collect();
        ensure!(output.status.success(), "{name} ended with {}: {}", output.status, said.trim());
        String::from_utf8(output.stdout).with_context(|| format!("The output of {name} is no text"))
    }
}

/// The values of a row.
fn values(question: Question, row: Vec<Json>) -> anyhow::Result<Vec<Value>> {
    let columns = question.columns();
    ensure!(row.len() == columns.len(), "the engine answered {} columns, not {}", row.len(), columns.len());
    columns
        .iter()
        .zip(row)
        .map(|(column, value)| {
            let text = value.as_str();
            Ok(match column.column_type {
                _ if value.is_null() => Value::Null,
                ColumnType::Int => {
                    let number = value.as_i64().or_else(|| text.and_then(|text| text.parse().ok()));
                    Value::Int(number.with_context(|| format!("{}: {value} is no number", column.name))?)
                }
                ColumnType::Time => {
                    let time = value.as_i64().or_else(|| text.and_then(micros));
                    Value::Time(time.with_context(|| format!("{}: {value} is no time", column.name))?)
                }
                ColumnType::Text | ColumnType::Day => Value::Text(
                    text.with_context(|| format!("{}: {value} is no text", column.name))?.to_owned(),
                ),
            })
        })
        .collect()
}

/// Microseconds since 1970 of a time that engines write with or without their zone, which is UTC.
fn micros(text: &str) -> Option<i64> {
    let with_zone = || text.parse::<Timestamp>().ok();
    let without = || text.parse::<DateTime>().ok().and_then(|time| TimeZone::UTC.to_timestamp(time).ok());
    // DuckDB writes `2026-11-29 14:05:00+00`.
    with_zone().or_else(without).map(Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_engines_are_read() {
        for text in [
            "2026-11-29 14:05:00.25+00",
            "2026-11-29 14:05:00.250000",
            "2026-11-29T14:05:00.250000+00:00",
            "2026-11-29T14:05:00.25Z",
        ] {
            assert_eq!(micros(text), Some(1_795_961_100_250_000), "{text}");
        }
        assert_eq!(micros("yesterday"), None);
    }

    #[test]
    fn a_row_that_is_no_answer_is_refused() {
        let row = |values: Json| serde_json::from_value(values).unwrap();
        let read = values(Question::Count, row(json!(["2026-11-29", "tun", "7", 2]))).unwrap();
        assert_eq!(read[2..], [Value::Int(7), Value::Int(2)]);
        assert!(values(Question::Count, row(json!(["2026-11-29", "tun", "x", 2]))).is_err());
        assert!(values(Question::Count, row(json!(["2026-11-29"]))).is_err());
    }
}
