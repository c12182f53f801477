//! The program; see the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    taptrail_bridge_helper::main()
}
