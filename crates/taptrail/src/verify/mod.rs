//! `taptrail verify`: the trail held against what processes hold.

mod rows;
mod trail;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
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
use crate::Done;
use crate::cli::Verify;
use crate::output::{Failure, print, print_json, style};

/// The exit code when trail and reality differ.
const DIFFERS: u8 = 1;

/// Where `ip netns` keeps namespaces by name.
const NAMED: &str = "/run/netns";

/// How often it is looked again when something can't be seen that may be gone in a moment, and how long that is.
const BLURRED: u32 = 3;
const MOMENT: Duration = Duration::from_millis(100);

pub(crate) fn verify(arguments: &Verify, dirs: &Dirs) -> Done {
    // Whatever failed, it must not pass for a difference.
    look(arguments, dirs).map_err(|failure| failure.with_code(Failure::INPUT))
}

fn look(arguments: &Verify, dirs: &Dirs) -> Done {
    let scope = Scope {
        guests: arguments.guest.clone(),
        pids: arguments.pid.clone(),
        netns: arguments.netns.as_deref().map(namespace).transpose()?,
    };
    let ignore = Ignore::of(&arguments.ignore, &arguments.ignore_pid);
    let mut scanner = Scanner::new(Sources::of_host(&dirs.state));
    let mut trail = Trail::new(arguments, dirs)?;
    let mut settling = Debouncer::new(arguments.settle);
    let mut blurred = 0;
    loop {
        let mut scan = scanner.scan().context("/proc can't be read")?;
        scanner.find_hidden_taps(&mut scan);
        // Read after that, for it says what of a trail is worth keeping.
        if let Err(failure) = trail.read(&Interest::of(&scan)) {
            say(&unseen_lines(&rows::unseen(&scan, arguments)));
            return Err(failure);
        }
        let account = held_against(&scan, trail.told(), &ignore);
        let asked = || account.rows.iter().filter(|row| scope.has(row));
        let now = Instant::now();
        match settling.look(asked(), now) {
            Next::LookAgain(later) => {
                debug!("Something differs, and may not in a moment: looking again in {later:?}");
                thread::sleep(later);
            }
            // Where a device's interface is can't be seen of a process that is just ending, either.
            Next::Report if scan.unseen.places > 0 && blurred < BLURRED => {
                blurred += 1;
                thread::sleep(MOMENT);
            }
            Next::Report => {
                let lasts: Vec<_> = asked().filter(|row| settling.has_lasted(row, now)).collect();
                let in_motion = asked().count() - lasts.len();
                return tell(
                    arguments,
                    &trail,
                    &rows::verified(&lasts, in_motion, &scan, arguments, trail.told()),
                );
            }
        }
    }
}

fn tell(arguments: &Verify, trail: &Trail<'_>, verified: &taptrail_report::Verified) -> Done {
    if trail.is_refused() {
        return Ok(trail.say(arguments.sources.stats));
    }
    if arguments.output.is_json() {
        print_json(verified)?;
    } else {
        print(&verify_table(verified, &style(false)))?;
    }
    let mut unseen = unseen_lines(&verified.unseen);
    unseen.extend(other_hosts_line(&verified.trail));
    say(&unseen);
    let read = trail.say(arguments.sources.stats);
    // Of a trail that was read in part a difference may be what the other part explains.
    if read != ExitCode::SUCCESS {
        return Ok(read);
    }
    // A difference that was seen is one, whatever else could not be seen.
    if verified.devices.iter().any(|row| row.text.is_some()) {
        return Ok(ExitCode::from(DIFFERS));
    }
    let unknown = verified.devices.iter().any(|row| row.verdict == Verdict::Unknown.as_str());
    Ok(if unknown || verified.unseen.hides_devices() { ExitCode::from(Failure::INPUT) } else { read })
}

fn say(lines: &[String]) {
    let text: String = lines.iter().flat_map(|line| ["taptrail: ", line, "\n"]).collect();
    // Nobody is left to tell when this fails.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The inode of a network namespace by its name or path.
fn namespace(named: &Path) -> Result<u64, Failure> {
    let path =
        if named.components().count() > 1 { named.to_owned() } else { PathBuf::from(NAMED).join(named) };
    let space = NetNs::at(&path).with_context(|| format!("--netns can't be used: {}", path.display()));
    Ok(space.map_err(Failure::input)?.inode())
}
