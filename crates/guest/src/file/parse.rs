//! Parses the TOML. By hand, not by serde: the place of each value is needed, and messages of our
//! own.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use taptrail_kernel::process::Limit;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use uuid::Uuid;

use super::error::Fault;
use super::{FileError, FileKey, FileProblem, GuestFile, GuestRequest, TomlError, ValueSpan};
use crate::account::AuditMode;
use crate::run_dir::check_name;
use crate::spec::{NicSpec, SpecError, closest, first_clash, quoted};

/// How many interfaces a file can have: more than any machine of QEMU's can.
pub const NICS_LIMIT: usize = 256;

/// As many as `--hotplug-ports` takes.
const PORTS_LIMIT: u8 = 32;

/// Reads a guest's file; the guest's name is the file's, if the text gives none.
///
/// # Errors
/// The first error in the order of the text; missing keys come last.
pub fn parse(text: &str, path: &Path) -> Result<GuestFile, FileError> {
    let file = path.display().to_string();
    let (request, places) = read(text, path).map_err(|fault| FileError::new(&file, text, fault))?;
    Ok(GuestFile { request, file, text: text.to_owned(), places })
}

fn read(text: &str, path: &Path) -> Result<(GuestRequest, Vec<ValueSpan>), Fault> {
    let table = DeTable::parse(text).map_err(|error| {
        let why = error.message().lines().collect::<Vec<_>>().join(" ");
        Fault::new(error.span().unwrap_or(0..0), FileProblem::Malformed(TomlError(why)))
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut partial = PartialGuest { text, request: defaults(), places: Vec::new() };
    for (word, value) in entries {
        let Ok(key) = word.get_ref().parse::<FileKey>() else {
            return Err(unknown(word.get_ref(), word.span()));
        };
        partial.give(key, value)?;
    }
    partial.finish(path)
}

fn unknown(word: &str, span: Range<usize>) -> Fault {
    let fault = Fault::new(span, FileProblem::UnknownKey(quoted(word)));
    let keys = FileKey::ALL.map(FileKey::as_str);
    match closest(word, keys) {
        Some(meant) => fault.help(format!("did you mean '{meant}'?")),
        None => fault.help(format!("the keys are {}", keys.join(", "))),
    }
}

/// The defaults of `taptrail run`.
fn defaults() -> GuestRequest {
    GuestRequest {
        name: String::new(),
        uuid: None,
        nics: Vec::new(),
        user: None,
        devices: Vec::new(),
        private_dev: true,
        env: Vec::new(),
        limits: Vec::new(),
        audit: AuditMode::Auto,
        allow: Vec::new(),
        revoke_unfiltered: false,
        bpf: false,
        hotplug_ports: 4,
        sandbox: true,
        nft: None,
        stop_timeout: Duration::from_secs(30),
        command: Vec::new(),
    }
}

struct PartialGuest<'t> {
    text: &'t str,
    request: GuestRequest,
    places: Vec<ValueSpan>,
}

/// A text and the place of its value, quotes and all.
type Word<'v> = (&'v str, Range<usize>);

