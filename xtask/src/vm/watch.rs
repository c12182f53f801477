//! Waits for the command's exit status, from the boot on, and handles everything that may happen
//! before.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::console::Console;
use super::qemu::Qemu;
use super::signals::Signals;
use crate::wire::{Frames, Kind, send};

/// The time limit of the boot: a multiple of its time on a slow and busy machine.
const BOOT: Duration = Duration::from_secs(180);

/// The request, and how to execute it.
#[derive(Debug)]
pub(super) struct Order {
    /// The frames of the request.
    pub(super) frames: Vec<(Kind, OsString)>,
    pub(super) timeout: Duration,
    /// Whether the console is shown meanwhile.
    pub(super) show_console: bool,
}

/// How the virtual machine ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The command's own status.
    Status(u8),
    /// The command timed out.
    TimedOut,
    /// This signal interrupted the program.
    Signal(u8),
}

/// Waits for the virtual machine, has it run the command and passes its output on. The console is
/// the caller's, to show it when this fails, and so is the place for standard output.
pub(super) fn watch(
    qemu: &mut Qemu,
    order: &Order,
    signals: &Signals,
    console: &mut Console,
    stdout: &mut dyn Write,
) -> Result<End> {
    let mut frames = Frames::default();
    let mut running = false;
    let mut deadline = Instant::now() + BOOT;
    loop {
        let [signal, port, screen] =
            ready([signals.as_fd(), qemu.port.as_fd(), qemu.console.as_fd()], deadline)?;
        if signal && let Some(number) = signals.came()? {
            return Ok(End::Signal(number));
        }
        let mut open = true;
        if screen {
            let bytes = read(&mut qemu.console)?;
            open = !bytes.is_empty();
            console.push(&bytes);
            if order.show_console {
                io::stderr().write_all(&bytes)?;
            }
        }
        if port {
            let bytes = read(&mut qemu.port)?;
            frames.push(&bytes);
            open &= !bytes.is_empty();
        }
        while let Some(frame) = frames.next()? {
            match frame.kind {
                Kind::Hello if !running => {
                    running = true;
                    deadline = Instant::now() + order.timeout;
                    for (kind, bytes) in &order.frames {
                        send(&qemu.port, *kind, bytes.as_bytes())?;
                    }
                }
                Kind::Stdout => pass(&mut *stdout, &frame.bytes)?,
                Kind::Stderr => pass(io::stderr(), &frame.bytes)?,
                Kind::Status => {
                    let [status] = frame.bytes[..] else { bail!("The virtual machine sent no status") };
                    return Ok(End::Status(status));
                }
                other => bail!("The virtual machine was not expected to say {other:?}"),
            }
        }
        if !open {
            drain(&mut qemu.console, console);
            bail!(
                "The virtual machine ended {}",
                if running { "before the command did" } else { "at its boot" }
            );
        }
        if !(signal || port || screen) && Instant::now() >= deadline {
            if running {
                return Ok(End::TimedOut);
            }
            bail!("The virtual machine did not boot within {} s", BOOT.as_secs());
        }
    }
}

/// Waits until a descriptor is readable, or until the timeout; returns which are readable.
fn ready<const N: usize>(fds: [std::os::fd::BorrowedFd<'_>; N], deadline: Instant) -> Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
    match poll(&mut polled, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(polled.map(|fd| !fd.revents().is_empty())),
        Err(error) => Err(error.into()),
    }
}

/// What is there to read; nothing at the end.
fn read(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 64 * 1024];
    let count = match from.read(&mut buffer) {
        // QEMU was killed before it read all bytes.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
        count => count?,
    };
    buffer.truncate(count);
    Ok(buffer)
}

/// The remaining output of an ended QEMU.
fn drain(from: &mut impl Read, console: &mut Console) {
    while let Ok(bytes) = read(from) {
        if bytes.is_empty() {
            break;
        }
        console.push(&bytes);
    }
}

fn pass(mut to: impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).context("Can't pass the command's output on")
}
