//! `taptrail man`, which is hidden: writes a manual page for each command, from the one definition
//! of the command line. `cargo xtask man` calls it, and adds the pages that are made from
//! documents.
//!
//! It is a command of the program, and no library for xtask: xtask would have to link the whole
//! program then, for each of its chores.

mod notes;
mod page;
mod places;
mod text;

use std::path::Path;

use anyhow::Context as _;
use clap::Command;
use jiff::{Timestamp, tz::TimeZone};

use self::page::Page;
use crate::CommandResult;
use crate::cli::{self, Man};
use crate::output::print;

/// The manual's section for commands.
const SECTION: &str = "man1";

pub(crate) fn man(arguments: &Man) -> CommandResult {
    let directory = arguments.directory.join(SECTION);
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("Directory {} can't be made", directory.display()))?;
    let date = match arguments.date {
        Some(date) => date,
        None => TimeZone::UTC.to_datetime(build_time()?).date(),
    };
    let date = date.to_string();
    let root = cli::built_command(clap::ColorChoice::Never);
    for command in all(&root) {
        write(&directory, &root, &command, &date)?;
    }
    print("")
}

fn write(directory: &Path, root: &Command, command: &Command, date: &str) -> anyhow::Result<()> {
    let page = Page { root, command, date };
    let file = directory.join(format!("{}.1", page.name()));
    std::fs::write(&file, page.roff()).with_context(|| format!("{} can't be written", file.display()))
}

/// The time of SOURCE_DATE_EPOCH, with which two builds are equal, or now.
fn build_time() -> anyhow::Result<Timestamp> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    let Some(seconds) = std::env::var_os(VARIABLE) else { return Ok(Timestamp::now()) };
    let seconds = seconds.to_str().and_then(|seconds| seconds.parse().ok());
    let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.with_context(|| format!("{VARIABLE} is no number of seconds since 1970"))
}

/// The command itself and all that are below it, as they are shown to users.
fn all(root: &Command) -> Vec<Command> {
    let mut found = vec![root.clone()];
    for command in shown(root) {
        found.extend(all(command));
    }
    found
}

/// The commands directly below this one; `help` has no page.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|of| !of.is_hide_set() && of.get_name() != "help")
}
