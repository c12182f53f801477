//! `cargo xtask bench`: the cost of having each open on record.
//!
//! The parts of an attach are measured by criterion, then whole commands beside a bare QEMU. Where
//! auditing may be switched on, all commands are measured a second time with it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::uname;
use serde_json::{Value, json};

use super::criterion::Part;
use super::timing::{Runs, Samples};
use super::{Place, criterion, load, say, table};
use crate::auditing::{self, Auditing};
use crate::cli::CostArguments;
use crate::programs::{QEMU, must, need, output_of};

const GUEST: &str = "bench";
const PORT_NIC: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";
const PLUG_NIC: &str = "bridge=br0,mac=52:54:00:00:00:02,vhost=off";
const PLUG_MAC: &str = "52:54:00:00:00:02";

/// An empty machine whose ports let go of a NIC without a guest system's help.
const MACHINE: &str = "-machine q35,accel=tcg -m 64 -nodefaults -display none -S \
    -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off";

/// The NIC of a QEMU that opens its tap itself.
const OWN_NIC: [&str; 4] = [
    "-netdev",
    "tap,id=n,ifname=bench0,script=no,downscript=no,vhost=off",
    "-device",
    "virtio-net-pci,netdev=n",
];
const OWN_TAP: &str = "ifname=bench0,script=no,downscript=no";

const ATTACHES: Runs = Runs { warm_up: 0, timed: 30, accepts: ExitStatus::success };
const STARTS: Runs = Runs { warm_up: 1, timed: 20, accepts: ExitStatus::success };
/// Attaches before those whose time in the supervisor's log counts.
const WARM_UP_ATTACHES: usize = 5;

/// Measures it all and prints a table.
pub(crate) fn run(arguments: &CostArguments) -> Result<ExitCode> {
    super::need_root()?;
    need(&[QEMU], "qemu-system-x86 ipxe-qemu")?;
    let place = Place::prepare(&arguments.common)?;
    let dir = place.dir.path().to_string_lossy();
    let filesystem = must("/usr/bin/stat", &["--file-system", "--format", "%T", &dir])?;
    ensure!(
        filesystem != "tmpfs",
        "{} is a tmpfs, where a commit costs nothing: set CARGO_TARGET_DIR to a disk",
        place.target.display()
    );
    let before = load()?;
    say("opens and the parts of an attach (criterion)");
    let parts = criterion::measure(&place)?;
    let bare_start = place.example("taptrail-qmp", "bare_start")?;

    say("whole commands");
    super::enter_own_network()?;
    super::add_bridge("br0")?;
    let host = Host { place: &place, bare_start };
    let mut found = Found::default();
    let same = host.same_arguments()?;
    for _ in 0..arguments.rounds {
        host.measure("off", &same, &mut found)?;
        if auditing::is_allowed() {
            let mut auditing = Auditing::lock()?;
            auditing.turn_on()?;
            host.measure("required", &same, &mut found)?;
        }
    }

    place.write("criterion.json", &parts.iter().map(Part::json).collect())?;
    place.write("attach.json", &found.attach.json("name"))?;
    place.write("attach-command.json", &found.command.json("name"))?;
    place.write("start.json", &found.start.json("name"))?;
    let mut machine = this_machine(&place)?;
    machine["filesystem"] = filesystem.into();
    machine["load"] = json!({ "before": before, "after": load()? });
    place.write("machine.json", &machine)?;

    let parts: Vec<_> = parts.iter().map(|part| (part.name.clone(), part.times_ms())).collect();
    let all = [&parts, &found.attach.0, &found.command.0, &found.start.0].into_iter().flatten();
    let rows = all.map(|(name, times)| (name.clone(), &times[..]));
    table::of_times(&["What, in ms", "Median", "Least", "Most", "Samples"], rows, 2)?;
    Ok(ExitCode::SUCCESS)
}

