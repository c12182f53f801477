//! Chores of this repository: `cargo xtask --help`.

#![forbid(unsafe_code)]

mod agent;
mod apt;
mod auditing;
mod bench;
mod cli;
mod completions;
mod demo;
mod documents;
mod engines;
mod interrupt;
mod kernels;
mod libvirt;
mod licences;
mod man;
mod musl;
mod program;
mod programs;
mod promises;
mod python;
mod suites;
mod vm;
mod wire;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Chore, Cli};

/// The exit status if the chore itself failed, and not the command that it ran; as of env(1) and
/// podman(1).
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => {
            let _ = said.print();
            return if said.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.chore {
        Chore::Vm(arguments) => vm::run(&arguments),
        Chore::Kernels => vm::name_kernels(),
        Chore::RecordLibvirt(arguments) => libvirt::record(&arguments),
        Chore::Scenarios(arguments) => libvirt::play(&arguments),
        Chore::LinuxGuest(arguments) => vm::linux_guest::write(&arguments),
        Chore::Bench(arguments) => bench::cost::run(&arguments),
        Chore::BenchFleet(arguments) => bench::fleet::run(&arguments),
        Chore::BenchLake(arguments) => bench::lake::run(&arguments),
        Chore::BenchReading(arguments) => bench::reading::run(&arguments),
        Chore::BenchVerify(arguments) => bench::verify::run(&arguments),
        Chore::BenchWatch(arguments) => bench::watch::run(&arguments),
        Chore::BenchSignals(arguments) => bench::watch::send_signals(&arguments),
        Chore::Licences(arguments) => licences::write(&arguments),
        Chore::MuslHeaders(arguments) => musl::write_headers(&arguments),
        Chore::Documents(arguments) => documents::write(&arguments),
        Chore::Demo(arguments) => demo::run(&arguments),
        Chore::Engines(arguments) => engines::run(&arguments),
        Chore::Promises(arguments) => promises::run(arguments.check),
        Chore::Man(arguments) => man::write(&arguments),
        Chore::Completions(arguments) => completions::write(&arguments),
        Chore::Agent => agent::run(),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "xtask: {error:#}");
        ExitCode::from(FAILED)
    })
}
