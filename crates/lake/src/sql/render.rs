//! A question's SQL for one engine.

use taptrail_record::SOCKET_PREFIX;

use super::engine::is_plain;
use super::{DeviceIs, Engine, Moment, Parameters, Question};
use crate::{Day, Micros, Table};

/// Where the objects of a lake's current generation are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// The lake's URL, or directory, as the engine reads it.
    pub base: String,
    /// The objects of each table and day, in the order of their days: their paths below `base`.
    pub objects: Vec<(Table, Day, String)>,
}

/// The statements of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// To be run before, in the same session.
    pub before: Vec<String>,
    /// The question; none if the lake has no row of its table, and thus no answer.
    pub query: Option<String>,
}

/// Why a question has no SQL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// A parameter is missing.
    #[error("the question '{question}' needs {what}")]
    Lacks {
        /// The question.
        question: Question,
        /// The parameter, with its article.
        what: &'static str,
    },
    /// Engines take characters of the URL for a pattern.
    #[error(
        "'{0}' has characters that engines take for a pattern: letters, digits, spaces and ._-/:=+@~ can be used"
    )]
    Pattern(String),
    /// No engine has texts with a NUL.
    #[error("a text has a NUL, which no engine takes")]
    Nul,
}

/// The SQL of a question.
///
/// # Errors
///
/// A parameter is missing, or can't be written in SQL.
pub fn render(
    question: Question,
    engine: Engine,
    parameters: &Parameters,
    objects: &Objects,
) -> Result<Statement, SqlError> {
    if let Some(what) = question.lacks(parameters) {
        return Err(SqlError::Lacks { question, what });
    }
    let texts = [&parameters.guest, &parameters.host];
    if texts
        .into_iter()
        .flatten()
        .chain(parameters.device.as_ref().map(DeviceIs::text))
        .any(|text| text.contains('\0'))
    {
        return Err(SqlError::Nul);
    }
    let table = question.table();
    let of_table = || objects.objects.iter().filter(|(of, ..)| *of == table);
    let chosen = |day: &Day| question.days().has(*day, parameters);
    let mut paths: Vec<(Day, String)> =
        of_table().filter(|(_, day, _)| chosen(day)).map(|(_, day, path)| (*day, path.clone())).collect();
    let is_empty = paths.is_empty();
    if is_empty {
        // A table needs an object for its columns.
        paths.extend(of_table().next().map(|(_, day, path)| (*day, path.clone())));
    }
    let settings = || engine.settings().iter().map(|setting| (*setting).to_owned());
    if paths.is_empty() {
        return Ok(Statement { before: settings().collect(), query: None });
    }
    let base = objects.base.trim_end_matches('/');
    if let Some(odd) =
        [base].into_iter().chain(paths.iter().map(|(_, path)| path.as_str())).find(|path| !is_plain(path))
    {
        return Err(SqlError::Pattern(odd.to_owned()));
    }
    let mut query = question.template().to_owned();
    let mut fill = |name: &str, value: &dyn Fn() -> String| {
        let name = format!("{{{{{name}}}}}");
        if query.contains(&name) {
            query = query.replace(&name, &value());
        }
    };
    // Texts of a user come last: what is in them is not filled in.
    fill(table.as_str(), &|| engine.table(table, base, &paths, is_empty));
    if let Some(at) = parameters.at {
        fill("at_first", &|| engine.time(at.first));
        fill("at_last", &|| engine.time(at.last));
        fill("possibly", &|| engine.possibly_held(at));
    }
    let (start, end) = (parameters.start.unwrap_or(Micros::MIN), parameters.end.unwrap_or(Micros::MAX));
    fill("never", &|| engine.never());
    fill("start", &|| engine.time(start));
    fill("end", &|| engine.time(end));
    fill("longer_than", &|| engine.seconds(parameters.longer_than.unwrap_or(0)));
    fill("overlaps", &|| overlaps(engine, start, end));
    fill("within", &|| format!("time >= {} AND time < {}", engine.time(start), engine.time(end)));
    fill("condition", &|| condition(question, engine, parameters));
    let query = query.trim_end().to_owned() + engine.suffix();
    let before = settings().chain(engine.view(table, base, &paths)).collect();
    Ok(Statement { before, query: Some(query) })
}

