//! Makes an audit log like those of a busy KVM host, the same for the same arguments.
//!
//! ```text
//! make_log BYTES [--mix N] [--guests N] [--seed N] [--stop-in-order] > audit.log
//! ```
//!
//! `--mix 75`: one line in 75 is libvirt's, the others are what else such a host logs; `--mix 1`: all
//! are. `--guests 200`: how many guests are alive at once. `--stop-in-order`: all guests start, then all
//! stop in that order, over and over.

#[path = "../benches/host/mod.rs"]
mod host;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use host::{Host, Options};

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

fn options() -> io::Result<(u64, Options)> {
    let mut options = Options::default();
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
    Ok((size, options))
}

fn run() -> io::Result<()> {
    let (bytes, options) = options()?;
    let mut host = Host::new(options);
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
