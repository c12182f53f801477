//! The command line of taptrail: parses arguments, runs a command, and returns its exit code.
//!
//! `taptrail --help` lists the exit codes. `taptrail run` in the foreground ends with QEMU's own
//! code (128 + N when signal N ended it).

#![forbid(unsafe_code)]

mod adopt;
mod archive;
mod background;
mod check;
mod cli;
mod complete;
mod doctor;
mod events;
mod guest;
mod held_nics;
mod lake;
mod learn;
mod ledger;
mod libvirt_xml;
mod list;
mod live;
mod log;
mod man;
mod output;
mod pager;
mod private_file;
mod qemu_output;
mod queries;
mod reading;
mod recover;
mod run;
mod run_config;
mod schema;
mod serve;
mod stderr;
mod top;
mod unresponsive;
mod verify;
mod watch;

#[cfg(test)]
#[path = "../../../tests/e2e/world/contract.rs"]
mod contract;

use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::cli::{Cli, Command};
use crate::output::Failure;

fn main() -> ExitCode {
    let cli = match cli::watch_arguments(std::env::args_os()) {
        Ok(arguments) => {
            let color = cli::help_color(&arguments);
            let matches = cli::command(color).try_get_matches_from(&arguments);
            let matches = matches.map_err(|error| cli::with_plain_usage(error, color, &arguments));
            matches.and_then(|matches| Cli::from_arg_matches(&matches))
        }
        Err(failure) => return failure.report(),
    };
    let cli = match cli {
        Ok(cli) => cli,
        Err(message) => return output::parsed(&message),
    };
    output::set_look(&cli);
    output::start_log(&cli);
    #[cfg(feature = "failpoints")]
    let _faults = fail::FailScenario::setup();
    let dirs = cli.dirs();
    let done = match cli.command {
        Command::Run(ref arguments) => run::run(&cli, arguments, dirs),
        Command::Check(ref arguments) => check::check(arguments, &dirs),
        Command::Adopt(ref arguments) => adopt::adopt(&cli, arguments, dirs),
        Command::Recover(arguments) => recover::recover(&arguments, dirs),
        Command::Attach(arguments) => guest::attach(&arguments, &dirs),
        Command::Detach(arguments) => guest::detach(&arguments, &dirs),
        Command::SetFilter(arguments) => guest::set_filter(&arguments, &dirs),
        Command::Update(arguments) => guest::update(&arguments, &dirs),
        Command::Stop(arguments) => guest::stop(&arguments, &dirs),
        Command::List(arguments) => list::list(&arguments, &dirs),
        Command::Nics(arguments) => guest::nics(&arguments, &dirs),
        Command::Events(arguments) => events::events(&arguments, &dirs),
        Command::Serve(arguments) => serve::serve(&arguments, &dirs),
        Command::Top(arguments) => top::top(&arguments, &dirs),
        Command::Archive(arguments) => archive::archive(&arguments, &dirs),
        Command::Summary(arguments) => queries::summary(&arguments, &dirs),
        Command::Trail(arguments) => queries::trail(&arguments, &dirs),
        Command::Who(arguments) => queries::who(&arguments, &dirs),
        Command::Guests(arguments) => queries::guests(&arguments, &dirs),
        Command::Explain(arguments) => queries::explain(&arguments, &dirs),
        Command::Ledger(command) => ledger::ledger(&command, &dirs),
        Command::Lake(command) => lake::lake(&command),
        Command::Doctor(ref arguments) => doctor::doctor(arguments, &dirs),
        Command::Schema(ref arguments) => schema::schema(arguments),
        Command::Findings(arguments) => queries::findings(&arguments, &dirs),
        Command::Report(arguments) => queries::report(&arguments, &dirs),
        Command::Verify(arguments) => verify::verify(&arguments, &dirs),
        Command::Watch(arguments) => watch::watch(&arguments, &dirs),
        Command::Complete(arguments) => complete::complete(&arguments),
        Command::LearnAddresses(ref arguments) => learn::learn(arguments),
        Command::Man(arguments) => man::man(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// The result of a command.
type CommandResult = Result<ExitCode, Failure>;
