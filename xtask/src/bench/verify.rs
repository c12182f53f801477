//! `cargo xtask bench-verify`: `taptrail verify` beside many guests, each a paused QEMU with a tap
//! of two queues, against lsof and fuser over the same processes; and what else asks for all of a
//! host's guests, beside many interfaces.

use std::ffi::OsStr;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::timing::{Runs, Samples};
use super::{Place, load, say, table};
use crate::cli::VerifyArguments;
use crate::interrupt;
use crate::programs::{QEMU, need, output_of};

const FUSER: &str = "/usr/bin/fuser";
const LSOF: &str = "/usr/bin/lsof";
/// The peers find the processes that have this file open, and know nothing of interfaces, copies or
/// records.
const NODE: &str = "/dev/net/tun";

const MACHINE: &str = "-machine q35,accel=tcg -m 8 -nodefaults -display none -S";
/// Interfaces of a guest where there are many: a machine has few more places.
const NICS_EACH: u16 = 20;
/// Times verify of this network namespace, in which there are no differences.
const VERIFY: [&str; 5] = ["verify", "--netns", "/proc/self/ns/net", "--ignore-pid", "1"];
const RUNS: Runs = Runs { warm_up: 1, timed: 10, accepts: ExitStatus::success };

/// Measures it all and prints tables.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<ExitCode> {
    super::need_root()?;
    need(&[LSOF, FUSER, QEMU], "lsof psmisc qemu-system-x86 ipxe-qemu")?;
    let place = Place::prepare(&arguments.common)?;
    super::enter_own_network()?;
    super::add_bridge("br0")?;
    let many_guests = Scene { guests: arguments.guests, nics: 1, queues: 2 };
    place.write("verify.json", &many_guests.measure(&place, arguments.rounds)?)?;
    let many_nics = Scene { guests: arguments.nics.div_ceil(NICS_EACH), nics: NICS_EACH, queues: 1 };
    place.write("many-nics.json", &many_nics.measure(&place, arguments.rounds)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Guests, each with so many interfaces of so many queues.
#[derive(Debug)]
struct Scene {
    guests: u16,
    nics: u16,
    queues: u16,
}

impl Scene {
    /// Measures beside these guests, and prints a table; returns the figures.
    fn measure(&self, place: &Place, rounds: usize) -> Result<Value> {
        let before = load()?;
        say(&format!("starting {} guests", self.guests));
        let mut running = Guests { place, scene: self, count: 0 };
        for _ in 0..self.guests {
            running.start_one()?;
        }
        say("looking");
        let seen = all_processes(place)?;
        let listed = output_of(Command::new(LSOF).args(["-nPw", "-F", "f", NODE]))?;
        let is_descriptor = |line: &&str| {
            let number = line.strip_prefix('f');
            number.is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
        };
        let samples = measure(place, rounds)?;

        let devices = seen["devices"].as_array().into_iter().flatten();
        let taps = devices.filter(|one| one["process"].is_object() && one["device"]["kind"] == "tun");
        let counts = json!({
            "guests": self.guests,
            "devices": seen["counts"]["accounted"],
            "descriptors": taps.filter_map(|one| one["device"]["fds"].as_array()).map(Vec::len).sum::<usize>(),
            "descriptors_lsof": listed.lines().filter(is_descriptor).count(),
            "processes": seen["processes"],
            "load": { "before": before, "after": load()? },
        });
        table::print(&format!(
            "{} guests, {} devices, {} descriptors (lsof: {}), {} processes; load {} before, {} after\n",
            self.guests,
            counts["devices"],
            counts["descriptors"],
            counts["descriptors_lsof"],
            counts["processes"],
            counts["load"]["before"],
            counts["load"]["after"]
        ))?;
        let rows = samples.0.iter().map(|(name, times)| (format!("`{name}`"), &times[..]));
        table::of_times(&["Command", "Median, ms", "Least", "Most", "Runs"], rows, 1)?;
        let mut figures = counts;
        figures["results"] = samples.json("command");
        Ok(figures)
    }
}

/// taptrail that reads its own ledger alone.
fn taptrail<A: AsRef<OsStr>>(place: &Place, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = place.taptrail(arguments);
    command.env("TAPTRAIL_AUDIT_LOG", place.path("audit.log"));
    command
}

/// What verify finds on the whole host, where others may hold a tap, too: then it ends with 1.
fn all_processes(place: &Place) -> Result<Value> {
    let mut verify = taptrail(place, ["verify", "--ignore-pid", "1", "--format", "json"]);
    let done = verify.stdin(Stdio::null()).output().context("Can't run taptrail verify")?;
    interrupt::check()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(matches!(done.status.code(), Some(0 | 1)), "taptrail verify: {}: {said}", done.status);
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// The commands take turns, because the machine's speed varies.
fn measure(place: &Place, rounds: usize) -> Result<Samples> {
    let mut lsof = Command::new(LSOF);
    lsof.args(["-nPw", NODE]);
    let mut fuser = Command::new(FUSER);
    fuser.arg(NODE);
    let mut commands = [
        ("taptrail verify", taptrail(place, VERIFY)),
        ("taptrail verify --format json", taptrail(place, [&VERIFY[..], &["--format", "json"]].concat())),
        ("lsof -nPw /dev/net/tun", lsof),
        ("fuser /dev/net/tun", fuser),
        ("taptrail trail --held", taptrail(place, ["trail", "--held"])),
        ("taptrail trail", taptrail(place, ["trail"])),
        ("taptrail list", taptrail(place, ["list"])),
        ("taptrail nics web0", taptrail(place, ["nics", "web0"])),
    ];
    let mut samples = Samples::default();
    for _ in 0..rounds {
        for (name, command) in &mut commands {
            samples.add(name, RUNS.time(command, |_| Ok(()))?);
        }
    }
    Ok(samples)
}

/// The guests, which end with this value.
#[derive(Debug)]
struct Guests<'a> {
    place: &'a Place,
    scene: &'a Scene,
    count: u16,
}

impl Guests<'_> {
    fn start_one(&mut self) -> Result<()> {
        let name = format!("web{}", self.count);
        let mut run = taptrail(self.place, ["-q", "run", "--background", "--name", &name]);
        run.args(["--hotplug-ports", "0"]);
        let Scene { nics, queues, .. } = self.scene;
        for number in (0..*nics).map(|nic| self.count * nics + nic) {
            let [high, low] = number.to_be_bytes();
            let mac = format!("52:54:00:00:{high:02x}:{low:02x}");
            run.args(["--nic", &format!("bridge=br0,mac={mac},queues={queues},vhost=off")]);
        }
        self.count += 1;
        output_of(run.args(["--", QEMU]).args(MACHINE.split(' '))).map(drop)
    }
}

impl Drop for Guests<'_> {
    fn drop(&mut self) {
        for number in 0..self.count {
            let mut stop = taptrail(self.place, ["-q", "stop", &format!("web{number}"), "--force"]);
            let _ = stop.stdin(Stdio::null()).output();
        }
    }
}