/// What was measured on.
fn this_machine(place: &Place) -> Result<Value> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(key, value)| (key.trim() == name).then(|| value.trim()))
    };
    let release = uname().release().to_string_lossy().into_owned();
    Ok(json!({
        "date": must("/bin/date", &["--utc", "+%F"])?,
        "taptrail": output_of(&mut place.taptrail(["--version"]))?.trim(),
        "qemu": must(QEMU, &["--version"])?.lines().next(),
        "kernel": release.split('-').next(),
        "cpu": field("model name"),
        "cpus": thread::available_parallelism()?,
        "virtual": field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
    }))
}

#[derive(Debug, Default)]
struct Found {
    /// Attaches as the supervisor logs them.
    attach: Samples,
    /// Attaches as whole commands.
    command: Samples,
    start: Samples,
}

/// The host of the measured guests, which end with this value.
#[derive(Debug)]
struct Host<'a> {
    place: &'a Place,
    /// Starts a QEMU, and returns when its monitor answers.
    bare_start: PathBuf,
}

impl Host<'_> {
    /// Measures everything once, with this mode of the kernel's audit.
    fn measure(&self, audit: &str, same: &[OsString], found: &mut Found) -> Result<()> {
        self.measure_attach(audit, found)?;
        self.measure_starts(audit, same, found)
    }

    fn measure_attach(&self, audit: &str, found: &mut Found) -> Result<()> {
        // The supervisor logs each attach.
        output_of(&mut self.run_guest("-v", audit))?;
        let log = self.place.path("run").join(GUEST).join("log");
        for count in [WARM_UP_ATTACHES, ATTACHES.timed] {
            fs::write(&log, "").with_context(|| log.display().to_string())?;
            for _ in 0..count {
                output_of(&mut self.attach())?;
                self.unplug();
            }
        }
        let times = fs::read_to_string(&log)?.lines().filter_map(attach_time).collect();
        found.attach.add(&format!("attach, supervisor, audit {audit}"), times);
        let times = ATTACHES.time(&mut self.attach(), |_| {
            self.unplug();
            Ok(())
        })?;
        found.command.add(&format!("attach, command, audit {audit}"), times);
        self.clear();
        Ok(())
    }

    /// From exec to a QEMU that is ready. Bare QEMU and taptrail take turns in the rounds, because
    /// the machine's speed varies.
    fn measure_starts(&self, audit: &str, same: &[OsString], found: &mut Found) -> Result<()> {
        let mut bare = self.bare_start();
        bare.arg(QEMU).args(MACHINE.split(' ')).args(OWN_NIC);
        let mut with_same_arguments = self.bare_start();
        with_same_arguments.args(same);
        // As a script starts it: it returns when QEMU is ready to be left alone.
        let mut daemonized = Command::new(QEMU);
        daemonized.args(MACHINE.split(' ')).arg("-daemonize");
        daemonized.arg("-pidfile").arg(self.pid_file()).args(OWN_NIC);
        for (name, mut command) in [
            (format!("start, taptrail, audit {audit}"), self.run_guest("-q", audit)),
            ("start, bare QEMU".to_owned(), bare),
            ("start, bare QEMU with taptrail's arguments".to_owned(), with_same_arguments),
            ("start, bare QEMU, -daemonize".to_owned(), daemonized),
        ] {
            let times = STARTS.time(&mut command, |_| {
                self.clear();
                Ok(())
            })?;
            found.start.add(&name, times);
        }
        self.clear();
        Ok(())
    }

    fn run_guest(&self, verbosity: &str, audit: &str) -> Command {
        let words = [verbosity, "run", "--background", "--name", GUEST, "--audit", audit, "--nic", PORT_NIC];
        let mut command = self.place.taptrail(words);
        command.args(["--", QEMU]).args(MACHINE.split(' '));
        command
    }

    fn attach(&self) -> Command {
        self.place.taptrail(["-q", "attach", GUEST, "--nic", PLUG_NIC])
    }

    fn bare_start(&self) -> Command {
        let mut command = Command::new(&self.bare_start);
        command.arg(self.place.path("monitor")).arg(self.pid_file());
        command
    }

    fn pid_file(&self) -> PathBuf {
        self.place.path("pid")
    }

    /// QEMU's words as taptrail starts it, except the monitor, which `bare_start` adds, and with a
    /// tap that QEMU opens itself.
    fn same_arguments(&self) -> Result<Vec<OsString>> {
        output_of(&mut self.run_guest("-q", "off"))?;
        let guests = output_of(&mut self.place.taptrail(["list", "--json"]))?;
        let guests: Value = serde_json::from_str(&guests)?;
        let pid = guests[0]["pid"].as_u64().context("The guest has no QEMU")?;
        let words = without_monitor(&fs::read(format!("/proc/{pid}/cmdline"))?);
        self.clear();
        Ok(words)
    }

    /// The interface goes, if it is there.
    fn unplug(&self) {
        let mut detach = self.place.taptrail(["-q", "detach", GUEST, PLUG_MAC, "--timeout", "10s"]);
        let _ = detach.stdin(Stdio::null()).output();
        rest();
    }

    /// Whatever guest or bare QEMU runs ends.
    fn clear(&self) {
        let mut stop = self.place.taptrail(["-q", "stop", GUEST, "--force"]);
        let _ = stop.stdin(Stdio::null()).output();
        let pid =
            fs::read_to_string(self.pid_file()).ok().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid
            && kill_process(pid, Signal::TERM).is_ok()
        {
            // It is not waited for, so it may stay a zombie for a while, which holds no device.
            let state = format!("/proc/{}/status", pid.as_raw_nonzero());
            while fs::read_to_string(&state).is_ok_and(|text| !text.contains("\nState:\tZ")) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        for name in ["pid", "monitor"] {
            let _ = fs::remove_file(self.place.path(name));
        }
        rest();
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

fn rest() {
    thread::sleep(Duration::from_millis(50));
}

/// The milliseconds of an attach, from a line of the supervisor's log: `… attach took 5.4ms from
/// request to proof`.
fn attach_time(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("attach took ")?;
    let (took, _) = rest.split_once(" from request")?;
    let unit = took.trim_start_matches(|digit: char| digit.is_ascii_digit() || digit == '.');
    let number: f64 = took.strip_suffix(unit)?.parse().ok()?;
    match unit {
        "µs" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        _ => None,
    }
}

/// The words of `/proc/PID/cmdline` without a monitor, and with QEMU's own tap instead of a passed
/// descriptor.
fn without_monitor(cmdline: &[u8]) -> Vec<OsString> {
    let mut words = cmdline.strip_suffix(b"\0").unwrap_or(cmdline).split(|byte| *byte == 0);
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match std::str::from_utf8(word) {
            Ok("-chardev" | "-mon") => drop(words.next()),
            Ok(netdev) if netdev.starts_with("tap,id=") => {
                let parts =
                    netdev.split(',').map(|part| if part.starts_with("fd=") { OWN_TAP } else { part });
                kept.push(parts.collect::<Vec<_>>().join(",").into());
            }
            _ => kept.push(OsStr::from_bytes(word).to_owned()),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_attach_is_read_from_the_log() {
        let line = |took| format!("12:00:00 DEBUG guest: attach took {took} from request to proof");
        assert_eq!(attach_time(&line("5.5ms")), Some(5.5));
        assert_eq!(attach_time(&line("500µs")), Some(0.5));
        assert_eq!(attach_time(&line("1.5s")), Some(1500.0));
        assert_eq!(attach_time(&line("soon")), None);
        assert_eq!(attach_time("another line"), None);
    }

    #[test]
    fn the_same_arguments_have_another_monitor_and_tap() {
        let words =
            b"/usr/bin/qemu\0-chardev\0socket,fd=3\0-mon\0chardev=m\0-netdev\0tap,id=n0,fd=27,vhost=off\0";
        let expected =
            ["/usr/bin/qemu", "-netdev", "tap,id=n0,ifname=bench0,script=no,downscript=no,vhost=off"];
        assert_eq!(without_monitor(words), expected);
    }
}
