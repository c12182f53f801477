//! Follows an audit log, and prints who holds which device, and who held it.
//!
//! ```text
//! cargo run -p taptrail-source --example follow_log -- /var/log/audit/audit.log
//! 52:54:00:00:32:02 of t32-snap: macvtap1 held since 2026-11-29T00:29:40.107Z (inferred)
//! 52:54:00:00:32:02 of t32-snap: macvtap1 released at 2026-11-29T00:29:47.151Z (inferred)
//! ```
//!
//! It reads the log's rotations first, and then each line as it is written, until it is interrupted.
//! With `--once` it ends when there are no more lines.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use taptrail_source::follow::{Follower, LineDefaults, PollBatch, Source, StartPosition};
use taptrail_trail::{Holding, State, Trail};

fn main() -> Result<(), Box<dyn Error>> {
    match run() {
        // Whoever read the output has seen enough.
        Err(error) if error.downcast_ref().map(io::Error::kind) == Some(io::ErrorKind::BrokenPipe) => Ok(()),
        done => done,
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let once =
        arguments.iter().position(|argument| argument == "--once").map(|at| arguments.remove(at)).is_some();
    let [log] = &arguments[..] else { return Err("usage: follow_log [--once] LOG".into()) };
    let defaults = LineDefaults { host: Arc::from("localhost"), zone: TimeZone::UTC };
    let mut log = Follower::open(Path::new(log), defaults, StartPosition::Rotations, None)?;
    let mut trail = Trail::new();
    let mut printed = BTreeSet::new();
    let mut output = io::stdout().lock();
    loop {
        let mut batch = PollBatch::default();
        log.poll(&mut batch)?;
        for entry in &batch.entries {
            trail.feed(entry);
        }
        // The trail waits a moment for records that belong together, such as a detach and its closes.
        trail.advance(Timestamp::now());
        for holding in trail.drain_ended() {
            printed.remove(&key(&holding));
            line(&mut output, &holding)?;
        }
        let held = trail.held().filter(|holding| holding.state == State::Held);
        for holding in held.filter(|holding| printed.insert(key(holding))) {
            line(&mut output, holding)?;
        }
        output.flush()?;
        if !batch.more {
            if once {
                return Ok(());
            }
            // A program with other work polls `log.poll_fd()` instead.
            std::thread::sleep(log.poll_interval().unwrap_or(Duration::from_millis(100)));
        }
    }
}

/// What makes one holding of others.
fn key(holding: &Holding) -> (String, Option<Timestamp>) {
    (format!("{} {} {:?}", holding.guest.uuid, holding.mac, holding.opened), holding.granted)
}

fn line(output: &mut impl Write, holding: &Holding) -> io::Result<()> {
    let device = holding.device.dev.as_deref().unwrap_or(&holding.device.path);
    let time = |time: Option<Timestamp>| time.map_or("an unknown time".to_owned(), |time| time.to_string());
    let state = match holding.state {
        State::Held => format!("held since {}", time(holding.granted)),
        State::Released => format!("released at {}", time(holding.released)),
        state => state.as_str().to_owned(),
    };
    let (mac, guest, certainty) = (holding.mac, &holding.guest.name, holding.certainty.as_str());
    writeln!(output, "{mac} of {guest}: {device} {state} ({certainty})")
}
