//! `taptrail verify`: compares the trail with the devices that processes hold.

mod rows;
mod trail;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use taptrail_guest::Dirs;
use taptrail_kernel::netns::NetNs;
use taptrail_report::{other_hosts_line, unseen_lines, verify_table};
use taptrail_witness::scan::{Scanner, Sources};
use taptrail_witness::verify::{Debouncer, Ignore, Interest, Next, Scope, Verdict, verify as held_against};
use tracing::debug;

use self::trail::Trail;
use crate::CommandResult;
use crate::cli::Verify;
use crate::output::{Failure, page, print_json, style};
use crate::reading::NoTrail;

/// The exit code when there are differences.
const DIFFERS: u8 = 1;

/// Scans that are repeated because something could not be seen, which is often transient, and the
/// pause before each.
const MAX_RETRIES: u32 = 3;
const RETRY_DELAY: Duration = Duration::from_millis(100);

pub(crate) fn verify(arguments: &Verify, dirs: &Dirs) -> CommandResult {
    // Exit code 1 would mean that there are differences.
    run(arguments, dirs).map_err(|failure| failure.with_code(Failure::INPUT))
}

fn run(arguments: &Verify, dirs: &Dirs) -> CommandResult {
    let scope = Scope {
        guests: arguments.guest.clone(),
        pids: arguments.pid.clone(),
        netns: arguments.netns.as_deref().map(namespace).transpose()?,
    };
    let ignore = Ignore::of(&arguments.ignore, &arguments.ignore_pid);
    let mut scanner = Scanner::new(Sources::of_host(&dirs.state));
    let mut trail = Trail::new(arguments, dirs)?;
    let mut settling = Debouncer::new(arguments.settle);
    let mut retries = 0;
    loop {
        let mut scan = scanner.scan().context("/proc can't be read")?;
        scanner.find_hidden_taps(&mut scan);
        // Read after the scan, which decides what part of the trail is kept.
        match trail.read(&Interest::of(&scan)) {
            Err(failure) if failure.is::<NoTrail>() => {
                let account = held_against(&scan, trail.expected(), &ignore);
                let selected: Vec<_> = account.rows.iter().filter(|row| scope.has(row)).collect();
                let held = rows::without_trail(&selected, &scan, arguments);
                show(arguments, &held)?;
                return Err(failure);
            }
            Err(failure) => {
                print_warnings(&unseen_lines(&rows::unseen(&scan, arguments)));
                return Err(failure);
            }
            Ok(()) => {}
        }
        scan.find_connections(&trail.expected().holdings);
        let account = held_against(&scan, trail.expected(), &ignore);
        let selected = || account.rows.iter().filter(|row| scope.has(row));
        let now = Instant::now();
        match settling.look(selected(), now) {
            Next::LookAgain(later) => {
                debug!("Something differs, and may not in a moment: looking again in {later:?}");
                thread::sleep(later);
            }
            // The host interface of a device can't be seen in a process that is just ending,
            // either.
            Next::Report if scan.unseen.places > 0 && retries < MAX_RETRIES => {
                retries += 1;
                thread::sleep(RETRY_DELAY);
            }
            Next::Report => {
                let lasting: Vec<_> = selected().filter(|row| settling.has_lasted(row, now)).collect();
                let in_motion = selected().count() - lasting.len();
                return report(
                    arguments,
                    &trail,
                    &rows::verified(&lasting, in_motion, &scan, arguments, trail.expected()),
                );
            }
        }
    }
}

fn report(arguments: &Verify, trail: &Trail<'_>, verified: &taptrail_report::Verified) -> CommandResult {
    if trail.is_refused() {
        return Ok(trail.print_warnings(arguments.sources.stats));
    }
    show(arguments, verified)?;
    let read = trail.print_warnings(arguments.sources.stats);
    // If the trail was read only in part, the other part may explain a difference.
    if read != ExitCode::SUCCESS {
        return Ok(read);
    }
    // A difference counts, whatever else could not be seen.
    if verified.devices.iter().any(|row| row.text.is_some()) {
        return Ok(ExitCode::from(DIFFERS));
    }
    let unknown = verified.devices.iter().any(|row| row.verdict == Verdict::Unknown.as_str());
    Ok(if unknown || verified.unseen.hides_devices() { ExitCode::from(Failure::INPUT) } else { read })
}

/// Prints the devices, and what could not be seen.
fn show(arguments: &Verify, verified: &taptrail_report::Verified) -> Result<(), Failure> {
    if arguments.output.is_json() {
        print_json(verified)?;
    } else {
        page(&verify_table(verified, &style(false)))?;
    }
    let mut unseen = unseen_lines(&verified.unseen);
    unseen.extend(verified.trail.as_ref().and_then(other_hosts_line));
    print_warnings(&unseen);
    Ok(())
}

fn print_warnings(lines: &[String]) {
    let text: String = lines.iter().flat_map(|line| ["taptrail: ", line, "\n"]).collect();
    // There is no other place to report an error of this.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The inode of a network namespace by its name or path.
fn namespace(named: &Path) -> Result<u64, Failure> {
    let path =
        if named.components().count() > 1 { named.to_owned() } else { Path::new(NetNs::DIR).join(named) };
    let space = NetNs::at(&path).with_context(|| format!("--netns can't be used: {}", path.display()));
    Ok(space.map_err(Failure::input)?.inode())
}
