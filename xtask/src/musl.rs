//! musl's headers for another machine, by which scripts/static compiles C code for it.
//!
//! Debian's cross compilers have glibc's headers only. Those of musl differ from machine to machine,
//! and are in a package that can be installed on its own machine alone.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::apt::{AMD64, Apt};
use crate::cli::MuslHeadersArguments;

/// The release whose compilers `scripts/setup packages` installs.
const SUITE: &str = "bookworm";
const PACKAGE: &str = "musl-dev";

/// Creates the directory of headers, completely or not at all.
pub(crate) fn write_headers(arguments: &MuslHeadersArguments) -> Result<ExitCode> {
    let MuslHeadersArguments { machine, dir } = arguments;
    if dir.exists() {
        return Ok(ExitCode::SUCCESS);
    }
    let architecture = match machine.as_str() {
        "aarch64" => "arm64",
        "x86_64" => AMD64,
        other => bail!("Debian's name for {other} is not known here: add it to {}", file!()),
    };
    let parent = dir.parent().context("The directory has no name")?;
    fs::create_dir_all(parent).with_context(|| format!("Can't make {}", parent.display()))?;
    // On the same file system, so that it can be renamed.
    let new = tempfile::tempdir_in(parent)?;
    let unpacked = new.path().join("unpacked");
    fs::create_dir(&unpacked)?;
    Apt::update(&new.path().join("apt"), architecture, &[SUITE])
        .and_then(|apt| apt.unpack(PACKAGE, &unpacked))
        .with_context(|| format!("Can't fetch {PACKAGE}:{architecture} of Debian's '{SUITE}'"))?;
    fs::rename(unpacked.join("usr/include").join(format!("{machine}-linux-musl")), dir)
        .with_context(|| format!("Can't make {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
