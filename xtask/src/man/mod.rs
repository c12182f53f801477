//! `man`: the manual pages. Those of the commands are written by the program itself, from the
//! definition of its command line; the others are made here, from documents.

mod markdown;
mod pages;
#[allow(dead_code, reason = "what the pages of commands alone have")]
#[path = "../../../crates/taptrail/src/man/text.rs"]
mod text;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use self::pages::PAGES;
use crate::cli::ManArguments;
use crate::program;

/// Writes all pages into a directory, below it man1, man5, man7 and man8.
pub(crate) fn write(arguments: &ManArguments) -> Result<ExitCode> {
    let date = date()?;
    std::fs::create_dir_all(&arguments.dir)
        .with_context(|| format!("Directory {} can't be made", arguments.dir.display()))?;
    let program = program::built(arguments.taptrail.as_deref())?;
    let written = program::command(&program).arg("man").args(["--date", &date]).arg(&arguments.dir).status();
    let status = written.with_context(|| format!("{} can't be run", program.display()))?;
    if !status.success() {
        bail!("{} wrote no pages: {status}", program.display());
    }
    let version = env!("CARGO_PKG_VERSION");
    for page in &PAGES {
        let directory = arguments.dir.join(format!("man{}", page.section));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("Directory {} can't be made", directory.display()))?;
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page.document);
        let text = std::fs::read_to_string(&document)
            .with_context(|| format!("{} can't be read", document.display()))?;
        let roff =
            page.roff(&text, version, &date).with_context(|| format!("{} is no page", page.document))?;
        let file = directory.join(format!("{}.{}", page.name, page.section));
        std::fs::write(&file, roff).with_context(|| format!("{} can't be written", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The date of the pages: of SOURCE_DATE_EPOCH, with which two builds are equal, or today.
fn date() -> Result<String> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => {
            let seconds = seconds
                .parse()
                .with_context(|| format!("SOURCE_DATE_EPOCH {seconds} is no number of seconds"))?;
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        }
        Err(_) => SystemTime::now(),
    };
    let time = jiff::Timestamp::try_from(time).context("The time is out of range")?;
    Ok(time.strftime("%Y-%m-%d").to_string())
}
