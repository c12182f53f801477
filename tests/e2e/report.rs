//! `taptrail report`: files, and the page in a real browser.

pub(crate) mod browser;
mod page;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const HOTPLUG: &str = "libvirt-9.0/06-hotplug";

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

fn log(folder: &str) -> PathBuf {
    data().join("libvirt").join(folder).join("audit.log").canonicalize().unwrap()
}

fn taptrail() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.env("TZ", "UTC").env_remove("TAPTRAIL_LOG");
    command
}

fn report(to: &Path, logs: &[PathBuf], more: &[&str]) -> Output {
    taptrail().arg("report").arg("-o").arg(to).args(more).args(logs).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The data of a page.
fn embedded(page: &str) -> Value {
    let begin = "<script type=\"application/json\" id=\"data\">";
    let data = page.split_once(begin).unwrap().1.split_once("</script>").unwrap().0;
    serde_json::from_str(data).unwrap()
}

/// An event of libvirt's about an interface, as auditd writes it.
fn record(second: u64, serial: u64, name: &str, guest: u64, what: &str) -> String {
    // As libvirt: in hex, unless it is plain.
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let vm = if plain {
        format!("\"{name}\"")
    } else {
        name.bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02X}");
            hex
        })
    };
    format!(
        "type=VIRT_RESOURCE msg=audit({second}.000:{serial}): pid=900 uid=0 auid=4294967295 ses=4294967295 \
         msg='virt=kvm resrc=net {what} vm={vm} uuid=00000000-0000-4000-8000-{guest:012} \
         exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success'\n"
    )
}

fn open(mac: &str) -> String {
    format!("reason=open net={mac} path=\"/dev/net/tun\" rdev=0A:C8")
}

fn attach(mac: &str) -> String {
    format!("reason=attach old-net=\"?\" new-net=\"{mac}\"")
}

fn detach(mac: &str) -> String {
    format!("reason=detach old-net=\"{mac}\" new-net=\"?\"")
}

