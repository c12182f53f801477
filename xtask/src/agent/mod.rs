//! The virtual machine's first process: mounts a Linux system's file systems, runs the command and
//! reports its exit status.
//!
//! It runs with the host's files under an overlay, as process 1. When it fails the kernel panics,
//! which ends the virtual machine; the error is on the console.

mod command;
mod port;
mod system;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::command::Request;
use crate::wire::{Frames, Kind, send};

/// Runs the command that the host requests; never returns.
pub(crate) fn run() -> Result<ExitCode> {
    ensure!(std::process::id() == 1, "The agent is for the virtual machine that `cargo xtask vm` starts");
    system::mount_all()?;
    let port = port::open().context("The port to the host can't be used")?;
    send(&port, Kind::Hello, &[])?;
    let mut frames = Frames::default();
    let request = Request::read(|| frames.wait(&port))?;
    system::take_modules(&request.modules)?;
    let status = command::run(&request, &port)?;
    send(&port, Kind::Status, &[status])?;
    // The host ends the virtual machine when the status is there.
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}
