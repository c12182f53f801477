//! Writes an audit log like that of a busy KVM host, identical for the same arguments.
//!
//! ```text
//! make_log BYTES [--mix N] [--guests N] [--seed N] [--stop-in-order] [--pause MS] > audit.log
//! make_log LINES --rate LINES-A-SECOND [--mix N] … >> audit.log
//! ```
//!
//! `--mix 75`: one line in 75 is libvirt's, the others are other records of such a host; `--mix 1`:
//! all lines are libvirt's. `--guests 200`: maximum number of running guests. `--stop-in-order`:
//! start all guests, then stop all in the same order, over and over. `--pause 1000000`: libvirt waits
//! for up to this many milliseconds before each of its actions. `--rate 10000`: write this
//! many lines a second, in steps of 5 ms, stamped with the current time.

#[path = "../benches/host/mod.rs"]
mod host;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use host::{Host, ReadOptions};

fn main() -> ExitCode {
    match run() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "make_log: {error}");
            ExitCode::from(2)
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// The parsed arguments.
struct Arguments {
    /// Bytes, or lines if `rate` is set.
    size: u64,
    rate: Option<u64>,
    options: ReadOptions,
}

/// Interval between two writes if `rate` is set.
const WRITE_INTERVAL: Duration = Duration::from_millis(5);

fn parse_arguments() -> io::Result<Arguments> {
    let (mut options, mut rate) = (ReadOptions::default(), None);
    let mut size = 0;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
            value.ok_or_else(|| io::Error::other(format!("{argument} needs a number")))
        };
        match argument.as_str() {
            "--mix" => options.mix = value()?.max(1),
            "--guests" => options.guests = usize::try_from(value()?.max(1)).unwrap_or(usize::MAX),
            "--seed" => options.seed = value()?,
            "--rate" => rate = Some(value()?.max(1)),
            "--pause" => options.pause = value()?,
            "--stop-in-order" => options.in_order = true,
            bytes => {
                let bad = |_| io::Error::other(format!("'{bytes}' is not a number of bytes"));
                size = bytes.parse().map_err(bad)?;
            }
        }
    }
    if size == 0 {
        return Err(io::Error::other("how many bytes?"));
    }
    Ok(Arguments { size, rate, options })
}

fn run() -> io::Result<()> {
    let Arguments { size, rate, options } = parse_arguments()?;
    let mut host = Host::new(options);
    match rate {
        Some(rate) => at_a_rate(size, rate, &mut host),
        None => at_once(size, &mut host),
    }
}

fn at_a_rate(lines: u64, rate: u64, host: &mut Host) -> io::Result<()> {
    let (begun, mut out) = (Instant::now(), io::stdout().lock());
    let (mut written, mut step) = (0, String::new());
    while written < lines {
        let due = u128::from(rate) * begun.elapsed().as_micros() / 1_000_000;
        let due = u64::try_from(due).unwrap_or(lines).min(lines);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        step.clear();
        for _ in written..due {
            host.line_at(u64::try_from(now.as_millis()).unwrap_or_default(), &mut step);
        }
        out.write_all(step.as_bytes())?;
        written = due;
        thread::sleep(WRITE_INTERVAL);
    }
    Ok(())
}

fn at_once(bytes: u64, host: &mut Host) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let mut written = 0;
    let mut line = String::new();
    while written < bytes {
        line.clear();
        host.line(&mut line);
        out.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    out.flush()
}
