//! `taptrail lake sql`: questions as SQL, and their answers.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use serde_json::{Value as Json, json};
use taptrail_lake::sql::{
    self, Answer, DeviceIs, Engine, Moment, Objects, Parameters, Question, Statement, Value,
};
use taptrail_lake::{GenerationManifest, LakeError, Snapshot, Store, Table};
use taptrail_report::{
    AnswerValue, DeviceFilter, GuestFilter, answer_object, answer_table, write_answer_csv,
};
use taptrail_trail::Severity;
use tracing::warn;

use super::client::Client;
use crate::CommandResult;
use crate::cli::{AnswerFormat, LakeEngine, LakeSql};
use crate::output::{Failure, page, print, print_json, stdout, style};
use crate::queries::{MAX_HOSTS_NAMED, Query, more_hosts};

/// How long a host must be silent, and how far ahead a clock must be, unless the user says so.
const SILENCE_S: u32 = 3600;
const SKEW_S: u32 = 300;

pub(super) fn sql(arguments: &LakeSql) -> CommandResult {
    let store = super::open(&arguments.url)?;
    let snapshot = Snapshot::existing(&store).map_err(Failure::input)?;
    let Some(generation) = snapshot.generation else {
        return Err(Failure::input(anyhow!(
            "{} has no generation: `taptrail lake compact {0}` makes one",
            store.url()
        )));
    };
    let waiting = snapshot.batches.len();
    if waiting > 0 {
        warn!(
            "{waiting} batches are in no generation, and not in the answer: `taptrail lake compact` adds them"
        );
    }
    let lake =
        Lake { arguments, written: written(&store, &generation).map_err(Failure::input)?, store, generation };
    let questions = lake.questions()?;
    let engine = match arguments.engine {
        LakeEngine::Taptrail if !arguments.run => {
            return Err(Failure::input(anyhow!("taptrail answers without SQL: add --run")));
        }
        LakeEngine::Taptrail => return lake.print(&lake.answer_natively(&questions)?, waiting),
        LakeEngine::Duckdb => Engine::Duckdb,
        LakeEngine::Clickhouse => Engine::Clickhouse,
        LakeEngine::Spark => Engine::Spark,
        LakeEngine::Trino => Engine::Trino,
        LakeEngine::Datafusion => Engine::Datafusion,
    };
    let objects = lake.objects(engine)?;
    let render = |(question, parameters): &(Question, Parameters)| {
        let statement = sql::render(*question, engine, parameters, &objects);
        statement.map(|statement| (*question, statement)).map_err(Failure::input)
    };
    let statements: Vec<(Question, Statement)> = questions.iter().map(render).collect::<Result<_, _>>()?;
    if !arguments.run {
        return print(&text(&statements));
    }
    let client = Client::find(engine, arguments.client.as_deref()).map_err(Failure::input)?;
    let answers = client.run(&statements, arguments.server.as_deref())?;
    let answers: Vec<_> = statements.iter().map(|(question, _)| *question).zip(answers).collect();
    lake.print(&answers, waiting)
}

/// When the store got a generation, by its own clock.
fn written(store: &Store, generation: &GenerationManifest) -> Result<Timestamp, LakeError> {
    let path = generation.generation.manifest();
    let listed = store.list(taptrail_lake::GENERATIONS)?;
    Ok(listed.iter().find(|listed| listed.path == path).map_or_else(Timestamp::now, |listed| listed.arrived))
}

/// The statements of questions, as one script.
fn text(statements: &[(Question, Statement)]) -> String {
    let mut text = String::new();
    let mut done: Vec<&String> = Vec::new();
    for (question, statement) in statements {
        // A setting lasts for the session; a view is replaced by another question's.
        for before in &statement.before {
            if !before.starts_with("SET ") || !done.contains(&before) {
                let _ = writeln!(text, "{before};");
                done.push(before);
            }
        }
        match &statement.query {
            Some(query) => {
                let _ = writeln!(text, "{query};");
            }
            None => {
                let _ = writeln!(
                    text,
                    "-- {question}: no object has rows of {}: there is nothing to ask",
                    question.table()
                );
            }
        }
    }
    text
}