/// Whether a holding was in a time range. One whose end no record shows may have been.
fn overlaps(engine: Engine, start: Micros, end: Micros) -> String {
    let possibly = engine.possibly_held(Moment::range(start, end));
    let (start, end, never) = (engine.time(start), engine.time(end), engine.never());
    let ended = format!(
        "CASE WHEN state = 'held' THEN {never} ELSE coalesce(released, last_proof_time, {never}) END"
    );
    // As of `Holding::begun`.
    let began = "coalesce(opened, granted, CASE WHEN state IN ('held', 'released') THEN NULL ELSE first_proof_time END)";
    format!(
        "(greatest({ended}, coalesce({began}, {ended})) >= {start}\n  AND coalesce({began} < {end}, true)\n  OR {possibly})"
    )
}

/// The conditions that each row of the question's table meets.
fn condition(question: Question, engine: Engine, parameters: &Parameters) -> String {
    let Parameters { mac, uuid, guest, host, device, severities, .. } = parameters;
    let text = |text: &str| engine.text(text);
    let mut all = Vec::new();
    if let Some(host) = host {
        all.push(of_host(engine, host));
    }
    if question.table() != Table::Coverage {
        all.extend(mac.map(|mac| format!("mac = {}", text(&mac.to_string()))));
        all.extend(uuid.map(|uuid| format!("uuid = {}", text(&uuid.to_string()))));
        all.extend(guest.as_ref().map(|guest| format!("guest = {}", text(guest))));
        let kind = if question.table() == Table::Findings { "device_kind" } else { "kind" };
        all.extend(device.as_ref().map(|device| match device {
            DeviceIs::Kind(name) => format!("{kind} = {}", text(name)),
            DeviceIs::Path(path) => {
                format!("path IN ({}, {})", text(path), text(&format!("{SOCKET_PREFIX}{path}")))
            }
            DeviceIs::Number(number) => format!("rdev = {}", text(number)),
            // libvirt's records have a macvtap's interface name as its path.
            DeviceIs::Interface(name) => format!("(dev = {0} OR path = {0})", text(name)),
        }));
    }
    if question.table() == Table::Findings && !severities.is_empty() {
        let words: Vec<_> = severities.iter().map(|word| text(word)).collect();
        all.push(format!("severity IN ({})", words.join(", ")));
    }
    if all.is_empty() { "1 = 1".to_owned() } else { all.join(" AND ") }
}

/// A host's name may have its domain, and another's domain is another host: as of
/// [`is_same_host`](taptrail_trail::is_same_host).
fn of_host(engine: Engine, host: &str) -> String {
    let name = engine.text(host);
    match host.split_once('.') {
        Some((short, _)) => format!("host IN ({name}, {})", engine.text(short)),
        None => {
            let start = engine.text(&format!("{host}."));
            // A pattern would need escapes of its own.
            format!("(host = {name} OR {}(host, {start}))", engine.starts_with())
        }
    }
}

