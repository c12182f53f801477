//! Rows whose columns are not known before: the answers of `lake sql`.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::Style;
use crate::csv::Rows;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Table, cell};
use crate::text::{NONE, escape_name};

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerValue {
    /// None.
    None,
    /// Text, of any origin.
    Text(String),
    /// A number.
    Number(i64),
    /// A time.
    Time(Timestamp),
}

/// An answer as a table for people.
pub fn answer_table(columns: &[&str], rows: &[Vec<AnswerValue>], style: &Style) -> String {
    let header: Vec<String> = columns.iter().map(|name| name.to_uppercase()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = Table::new(style, &header);
    let time = TimeFormat::new(style);
    for row in rows {
        table.row(row.iter().map(|value| match value {
            AnswerValue::None => cell(NONE),
            AnswerValue::Text(text) => cell(escape_name(text)),
            AnswerValue::Number(number) => cell(number.to_string()).aligned_right(),
            AnswerValue::Time(at) => cell(time.full(*at)),
        }));
    }
    table.folded(style).text()
}

/// An answer as CSV (RFC 4180), as holdings are written.
///
/// # Errors
///
/// `out` can't be written to.
pub fn write_answer_csv(out: impl Write, columns: &[&str], rows: &[Vec<AnswerValue>]) -> io::Result<()> {
    let mut written = Rows::new(out, columns)?;
    for row in rows {
        for value in row {
            match value {
                AnswerValue::None => written.word("")?,
                AnswerValue::Text(text) => written.outside(text)?,
                AnswerValue::Number(number) => written.value(Some(number))?,
                AnswerValue::Time(time) => written.time(Some(*time))?,
            }
        }
        written.end()?;
    }
    written.flush()
}

/// A row as a JSON object, with times to the microsecond.
pub fn answer_object(columns: &[&str], row: &[AnswerValue]) -> Value {
    let member = |(name, value): (&&str, &AnswerValue)| {
        let value = match value {
            AnswerValue::None => Value::Null,
            AnswerValue::Text(text) => Value::from(text.as_str()),
            AnswerValue::Number(number) => Value::from(*number),
            AnswerValue::Time(time) => Value::from(format!("{time:.6}")),
        };
        ((*name).to_owned(), value)
    };
    Value::Object(columns.iter().zip(row).map(member).collect::<Map<_, _>>())
}