struct Lake<'a> {
    arguments: &'a LakeSql,
    store: Arc<Store>,
    generation: GenerationManifest,
    /// When the store got the generation.
    written: Timestamp,
}

impl Lake<'_> {
    /// The questions with their parameters. An answer about one time is accompanied by the hosts
    /// of which it is not known.
    fn questions(&self) -> Result<Vec<(Question, Parameters)>, Failure> {
        let LakeSql { questions, selection, at, times, severity, longer_than, utc, .. } = self.arguments;
        let mut query = Query::new(*utc);
        query.about(selection);
        query.times(times)?;
        query.at(at.as_deref())?;
        let filter = query.filter;
        let (mut guest, mut uuid) = (None, None);
        match filter.guests.as_slice() {
            [] => {}
            [GuestFilter::Name(name)] => guest = Some(name.clone()),
            [GuestFilter::Uuid(of)] => uuid = Some(*of),
            _ => return Err(Failure::input(anyhow!("one --guest at a time"))),
        }
        let device = filter.device.map(|device| match device {
            DeviceFilter::Kind(kind) => DeviceIs::Kind(kind.to_string()),
            DeviceFilter::Path(path) => DeviceIs::Path(path),
            DeviceFilter::Number(number) => DeviceIs::Number(number.to_string()),
            DeviceFilter::Interface(name) => DeviceIs::Interface(name.to_string()),
        });
        // A range's last microsecond is part of it, its end is not.
        let at = filter.at.map(|at| {
            let (first, end) = (at.from.as_microsecond(), at.to.as_microsecond());
            Moment { first, last: first.max(end.saturating_sub(1)) }
        });
        let severities = severity.map_or_else(Vec::new, |least| {
            Severity::ALL
                .iter()
                .filter(|severity| **severity >= least)
                .map(|severity| severity.as_str())
                .collect()
        });
        let seconds = longer_than.map(|long| u32::try_from(long.as_secs()).unwrap_or(u32::MAX));
        let all = Parameters {
            mac: filter.mac,
            uuid,
            guest,
            host: filter.host,
            device,
            at,
            start: filter.start.map(Timestamp::as_microsecond),
            end: filter.end.map(Timestamp::as_microsecond),
            longer_than: seconds,
            severities,
        };
        let written = self.written.as_microsecond();
        let last_day = self.generation.objects.iter().map(|object| object.day).max();
        let mut asked = Vec::new();
        for question in questions {
            let mut parameters = all.clone();
            match question {
                Question::ClockSkew => {
                    parameters.at.get_or_insert(Moment { first: written, last: written });
                    parameters.longer_than.get_or_insert(SKEW_S);
                }
                Question::SilentHosts => {
                    // Nothing is known of what comes after the generation.
                    let end = last_day.map_or(written, |day| written.min(day.end().as_microsecond()));
                    parameters.end.get_or_insert(end);
                    parameters.longer_than.get_or_insert(SILENCE_S);
                }
                _ => {}
            }
            asked.push((*question, parameters));
        }
        let needs_hosts =
            questions.iter().any(|question| matches!(question, Question::Who | Question::Device));
        if needs_hosts && !questions.contains(&Question::UnknownHosts) {
            asked.push((Question::UnknownHosts, all));
        }
        for (question, parameters) in &asked {
            if let Some(what) = question.lacks(parameters) {
                let option = match what {
                    "a MAC" => "--mac",
                    "a device" => "--device",
                    _ => "--at",
                };
                return Err(Failure::input(anyhow!("The question '{question}' needs {what}: {option}")));
            }
        }
        Ok(asked)
    }

    /// Where the engine finds the generation's objects.
    fn objects(&self, engine: Engine) -> Result<Objects, Failure> {
        let url = self.arguments.engine_url.as_deref().unwrap_or(&self.arguments.url);
        let base = match (engine, url.split_once("://")) {
            // A path, where the engine has no URLs of files.
            (Engine::Duckdb | Engine::Clickhouse, Some(("file", _))) => {
                let path = url::Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
                let path = path.and_then(|path| path.into_os_string().into_string().ok());
                path.with_context(|| format!("'{url}' is no path")).map_err(Failure::input)?
            }
            (Engine::Spark, Some(("s3", rest))) => format!("s3a://{rest}"),
            (Engine::Clickhouse, Some(("az", _))) => {
                return Err(Failure::input(anyhow!(
                    "ClickHouse reads no az:// URL: --engine-url gives it one of HTTP"
                )));
            }
            _ => url.to_owned(),
        };
        let objects = self.generation.objects.iter();
        let mut objects: Vec<(Table, _, _)> =
            objects.map(|object| (object.table, object.day, object.path.clone())).collect();
        objects.sort();
        Ok(Objects { base, objects })
    }

    fn answer_natively(
        &self,
        questions: &[(Question, Parameters)],
    ) -> Result<Vec<(Question, Answer)>, Failure> {
        let answer = |(question, parameters): &(Question, Parameters)| {
            let answer = sql::answer(&self.store, &self.generation.objects, *question, parameters);
            answer.map(|answer| (*question, answer)).map_err(Failure::input)
        };
        questions.iter().map(answer).collect()
    }

    fn print(&self, answers: &[(Question, Answer)], waiting: usize) -> CommandResult {
        let LakeSql { format, json, utc, questions, .. } = self.arguments;
        let format = if *json { AnswerFormat::Json } else { *format };
        let unknown = answers.iter().find(|(question, _)| *question == Question::UnknownHosts);
        let asked = answers.iter().filter(|(question, _)| questions.contains(question));
        let names =
            |question: Question| question.columns().iter().map(|column| column.name).collect::<Vec<_>>();
        let rows = |answer: &Answer| -> Vec<Vec<AnswerValue>> {
            answer.iter().map(|row| row.iter().map(shown).collect()).collect()
        };
        if let Some((_, hosts)) = unknown.filter(|_| !questions.contains(&Question::UnknownHosts)) {
            warn_of_hosts(hosts);
        }
        match format {
            AnswerFormat::Json => {
                let objects = |question: Question, answer: &Answer| -> Vec<Json> {
                    rows(answer).iter().map(|row| answer_object(&names(question), row)).collect()
                };
                let each: Vec<Json> = asked
                    .map(|(question, answer)| {
                        json!({"question": question.as_str(), "columns": names(*question), "rows": objects(*question, answer)})
                    })
                    .collect();
                let unknown = unknown.map(|(question, answer)| objects(*question, answer));
                print_json(&json!({
                    "generation": self.generation.generation,
                    "batches_not_compacted": waiting,
                    "answers": each,
                    "unknown_hosts": unknown,
                }))
            }
            AnswerFormat::Csv => {
                if questions.len() != 1 {
                    return Err(Failure::input(anyhow!("--format csv is for one question at a time")));
                }
                for (question, answer) in asked {
                    let written = write_answer_csv(stdout(), &names(*question), &rows(answer));
                    written.context("Standard output can't be written")?;
                }
                Ok(ExitCode::SUCCESS)
            }
            AnswerFormat::Table => {
                let mut text = String::new();
                for (question, answer) in asked {
                    if questions.len() > 1 {
                        let _ = writeln!(text, "{}{question}", if text.is_empty() { "" } else { "\n" });
                    }
                    text += &answer_table(&names(*question), &rows(answer), &style(*utc));
                }
                page(&text)
            }
        }
    }
}

/// Says of which hosts the answer is not known.
fn warn_of_hosts(hosts: &Answer) {
    for row in hosts.iter().take(MAX_HOSTS_NAMED) {
        if let [Value::Text(host), Value::Text(why), ..] = row.as_slice() {
            let host = taptrail_report::escape_name(host);
            match why.as_str() {
                "no-start" => warn!("Host {host}: a guest may have run since before its records begin"),
                _ => warn!(
                    "Host {host}: what was held is not known: there are no records of all the time asked for"
                ),
            }
        }
    }
    if let Some(more) = more_hosts(hosts.len(), "what was held is not known") {
        warn!("{more}");
    }
}

fn shown(value: &Value) -> AnswerValue {
    match value {
        Value::Null => AnswerValue::None,
        Value::Text(text) => AnswerValue::Text(text.clone()),
        Value::Int(number) => AnswerValue::Number(*number),
        Value::Time(micros) => Timestamp::from_microsecond(*micros)
            .map_or_else(|_| AnswerValue::Number(*micros), AnswerValue::Time),
    }
}
