//! `taptrail check`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use serde::Serialize;
use taptrail_guest::Dirs;
use taptrail_guest::file::Part;

use crate::CommandResult;
use crate::cli::Check;
use crate::output::{Failure, print, print_json};
use crate::run_config::RunConfig;

pub(crate) fn check(arguments: &Check, dirs: &Dirs) -> CommandResult {
    let all: Vec<_> = arguments.files.iter().map(|path| (path, check_one(path, dirs))).collect();
    let code =
        if all.iter().all(|(_, done)| done.is_ok()) { ExitCode::SUCCESS } else { Failure::INPUT.into() };
    if arguments.output.is_json() {
        print_json(&all.iter().map(|(path, done)| Row::of(path, done)).collect::<Vec<_>>())?;
        return Ok(code);
    }
    for (path, done) in &all {
        match done {
            Ok(_) => {
                print(&format!("{}: ok\n", path.display()))?;
            }
            Err(failure) => {
                failure.report();
            }
        }
    }
    Ok(code)
}

/// The guest's name, when its file can be used.
fn check_one(path: &Path, dirs: &Dirs) -> Result<String, Failure> {
    let config = RunConfig::of_file(path)?;
    let options = config.options(dirs.clone())?;
    // For `run` a program that isn't there is one that does not start.
    if !options.command.program.is_file() {
        let program = options.command.program.display().to_string();
        return Err(config.wrong(Part::Word(0), anyhow!("QEMU {program} is not there")));
    }
    Ok(config.request.name)
}

#[derive(Serialize)]
struct Row<'a> {
    file: &'a PathBuf,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> Row<'a> {
    fn of(file: &'a PathBuf, done: &'a Result<String, Failure>) -> Self {
        Self {
            file,
            ok: done.is_ok(),
            guest: done.as_deref().ok(),
            error: done.as_ref().err().map(Failure::line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[test]
    fn a_row_is_as_its_schema_says() {
        let path = PathBuf::from("web1.toml");
        let (good, bad) = (Ok("web1".to_owned()), Err(Failure::input(anyhow!("it is empty"))));
        let rows = serde_json::to_value([Row::of(&path, &good), Row::of(&path, &bad)]).unwrap();
        contract::assert_valid("check", &rows);
        for (place, changed) in contract::mutations(&rows) {
            assert!(!contract::faults("check", &changed).is_empty(), "{place}");
        }
    }
}
