//! `cargo xtask bench-watch`: the cost of following another manager's log.
//!
//! A log is written at a rate, as it would be now, and watched beside `tail -F | grep`, which only
//! finds the lines. Real QEMUs with a tap each are watched at rest. Where auditing may be switched
//! on, the kernel's own broadcast is followed, too.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::table::rounded;
use super::timing::{Runs, Samples};
use super::watcher::{Watcher, number, spent};
use super::{Place, load, say, table};
use crate::auditing::{self, Auditing};
use crate::cli::{SignalsArguments, WatchArguments};
use crate::interrupt;
use crate::programs::{AUDITCTL, Background, IP, QEMU, must, need, run as run_program, wait_for};

const GREP: &str = "/usr/bin/grep";
const TAIL: &str = "/usr/bin/tail";
const WC: &str = "/usr/bin/wc";

/// The hidden chore of the process whose signals are audited.
pub(crate) const SIGNALS: &str = "bench-signals";

/// Lines a second.
const RATE: u64 = 10_000;
/// One line in so many is libvirt's.
const MIXES: [u64; 3] = [75, 10, 1];
const CATCH_UP: Runs = Runs { warm_up: 1, timed: 5, accepts: ExitStatus::success };

/// Measures it all and prints tables.
pub(crate) fn run(arguments: &WatchArguments) -> Result<ExitCode> {
    super::need_root()?;
    need(&[AUDITCTL, QEMU], "auditd qemu-system-x86")?;
    let place = Place::prepare(&arguments.common)?;
    let make_log = place.example("taptrail-source", "make_log")?;
    let load = load()?;
    super::enter_own_network()?;
    let mut bursts = Vec::new();
    for mix in MIXES {
        say(&format!("{RATE} lines a second for {} s, one in {mix} libvirt's", arguments.seconds));
        bursts.push(burst(&place, &make_log, mix, arguments.seconds)?);
    }
    say("at rest");
    let rest = [0, arguments.guests].map(|guests| at_rest(&place, guests, arguments.rest));
    let rest = rest.into_iter().collect::<Result<Vec<_>>>()?;
    say("catching up");
    let catching_up = catch_up(&place, &make_log)?;
    let mut broadcasts = Vec::new();
    if auditing::is_allowed() {
        say("the kernel's broadcast");
        broadcasts.push(broadcast(&place, arguments.seconds)?);
    }
    let figures = json!({
        "load": load,
        "bursts": bursts,
        "rest": rest,
        "broadcast": broadcasts,
        "catching_up": catching_up.json("command"),
    });
    place.write("watch.json", &figures)?;
    print(&figures, &catching_up)?;
    Ok(ExitCode::SUCCESS)
}

/// A log that grows, and its watcher.
fn burst(place: &Place, make_log: &Path, mix: u64, seconds: u64) -> Result<Value> {
    let dir = place.path("burst");
    fs::create_dir(&dir)?;
    let log = dir.join("audit.log");
    File::create(&log)?;
    let mut watcher = Watcher::start(place, &dir.join("state"), [OsStr::new("--log"), log.as_os_str()])?;
    let mut tail = Command::new(TAIL);
    tail.args(["-F", "-n", "+1"]).arg(&log).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut tail = Background::start(&mut tail)?;
    let lines = tail.child().stdout.take().context("tail has no output")?;
    let mut grep = Command::new(GREP);
    let grep = Background::start(
        grep.args(["--line-buffered", "VIRT_"]).stdin(lines).stdout(Stdio::null()).stderr(Stdio::null()),
    )?;
    let peers = || Ok::<_, anyhow::Error>(spent(tail.id())? + spent(grep.id())?);

    watcher.begin()?;
    let peers_before = peers()?;
    let lines = RATE * seconds;
    let words = [lines, RATE, mix].map(|number| number.to_string());
    let status = Command::new(make_log)
        .args([&words[0], "--rate", &words[1], "--mix", &words[2]])
        .stdin(Stdio::null())
        .stdout(File::options().append(true).open(&log)?)
        .status()
        .context("Can't run make_log")?;
    let written = Instant::now();
    interrupt::check()?;
    ensure!(status.success(), "make_log: {status}");
    while number("taptrail_log_lines_total ")? != lines || number("taptrail_log_lag_bytes ")? != 0 {
        ensure!(written.elapsed() < Duration::from_secs(60), "The log is not read to its end");
        interrupt::sleep(Duration::from_millis(10))?;
    }
    let behind = written.elapsed();
    let (cpu, peer) = (watcher.spent()?, peers()? - peers_before);
    // Of milliseconds in some seconds, in per cent.
    let per_cent = |milliseconds: f64| milliseconds / Duration::from_secs(seconds).as_secs_f64() / 10.0;
    let figures = json!({
        "mix": mix,
        "rate": RATE,
        "seconds": seconds,
        "bytes": fs::metadata(&log)?.len(),
        "behind_ms": u64::try_from(behind.as_millis())?,
        "cpu_ms": cpu,
        "cpu_percent": per_cent(cpu),
        "peer_cpu_ms": peer,
        "peer_percent": per_cent(peer),
        "mib": watcher.memory("VmHWM")?,
        "held": number("taptrail_holdings{")?,
        "commits": number("taptrail_commits_total{outcome=\"success\"}")?,
    });
    drop((watcher, tail, grep));
    fs::remove_dir_all(&dir)?;
    Ok(figures)
}