impl DeviceIs {
    fn text(&self) -> &String {
        match self {
            Self::Kind(text) | Self::Path(text) | Self::Number(text) | Self::Interface(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Moment;

    fn objects() -> Objects {
        let day = |text: &str| -> Day { text.parse().unwrap() };
        let object = |table: Table, on: &str| {
            (table, day(on), format!("{table}/day={on}/g00000002-0123456789abcdef.parquet"))
        };
        let tables = [Table::Held, Table::Coverage, Table::Findings];
        let of = |table| ["2026-11-28", "2026-11-29", "2026-11-30"].map(|day| object(table, day));
        Objects { base: "/srv/lake".into(), objects: tables.into_iter().flat_map(of).collect() }
    }

    /// All parameters; the guest has this name.
    fn parameters(name: &str) -> Parameters {
        let at: jiff::Timestamp = "2026-11-29T14:05:00Z".parse().unwrap();
        Parameters {
            mac: Some("52:54:00:12:34:56".parse().unwrap()),
            guest: Some(name.into()),
            host: Some(name.into()),
            device: Some(DeviceIs::Path(name.into())),
            at: Some(Moment { first: at.as_microsecond(), last: at.as_microsecond() }),
            severities: vec!["grave"],
            ..Parameters::default()
        }
    }

    #[test]
    fn each_question_has_sql_for_each_engine() {
        for question in Question::ALL {
            for engine in Engine::ALL {
                let statement = render(question, engine, &parameters("web1"), &objects()).unwrap();
                let all = [statement.before.join("\n"), statement.query.unwrap()].join("\n");
                assert!(!all.contains("{{") && !all.contains("}}"), "{question} for {engine:?}: {all}");
                assert!(all.contains("2026-11-29/g00000002-0123456789abcdef.parquet"), "{all}");
            }
        }
    }

    #[test]
    fn a_socket_is_found_by_its_path_as_it_is_on_record() {
        let asked = Parameters { device: Some(DeviceIs::Path("/run/v.sock".into())), ..parameters("x") };
        for engine in Engine::ALL {
            let query = render(Question::Device, engine, &asked, &objects()).unwrap().query.unwrap();
            assert!(query.contains("path IN ('/run/v.sock', 'unix:/run/v.sock')"), "{query}");
        }
    }

    #[test]
    fn only_objects_of_the_days_asked_for_are_read() {
        let paths = |question| {
            let statement = render(question, Engine::Duckdb, &parameters("x"), &objects()).unwrap();
            statement.query.unwrap().matches(".parquet'").count()
        };
        assert_eq!(paths(Question::Device), 1);
        assert_eq!(paths(Question::Who), 3, "the last row of a holding has all of it");
        assert_eq!(paths(Question::ClockSkew), 2);
    }

    /// What is left of SQL without its literals and comments, as each dialect reads them.
    fn without_literals(engine: Engine, sql: &str) -> String {
        let has_escapes = matches!(engine, Engine::Clickhouse | Engine::Spark);
        let (mut left, mut chars) = (String::new(), sql.chars().peekable());
        while let Some(c) = chars.next() {
            if c != '\'' {
                left.push(c);
                continue;
            }
            loop {
                match chars.next().expect("a literal has an end") {
                    '\\' if has_escapes => drop(chars.next()),
                    '\'' if !has_escapes && chars.peek() == Some(&'\'') => drop(chars.next()),
                    '\'' => break,
                    _ => {}
                }
            }
            left.push('L');
        }
        left
    }

    #[test]
    fn a_name_is_never_more_than_a_literal() {
        for name in [
            "'; DROP TABLE held; --",
            "\\' OR 1=1 --",
            "\\",
            "''",
            "${env:HOME}",
            "{{condition}}",
            "{{at_first}}",
            "/* x */ -- y",
            "a\nb\u{1b}\t",
        ] {
            for engine in Engine::ALL {
                for question in Question::ALL {
                    let sql = |name| {
                        render(question, engine, &parameters(name), &objects()).unwrap().query.unwrap()
                    };
                    let (plain, hostile) = (sql("web1"), sql(name));
                    let of = |sql: &str| without_literals(engine, sql.split_once("WITH").unwrap().1);
                    assert_eq!(of(&plain), of(&hostile), "{name} in {question} for {engine:?}");
                    assert!(engine != Engine::Spark || !hostile.contains("${"), "{hostile}");
                }
            }
        }
        let nul = render(Question::Trail, Engine::Duckdb, &parameters("a\0b"), &objects());
        assert_eq!(nul, Err(SqlError::Nul));
    }

    #[test]
    fn a_path_is_no_pattern() {
        for base in ["/srv/{a,b}", "/srv/*", "s3://x/[y]", "/srv/it's"] {
            let objects = Objects { base: base.into(), ..objects() };
            let refused = render(Question::Count, Engine::Clickhouse, &Parameters::default(), &objects);
            assert_eq!(refused, Err(SqlError::Pattern(base.into())));
        }
    }

    #[test]
    fn a_table_without_rows_is_not_asked() {
        let mut objects = objects();
        objects.objects.retain(|(table, ..)| *table != Table::Findings);
        let asked = |objects: &Objects, at: &str| {
            let start = at.parse::<jiff::Timestamp>().unwrap().as_microsecond();
            let parameters = Parameters { start: Some(start), ..Parameters::default() };
            render(Question::Findings, Engine::Duckdb, &parameters, objects).unwrap().query
        };
        assert_eq!(asked(&objects, "2026-11-29T00:00:00Z"), None);
        // On days without rows, another day's object gives the columns, and no row.
        let later = asked(&self::objects(), "2027-01-01T00:00:00Z").unwrap();
        assert!(later.contains("WHERE 1 = 0"), "{later}");
        let lacking = render(Question::Who, Engine::Duckdb, &Parameters::default(), &objects);
        assert!(matches!(lacking, Err(SqlError::Lacks { what: "a time", .. })));
    }
}
