//! `taptrail-bridge-helper`, a drop-in for QEMU's qemu-bridge-helper: it gives an unprivileged
//! user's QEMU a tap on a bridge, if an ACL allows that bridge, and records each request in the
//! kernel's audit.
//!
//! QEMU starts it as `HELPER --use-vnet --fd=N --br=BRIDGE`, and it answers over descriptor N. It
//! has more rights than its caller, who chose all that it inherits. So, in this order, it
//!
//! 1. becomes its real user, drops all capabilities that it does not need, and replaces what it
//!    inherited ([`taptrail_kernel::process::sanitize_process`]);
//! 2. parses its arguments ([`arguments`]), and closes all descriptors but N and stdio;
//! 3. reads the ACL ([`acl`]) with the caller's own rights to files;
//! 4. opens a tap and makes it a port of the bridge;
//! 5. records who asked for which bridge, and the answer ([`taptrail_record::BridgeOpen`]);
//! 6. has `taptrail watch` look at it, if one listens, which opens an account in the ledger
//!    ([`broker`]);
//! 7. passes the descriptor, which it has no access to before 5 ([`taptrail_kernel::device`]).
//!
//! It does not know for which guest or which interface the tap is, and writes to no ledger itself.
//! It runs no program, and reads no file but the ACL and `/proc`.

#![forbid(unsafe_code)]

pub mod acl;
pub mod arguments;
pub mod broker;
mod caller;
mod record;
mod request;
mod tap;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use taptrail_record::visible;

/// Runs the program: exits with 0 if the descriptor was passed, and with 1 if nothing was.
pub fn main() -> ExitCode {
    match request::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// Prints an error and its sources on stderr, which is QEMU's.
fn report(error: &dyn Error) {
    let mut text = format!("taptrail-bridge-helper: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    // Parts of it may come from outside. A caller without a stderr gets the exit code alone.
    let _ = writeln!(std::io::stderr(), "{}", visible(&text));
}