#[test]
fn the_file_is_complete_private_and_names_its_inputs() {
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("report.html");
    let written = report(&target, &[log(HOTPLUG)], &["--utc"]);
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    assert!(written.stdout.is_empty());
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let page = fs::read_to_string(&target).unwrap();
    let evidence = &embedded(&page)["evidence"];
    let sum = Command::new("sha256sum").arg(log(HOTPLUG)).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let file = &evidence["files"][0];
    assert_eq!(file["sha256"].as_str().unwrap(), sum.split_once(' ').unwrap().0);
    assert_eq!(file["bytes"].as_u64().unwrap(), fs::metadata(log(HOTPLUG)).unwrap().len());
    assert_eq!(file["changed"], false);
    let command = evidence["command"].as_str().unwrap();
    assert!(command.contains("report -o") && command.ends_with("06-hotplug/audit.log"), "{command}");
    assert_eq!(evidence["program"], format!("taptrail {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn standard_output_has_the_same_as_a_file_and_standard_input_has_no_hash() {
    let mut command = taptrail();
    command.args(["report", "-o", "-", "--utc", "-"]).stdin(fs::File::open(log(HOTPLUG)).unwrap());
    let written = command.output().unwrap();
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    let all = embedded(&String::from_utf8(written.stdout.clone()).unwrap());
    let file = &all["evidence"]["files"][0];
    assert!(file["sha256"].is_null() && file["why"].as_str().unwrap().contains("standard input"), "{file}");
    let left_out = all["evidence"]["left_out"][0].as_str().unwrap();
    assert!(left_out.contains("can't be read again") && stderr(&written).contains(left_out), "{left_out}");
    // One interface from the start, and one that is plugged five times.
    assert_eq!(all["counts"]["held"], 6);
    // A reader who has gone has read enough.
    let mut command = taptrail();
    command.args(["report", "-o", "-"]).arg(log(HOTPLUG)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_input_is_never_overwritten_and_a_failure_leaves_no_file() {
    let directory = TempDir::new().unwrap();
    let input = directory.path().join("audit.log");
    fs::copy(log(HOTPLUG), &input).unwrap();
    let before = fs::read(&input).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&input, &link).unwrap();
    let hard = directory.path().join("hard");
    fs::hard_link(&input, &hard).unwrap();
    for target in [&input, &link, &hard] {
        for logs in [[input.clone()], [directory.path().to_owned()]] {
            let refused = report(target, &logs, &[]);
            assert_eq!(refused.status.code(), Some(2));
            assert!(stderr(&refused).contains("is an input"), "{}", stderr(&refused));
        }
    }
    assert_eq!(fs::read(&input).unwrap(), before);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    // A ledger's log of transactions is part of it.
    let beside = directory.path().join("audit.log-wal");
    fs::write(&beside, "kept").unwrap();
    assert_eq!(report(&beside, std::slice::from_ref(&input), &[]).status.code(), Some(2));
    assert_eq!(fs::read(&beside).unwrap(), b"kept");
    let nothing = directory.path().join("nothing.log");
    fs::write(&nothing, "no record\n").unwrap();
    let target = directory.path().join("report.html");
    let failed = report(&target, &[nothing], &[]);
    assert_ne!(failed.status.code(), Some(0));
    let failed = report(&target, &[PathBuf::from("/nonexistent.log")], &[]);
    assert_eq!(failed.status.code(), Some(2));
    assert!(!target.exists());
    let failed = report(&directory.path().join("none/report.html"), &[input], &[]);
    assert!(stderr(&failed).contains("none/report.html can't be written"), "{}", stderr(&failed));
    let failed = report(Path::new("/dev/null"), &[log(HOTPLUG)], &[]);
    assert!(stderr(&failed).contains("no regular file"), "{}", stderr(&failed));
}

/// A report about a log and a pipe, which waits until something is written to the pipe.
struct Waiting {
    directory: TempDir,
    child: std::process::Child,
    pipe: fs::File,
}

impl Waiting {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let (log, pipe) = (directory.path().join("audit.log"), directory.path().join("pipe"));
        fs::copy(self::log(HOTPLUG), &log).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut command = taptrail();
        command.args(["report", "--assume-host", "h1", "-o"]).arg(directory.path().join("report.html"));
        let child = command.args([&log, &pipe]).stderr(Stdio::piped()).spawn().unwrap();
        // It waits for its reader.
        let pipe = fs::OpenOptions::new().write(true).open(pipe).unwrap();
        Self { directory, child, pipe }
    }
}

#[test]
fn a_log_that_grows_while_it_is_read_is_marked() {
    let Waiting { directory, child, pipe } = Waiting::start();
    let mut log = fs::OpenOptions::new().append(true).open(directory.path().join("audit.log")).unwrap();
    log.write_all(record(1_795_470_000, 9000, "late", 1, &open("52:54:00:00:00:01")).as_bytes()).unwrap();
    drop(pipe);
    let written = child.wait_with_output().unwrap();
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    let all = embedded(&fs::read_to_string(directory.path().join("report.html")).unwrap());
    let [log, pipe] = [&all["evidence"]["files"][0], &all["evidence"]["files"][1]];
    assert_eq!((&log["changed"], log["sha256"].is_string()), (&Value::Bool(true), true), "{log}");
    assert!(pipe["why"].as_str().unwrap().contains("no regular file"), "{pipe}");
}

#[test]
fn ctrl_c_leaves_no_file() {
    let Waiting { directory, mut child, pipe } = Waiting::start();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(!child.wait().unwrap().success());
    drop(pipe);
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["audit.log", "pipe"]);
}

#[test]
fn the_other_formats_are_what_they_say() {
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("out");
    let written = report(&target, &[log(HOTPLUG)], &["--format", "perfetto"]);
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    let trace: Value = serde_json::from_slice(&fs::read(&target).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let slices: Vec<_> = events.iter().filter(|one| one["cat"] == "session" && one["ph"] == "X").collect();
    assert!(slices.iter().all(|one| one["ts"].is_i64() && one["dur"].as_i64().unwrap() >= 0));
    let named =
        events.iter().any(|one| one["name"] == "process_name" && one["args"]["name"] == "t6-hotplug on ?");
    assert!(named && slices.len() >= 4, "{trace:#}");
    let written = report(&target, &[log(HOTPLUG)], &["--format", "svg"]);
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    let figure = fs::read_to_string(&target).unwrap();
    assert!(figure.starts_with("<svg ") && figure.ends_with("</svg>\n") && figure.contains("t6-hotplug"));
    // A reader of XML finds nothing wrong with it.
    let checked = Command::new("python3")
        .args(["-c", "import sys, xml.dom.minidom as m; m.parse(sys.argv[1])"])
        .arg(&target)
        .output();
    if let Ok(checked) = checked {
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn a_time_that_no_log_covers_is_an_answer_of_its_own() {
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("report.html");
    let written = report(&target, &[log(HOTPLUG)], &["--start", "2030-01-01", "--end", "2030-01-02"]);
    assert_eq!(written.status.code(), Some(4), "{}", stderr(&written));
    let all = embedded(&fs::read_to_string(&target).unwrap());
    let warning = all["evidence"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("what was held is not known"), "{warning}");
}