impl PartialGuest<'_> {
    fn give(&mut self, key: FileKey, value: &Spanned<DeValue<'_>>) -> Result<(), Fault> {
        let span = value.span();
        let mut items = Vec::new();
        match key {
            FileKey::Name => {
                let (name, span) = word(key, value)?;
                check_name(name).map_err(|error| Fault::new(span, FileProblem::Name(error)))?;
                self.request.name = name.to_owned();
            }
            FileKey::Uuid => {
                let (uuid, span) = word(key, value)?;
                let parsed = Uuid::try_parse(uuid);
                let uuid = parsed.map_err(|_| Fault::new(span, FileProblem::Uuid(quoted(uuid))))?;
                self.request.uuid = Some(uuid);
            }
            FileKey::User => self.request.user = Some(filled(key, word(key, value)?)?.to_owned()),
            FileKey::PrivateDev => self.request.private_dev = truth(key, value)?,
            FileKey::RevokeUnfiltered => self.request.revoke_unfiltered = truth(key, value)?,
            FileKey::Bpf => self.request.bpf = truth(key, value)?,
            FileKey::Sandbox => self.request.sandbox = truth(key, value)?,
            FileKey::HotplugPorts => self.request.hotplug_ports = number(key, value, PORTS_LIMIT)?,
            FileKey::Audit => self.request.audit = audit(word(key, value)?)?,
            FileKey::Nft => self.request.nft = Some(absolute(key, word(key, value)?)?),
            FileKey::StopTimeout => {
                let (time, span) = word(key, value)?;
                self.request.stop_timeout = crate::duration(time).map_err(|error| Fault::new(span, error))?;
            }
            FileKey::Nics => {
                let words = words(key, value)?;
                if words.len() > NICS_LIMIT {
                    return Err(Fault::new(span, FileProblem::TooMany { key, limit: NICS_LIMIT }));
                }
                for (spec, span) in &words {
                    let parsed = spec.parse::<NicSpec>();
                    self.request.nics.push(parsed.map_err(|error| self.in_spec(spec, span.clone(), error))?);
                }
                items = places(&words);
                if let Some(clash) = first_clash(&self.request.nics) {
                    let fault = Fault::new(items[clash.later].clone(), clash.problem);
                    return Err(fault.beside(items[clash.earlier].clone()));
                }
            }
            FileKey::Devices => {
                let words = words(key, value)?;
                items = places(&words);
                self.request.devices =
                    words.into_iter().map(|word| absolute(key, word)).collect::<Result<_, _>>()?;
            }
            FileKey::Env => {
                let words = words(key, value)?;
                items = places(&words);
                self.request.env = words
                    .into_iter()
                    .map(|word| filled(key, word).map(OsString::from))
                    .collect::<Result<_, _>>()?;
            }
            FileKey::Allow => {
                let words = words(key, value)?;
                items = places(&words);
                self.request.allow = words
                    .into_iter()
                    .map(|word| filled(key, word).map(str::to_owned))
                    .collect::<Result<_, _>>()?;
            }
            FileKey::Limits => {
                let words = words(key, value)?;
                items = places(&words);
                let limit =
                    |(text, span): Word<'_>| text.parse::<Limit>().map_err(|error| Fault::new(span, error));
                self.request.limits = words.into_iter().map(limit).collect::<Result<_, _>>()?;
            }
            FileKey::Command => {
                let words = words(key, value)?;
                items = places(&words);
                let Some(program) = words.first().cloned() else {
                    return Err(Fault::new(span, FileProblem::Empty(key)));
                };
                filled(key, program)?;
                self.request.command = words
                    .into_iter()
                    .map(|word| without_nul(word).map(OsString::from))
                    .collect::<Result<_, _>>()?;
            }
        }
        self.places.push(ValueSpan { key, value: span, items });
        Ok(())
    }

    /// A fault of a SPEC, shown in the file.
    fn in_spec(&self, spec: &str, span: Range<usize>, error: SpecError) -> Fault {
        let help = error.help;
        // Within the quotes the text is the value, unless it has escapes.
        let quote = if self.text[span.clone()].starts_with(['"', '\'']) { 1 } else { 0 };
        let inner = span.start + quote..span.end.saturating_sub(quote).max(span.start + quote);
        let plain = self.text.get(inner.clone()).is_some_and(|inner| inner == spec);
        let place = |within: Range<usize>| inner.start + within.start..inner.start + within.end;
        let mut fault = match plain {
            // The place of an empty value is its quotes.
            true if !spec.is_empty() => Fault::new(place(error.span), *error.problem),
            _ => Fault::new(span, *error.problem),
        };
        if let Some(beside) = error.beside.filter(|_| plain) {
            fault = fault.beside(place(beside));
        }
        match help {
            Some(help) => fault.help(help),
            None => fault,
        }
    }

    fn finish(mut self, path: &Path) -> Result<(GuestRequest, Vec<ValueSpan>), Fault> {
        let end = self.text.len();
        if self.request.name.is_empty() {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let Some(stem) = stem.filter(|stem| check_name(stem).is_ok()) else {
                return Err(Fault::new(0..0, FileProblem::NoName).help("add name = \"…\""));
            };
            self.request.name = stem.to_owned();
        }
        let devices = self.places.iter().find(|place| place.key == FileKey::Devices);
        if let Some(devices) = devices.filter(|place| !self.request.private_dev && !place.items.is_empty()) {
            return Err(Fault::new(devices.value.clone(), FileProblem::DevicesUnused));
        }
        if self.request.command.is_empty() {
            let fault = Fault::new(end..end, FileProblem::NoKey(FileKey::Command));
            return Err(fault.help("add command = [\"qemu-system-x86_64\", \"-m\", \"1G\", …]"));
        }
        Ok((self.request, self.places))
    }
}

