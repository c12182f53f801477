//! `taptrail-bridge-helper`, for the end-to-end tests: Cargo builds the examples of a package with
//! its tests, and no other package's programs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    taptrail_bridge_helper::main()
}