/// Guests that do nothing.
fn at_rest(place: &Place, guests: u8, seconds: u64) -> Result<Value> {
    let dir = place.path("rest");
    fs::create_dir(&dir)?;
    let log = dir.join("audit.log");
    let mut records = File::create(&log)?;
    let mut running = Vec::new();
    for number in 1..=guests {
        running.push(start_guest(number, &mut records)?);
    }
    let mut watcher = Watcher::start(place, &dir.join("state"), [OsStr::new("--log"), log.as_os_str()])?;
    // What came with the start is done by then.
    interrupt::sleep(Duration::from_secs(10))?;
    ensure!(number("taptrail_holdings{")? == u64::from(guests), "Not all QEMUs are watched");
    interrupt::sleep(Duration::from_secs(1))?;
    watcher.begin()?;
    let wakeups = watcher.wakeups()?;
    interrupt::sleep(Duration::from_secs(seconds))?;
    let figures = json!({
        "guests": guests,
        "seconds": seconds,
        "cpu_ms": watcher.spent()?,
        "wakeups": watcher.wakeups()? - wakeups,
        "mib": watcher.memory("VmRSS")?,
    });
    drop((watcher, running));
    fs::remove_dir_all(&dir)?;
    Ok(figures)
}

/// Starts a QEMU with a tap, and writes libvirt's records of it.
fn start_guest(number: u8, log: &mut File) -> Result<Background> {
    let uuid = format!("7a7a0000-0000-4000-8000-{number:012x}");
    let (mac, tap) = (format!("54:00:0a:0e:{number:02x}"), format!("bench{number}"));
    let mut qemu = Command::new(QEMU);
    qemu.args(["-machine", "none", "-nodefaults", "-display", "none", "-name", &format!("g{number}")])
        .args(["-uuid", &uuid, "-netdev"])
        .arg(format!("tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let qemu = Background::start(&mut qemu)?;
    wait_for("a guest's tap", || Ok(run_program(IP, &["link", "show", &tap])?.status == 0))?;
    // libvirt gives a tap its guest's MAC, with another first byte.
    must(IP, &["link", "set", &tap, "address", &format!("fe:{mac}")])?;

    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let (seconds, milliseconds, serial) = (now.as_secs(), now.subsec_millis(), 3 * u64::from(number));
    let begin = format!(
        "msg=audit({seconds}.{milliseconds:03}:{serial}): pid=812 uid=0 auid=4294967295 ses=4294967295 msg='virt=kvm"
    );
    let of = format!("vm=\"g{number}\" uuid={uuid}");
    let end = "exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'";
    writeln!(
        log,
        "type=VIRT_RESOURCE {begin} resrc=net reason=open {of} net=52:{mac} path=\"/dev/net/tun\" rdev=0A:C8 {end}\n\
         type=VIRT_RESOURCE {begin} resrc=net reason=start {of} old-net=\"?\" new-net=\"52:{mac}\" {end}\n\
         type=VIRT_CONTROL {begin} op=start reason=booted {of} vm-pid={} {end}",
        qemu.id()
    )?;
    Ok(qemu)
}

/// A log that is already there.
fn catch_up(place: &Place, make_log: &Path) -> Result<Samples> {
    let log = place.path("million");
    let made = Command::new(make_log)
        .args(["1000000", "--rate", "1000000000", "--mix", "75"])
        .stdin(Stdio::null())
        .stdout(File::create(&log)?)
        .status();
    let made = made.context("Can't run make_log")?;
    ensure!(made.success(), "make_log: {made}");
    let state = place.path("catching-up");
    let mut watch = place.taptrail(["watch", "--stdin", "--silent"]);
    watch.arg("--state-dir").arg(&state).arg("--run-dir").arg(&state);
    let mut samples = Samples::default();
    let times = CATCH_UP.time(&mut watch, |command| {
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        command.stdin(File::open(&log)?);
        Ok(())
    })?;
    samples.add("taptrail watch --stdin", times);
    let mut trail = place.taptrail(["trail", "--held"]);
    samples.add("taptrail trail --held", CATCH_UP.time(trail.arg(&log), |_| Ok(()))?);
    samples.add("wc -l", CATCH_UP.time(Command::new(WC).arg("-l").arg(&log), |_| Ok(()))?);
    fs::remove_file(&log)?;
    Ok(samples)
}

/// Each kill(2) of one process is an event of four records, of which SYSCALL is received because it
/// may be used.
fn broadcast(place: &Place, seconds: u64) -> Result<Value> {
    let mut auditing = Auditing::lock()?;
    auditing.turn_on()?;
    let mut watcher = Watcher::start(place, &place.path("broadcast"), ["--kernel"])?;
    let mut killer = Command::new(std::env::current_exe()?);
    killer.args([SIGNALS, &(RATE * seconds / SIGNALS_AT_ONCE).to_string()]).stdin(Stdio::piped());
    let mut killer = Background::start(&mut killer)?;
    let pid = format!("pid={}", killer.id());
    auditing.rule(&["exit,always", "-F", "arch=b64", "-S", "kill", "-F", &pid])?;
    watcher.begin()?;
    let begun = Instant::now();
    killer.child().stdin.take().context("The process has no input")?.write_all(b"\n")?;
    let status = killer.child().wait()?;
    let took = begun.elapsed();
    ensure!(status.success(), "The process with the signals: {status}");
    interrupt::sleep(Duration::from_secs(1))?;
    Ok(json!({
        "seconds": took.as_secs_f64(),
        "lines": number("taptrail_log_lines_total ")?,
        "lost": number("taptrail_records_lost_total ")?,
        "gaps": number("taptrail_log_gaps_total ")?,
        "cpu_ms": watcher.spent()?,
        "mib": watcher.memory("VmHWM")?,
    }))
}

const SIGNALS_AT_ONCE: u64 = 100;

/// Waits for a line, and sends itself no signal, over and over: only kill(2) is of interest.
pub(crate) fn send_signals(arguments: &SignalsArguments) -> Result<ExitCode> {
    std::io::stdin().lock().read_line(&mut String::new())?;
    for _ in 0..arguments.rounds {
        for _ in 0..SIGNALS_AT_ONCE {
            rustix::process::test_kill_process(rustix::process::getpid())?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(ExitCode::SUCCESS)
}

fn print(figures: &Value, catching_up: &Samples) -> Result<()> {
    let number = |of: &Value, key: &str| rounded(of[key].as_f64().unwrap_or_default(), 1);
    let list = |key: &str| figures[key].as_array().cloned().unwrap_or_default();
    let bursts = list("bursts");
    let title = format!("10,000 lines a second for {} s", bursts[0]["seconds"]);
    table::head(&[
        &title,
        "Of one core",
        "`tail -F`, `grep`",
        "Behind at the end, ms",
        "Memory, MiB",
        "Devices held",
        "Commits",
    ])?;
    for one in &bursts {
        table::row([
            format!("one in {} libvirt's", one["mix"]),
            format!("{} %", number(one, "cpu_percent")),
            format!("{} %", number(one, "peer_percent")),
            number(one, "behind_ms"),
            number(one, "mib"),
            number(one, "held"),
            number(one, "commits"),
        ])?;
    }
    let rest = list("rest");
    table::print("")?;
    let title = format!("At rest, {} s", rest[0]["seconds"]);
    table::head(&[&title, "Processor, ms", "Wake-ups", "Memory, MiB"])?;
    for one in &rest {
        let guests = format!("{} QEMUs", one["guests"]);
        table::row([guests, number(one, "cpu_ms"), number(one, "wakeups"), number(one, "mib")])?;
    }
    table::print("")?;
    let rows = catching_up.0.iter().map(|(name, times)| (format!("`{name}`"), &times[..]));
    table::of_times(&["Catching up", "Median, ms", "Least", "Most"], rows, 1)?;
    for one in list("broadcast") {
        table::print(&format!(
            "\nThe kernel's broadcast: {} events in {} s, {} lost, {} ms of a processor",
            one["lines"],
            number(&one, "seconds"),
            one["lost"],
            number(&one, "cpu_ms")
        ))?;
    }
    Ok(())
}