fn kind(key: FileKey, value: &Spanned<DeValue<'_>>, needed: &'static str) -> Fault {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Fault::new(value.span(), FileProblem::Kind { key, found, needed })
}

fn word<'v>(key: FileKey, value: &'v Spanned<DeValue<'_>>) -> Result<Word<'v>, Fault> {
    match value.get_ref() {
        DeValue::String(text) => Ok((text, value.span())),
        _ => Err(kind(key, value, "a string")),
    }
}

fn words<'v>(key: FileKey, value: &'v Spanned<DeValue<'_>>) -> Result<Vec<Word<'v>>, Fault> {
    let DeValue::Array(list) = value.get_ref() else { return Err(kind(key, value, "a list of strings")) };
    let item = |item: &'v Spanned<DeValue<'_>>| match item.get_ref() {
        DeValue::String(text) => Ok((text.as_ref(), item.span())),
        _ => Err(kind(key, item, "a list of strings")),
    };
    list.iter().map(item).collect()
}

fn places(words: &[Word<'_>]) -> Vec<Range<usize>> {
    words.iter().map(|(_, span)| span.clone()).collect()
}

fn truth(key: FileKey, value: &Spanned<DeValue<'_>>) -> Result<bool, Fault> {
    match value.get_ref() {
        DeValue::Boolean(truth) => Ok(*truth),
        _ => Err(kind(key, value, "true or false")),
    }
}

fn number(key: FileKey, value: &Spanned<DeValue<'_>>, max: u8) -> Result<u8, Fault> {
    let DeValue::Integer(integer) = value.get_ref() else { return Err(kind(key, value, "a number")) };
    let number = u8::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| *number <= max);
    number.ok_or_else(|| {
        Fault::new(value.span(), FileProblem::Number { key, text: quoted(integer.as_str()), max })
    })
}

fn audit((text, span): Word<'_>) -> Result<AuditMode, Fault> {
    match text {
        "required" => Ok(AuditMode::Required),
        "auto" => Ok(AuditMode::Auto),
        "off" => Ok(AuditMode::Off),
        _ => {
            let choices = vec!["required", "auto", "off"];
            Err(Fault::new(span, FileProblem::Choice { key: FileKey::Audit, text: quoted(text), choices }))
        }
    }
}

fn without_nul((text, span): Word<'_>) -> Result<&str, Fault> {
    if text.contains('\0') { Err(Fault::new(span, FileProblem::Nul)) } else { Ok(text) }
}

fn filled<'v>(key: FileKey, (text, span): Word<'v>) -> Result<&'v str, Fault> {
    if text.is_empty() {
        return Err(Fault::new(span, FileProblem::Empty(key)));
    }
    without_nul((text, span))
}

fn absolute(key: FileKey, word: Word<'_>) -> Result<PathBuf, Fault> {
    let span = word.1.clone();
    let path = PathBuf::from(filled(key, word)?);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Fault::new(span, FileProblem::RelativePath(quoted(&path.display().to_string()))))
}
