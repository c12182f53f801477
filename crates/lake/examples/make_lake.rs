//! Writes a lake like that of a fleet of KVM hosts, identical for the same arguments, by the lake's
//! own writer.
//!
//! ```text
//! make_lake URL [--hosts N] [--days N] [--guests N] [--first-day D] [--seed N]
//! ```
//!
//! `--hosts 50`, `--days 10`, `--guests 30` for each host. Standard output gets a JSON object that
//! says where the cases are that questions are about.

#[path = "../tests/fleet/mod.rs"]
mod fleet;

use std::io::{self, Write as _};
use std::process::ExitCode;

use fleet::{Error, Options, write_lake};
use taptrail_lake::Store;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "make_lake: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), Error> {
    let mut options = Options { hosts: 50, days: 10, guests: 30, first_day: "2026-10-01".parse()?, seed: 1 };
    let mut url = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--hosts" => options.hosts = value()?.parse()?,
            "--days" => options.days = value()?.parse()?,
            "--guests" => options.guests = value()?.parse()?,
            "--first-day" => options.first_day = value()?.parse()?,
            "--seed" => options.seed = value()?.parse()?,
            _ => url = Some(word),
        }
    }
    let url = url.ok_or("a URL is needed")?;
    if options.hosts < 8 || options.days < 4 {
        return Err("8 hosts and 4 days are the least".into());
    }
    let truth = write_lake(&Store::open(&url)?.into(), &options)?;
    writeln!(io::stdout(), "{truth:#}")?;
    Ok(())
}
