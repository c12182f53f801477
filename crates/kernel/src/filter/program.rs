//! Runs nft.

use super::{FilterError, Nft};
use crate::program::{self, Program, ProgramError};

/// Runs the program with this input; returns what it printed, if it succeeded.
pub(super) fn run(nft: &Nft, args: &[&str], input: &[u8]) -> Result<Vec<u8>, FilterError> {
    let environment = [("LC_ALL", "C")];
    let nft = Program { path: &nft.path, timeout: nft.timeout, environment: &environment, confined: false };
    program::run(&nft, args, input).map_err(|error| match error {
        ProgramError::Start { program, source } => FilterError::Start { program, source },
        ProgramError::Communicate { program, source } => FilterError::Communicate { program, source },
        ProgramError::TimedOut { program, timeout } => FilterError::TimedOut { program, timeout },
        ProgramError::TooMuchOutput { program, limit } => FilterError::TooMuchOutput { program, limit },
        ProgramError::Failed { program, status, stderr } => FilterError::Refused { program, status, stderr },
    })
}
