//! `who` and `explain` on the command line: answers, exit codes, arguments, the pager, colours, and
//! progress on a terminal.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use serde_json::Value;

/// A guest with one interface from its start, and another that is plugged and unplugged five times.
const HOTPLUG: &str = "06-hotplug";
const HOTPLUGGED: &str = "52:54:00:00:06:aa";
const PLUGGED_AT: &str = "2026-11-23 18:53:51";

fn log(folder: &str) -> PathBuf {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt/libvirt-9.0");
    data.join(folder).join("audit.log")
}

fn taptrail() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.env("TZ", "UTC");
    for variable in ["TAPTRAIL_LOG", "TAPTRAIL_PAGER", "PAGER", "LESS", "NO_COLOR", "SUDO_UID"] {
        command.env_remove(variable);
    }
    command
}

fn run(arguments: &[&str], logs: &[&Path]) -> Output {
    taptrail().args(arguments).args(logs).stdin(Stdio::null()).output().unwrap()
}

/// The exit code and standard output.
fn answer(arguments: &[&str], folder: &str) -> (Option<i32>, String) {
    let done = run(arguments, &[&log(folder)]);
    (done.status.code(), String::from_utf8(done.stdout).unwrap())
}

/// Runs a command with a terminal of 100 columns as its standard output and error; its exit code,
/// and what the terminal got.
fn on_terminal(
    command: &mut Command,
    feed: impl FnOnce(Option<std::process::ChildStdin>),
) -> (Option<i32>, String) {
    let size = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    let mut child = {
        command.stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
        let child = command.env("TERM", "xterm").spawn().unwrap();
        // The terminal ends when nobody has its other end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        child
    };
    let mut terminal = File::from(pty.master);
    let reader = std::thread::spawn(move || {
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = terminal.read(&mut some) {
            all.extend_from_slice(&some[..count]);
        }
        all
    });
    feed(child.stdin.take());
    let code = child.wait().unwrap().code();
    (code, String::from_utf8(reader.join().unwrap()).unwrap().replace("\r\n", "\n"))
}

fn shown(command: &mut Command) -> (Option<i32>, String) {
    on_terminal(command.stdin(Stdio::null()), |_| {})
}

/// A pager that says that it ran, with its arguments and LESS, and copies its input.
fn pager(directory: &Path, last: &str) -> String {
    let path = directory.join("pager");
    fs::write(&path, format!("#!/bin/sh\necho \"paged by $*, LESS=$LESS\"\n{last}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn one_hit_is_told_in_full_and_several_are_rows() {
    let (code, text) = answer(&["who", HOTPLUGGED, "--at", PLUGGED_AT], HOTPLUG);
    assert_eq!(code, Some(0), "{text}");
    let head = format!("t6-hotplug held {HOTPLUGGED} from 2026-11-23 18:53:49.992 to 18:53:52.744\n");
    assert!(text.starts_with(&head), "{text}");
    for part in [
        "UUID        f3607ac8-f517-4952-b61c-b19b40f99661",
        "For         2.752 s",
        "audit.log:16 (serial 2594)",
        "audit.log:19 (serial 2597)",
        "audit.log:23 (serial 2599)",
        "Basis       inferred: a record names only the interface or the guest",
        "Coverage    the logs of ? cover the time asked for",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (code, text) = answer(&["who", HOTPLUGGED], HOTPLUG);
    assert_eq!(code, Some(0));
    let rows = text.lines().filter(|line| line.contains(HOTPLUGGED)).count();
    assert!(rows == 5 && text.contains("HOST  GUEST") && !text.contains("Basis"), "{text}");
    let (_, text) = answer(&["who", HOTPLUGGED, "--at", PLUGGED_AT, "-o", "guest,basis"], HOTPLUG);
    assert!(text.contains("GUEST       BASIS\nt6-hotplug  inferred\n"), "{text}");
    let (_, text) = answer(&["who", HOTPLUGGED, "--explain"], HOTPLUG);
    assert_eq!(text.matches("\nBasis ").count(), 5, "{text}");
}

#[test]
fn the_commands_of_ausearch_show_the_records() {
    if !Path::new("/usr/sbin/ausearch").exists() {
        return;
    }
    let (_, text) = answer(&["who", HOTPLUGGED, "--at", PLUGGED_AT], HOTPLUG);
    let commands: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once("TZ=UTC ")?.1)).collect();
    let reasons = ["reason=open", "reason=attach", "reason=detach"];
    assert_eq!(commands.len(), reasons.len(), "{text}");
    for (command, reason) in commands.iter().zip(reasons) {
        let shell = format!("PATH=/usr/sbin:/usr/bin:/bin TZ=UTC {command}");
        let done = Command::new("/bin/sh").args(["-c", &shell]).stdin(Stdio::null()).output().unwrap();
        let shown = String::from_utf8(done.stdout).unwrap();
        assert!(shown.contains(reason) && shown.matches("type=").count() == 1, "{command}: {shown}");
    }
}

#[test]
fn a_compressed_log_is_cited_by_its_lines() {
    let directory = tempfile::tempdir().unwrap();
    let packed = directory.path().join("audit.log.gz");
    let gzip = Command::new("gzip").arg("-c").arg(log(HOTPLUG)).output().unwrap();
    fs::write(&packed, gzip.stdout).unwrap();
    let done = run(&["who", HOTPLUGGED, "--at", PLUGGED_AT], &[&packed]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains("Look up     ") && text.contains("audit.log.gz:16 (serial 2594)"), "{text}");
    assert!(!text.contains("ausearch"), "{text}");
}

#[test]
fn standard_input_is_cited_by_its_lines_and_not_read_again() {
    for command in ["who", "explain"] {
        let mut taptrail = taptrail();
        taptrail
            .args([command, HOTPLUGGED, "--at", PLUGGED_AT, "-"])
            .stdin(File::open(log(HOTPLUG)).unwrap());
        let text = String::from_utf8(taptrail.output().unwrap().stdout).unwrap();
        for (step, line) in [
            ("open ", "-:16 (serial 2594)"),
            ("grant ", "-:19 (serial 2597)"),
            ("release ", "-:23 (serial 2599)"),
        ] {
            let is_step = |row: &str| row.contains(step) && row.ends_with(line);
            assert!(text.lines().any(is_step), "{step} {line}: {text}");
        }
        assert!(!text.contains("ausearch"), "{text}");
        assert_eq!(text.contains("(its line was not read again)"), command == "explain", "{text}");
    }
}

#[test]
fn an_explanation_has_the_records_decoded_or_with_raw_as_they_are() {
    for subject in [HOTPLUGGED, "t6-hotplug", "macvtap4", "f3607ac8-f517-4952-b61c-b19b40f99661"] {
        let (code, text) = answer(&["explain", subject], HOTPLUG);
        assert!(code == Some(0) && text.contains("\nRecords\n") && !text.contains("resrc=net"), "{text}");
        assert!(text.contains("attach  success"), "{text}");
    }
    let (_, text) = answer(&["explain", HOTPLUGGED, "--raw"], HOTPLUG);
    assert!(text.contains("resrc=net reason=attach vm=\"t6-hotplug\""), "{text}");
    assert!(!text.contains('\x1d'));
    for command in [["explain", "--raw"], ["who", "--explain"]] {
        let (code, _) = answer(&[command[0], "tun", command[1], "--json"], HOTPLUG);
        assert_eq!(code, Some(2), "{command:?}");
    }
}

#[test]
fn json_and_csv_are_holdings() {
    for (format, start) in
        [("json", "{\n  \"holdings\": ["), ("jsonl", "{\"holding\":"), ("csv", "host,guest,")]
    {
        let (code, text) = answer(&["who", HOTPLUGGED, "--at", PLUGGED_AT, "--format", format], HOTPLUG);
        assert!(code == Some(0) && text.starts_with(start), "{text}");
    }
    let (_, text) = answer(&["explain", HOTPLUGGED, "--json"], HOTPLUG);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["interfaces"][0]["mac"], HOTPLUGGED);
    assert!(json["interfaces"][0]["holdings"][0]["lines"][0]["raw"].is_string());
}

#[test]
fn exit_codes_are_greps_and_4_where_nothing_is_known() {
    // A boot, and then no guest for 20 seconds.
    let directory = tempfile::tempdir().unwrap();
    let booted = directory.path().join("audit.log");
    let line = |serial: u32, second: u32, kind: &str| {
        format!("type={kind} msg=audit(17954600{second}.000:{serial}): pid=1 uid=0 msg='op=x res=success'\n")
    };
    let lines = [line(1, 11, "SYSTEM_BOOT"), line(2, 12, "USER_ACCT"), line(3, 30, "USER_ACCT")];
    fs::write(&booted, lines.concat()).unwrap();
    let hotplug = log(HOTPLUG);
    let missing = directory.path().join("missing");
    let uuid = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
    for format in ["table", "json"] {
        for command in ["who", "explain"] {
            let code = |what: &str, more: &[&str], log: &Path| {
                let arguments = [&[command, what, "--format", format][..], more].concat();
                run(&arguments, &[log]).status.code()
            };
            assert_eq!(code(HOTPLUGGED, &[], &hotplug), Some(0));
            assert_eq!(code(HOTPLUGGED, &["--at", PLUGGED_AT], &hotplug), Some(0));
            for nothing in ["52:54:00:00:06:ab", uuid, "a guest with blanks", "/dev/tap7"] {
                assert_eq!(code(nothing, &[], &hotplug), Some(1), "{command} {nothing}");
            }
            // It may be the interface of a tap, which the records don't have.
            assert_eq!(code("vnet7", &[], &hotplug), Some(4));
            // Beyond the log, and before a boot that it has.
            assert_eq!(code(HOTPLUGGED, &["--at", "2026-11-20"], &hotplug), Some(4));
            assert_eq!(code(HOTPLUGGED, &["--at", "2026-11-23 18:53:54"], &hotplug), Some(4));
            assert_eq!(code(HOTPLUGGED, &["--at", "@1795460020"], &booted), Some(1));
            assert_eq!(code(HOTPLUGGED, &["--at", "never"], &hotplug), Some(2));
            assert_eq!(code("", &[], &hotplug), Some(2));
            assert_eq!(code(HOTPLUGGED, &[], &missing), Some(2));
            assert_eq!(code(HOTPLUGGED, &["--wrong"], &hotplug), Some(2));
        }
    }
}

#[test]
fn what_is_near_is_shown_and_is_not_the_answer() {
    let (code, text) = answer(&["who", HOTPLUGGED, "--at", "2026-11-23 18:53:54"], HOTPLUG);
    assert_eq!(code, Some(4));
    assert!(text.starts_with("No record shows that anybody held 52:54:00:00:06:aa at that time\n"), "{text}");
    assert!(text.contains("Nearest, and no answer:\n"), "{text}");
    assert!(text.contains("The last before that time: t6-hotplug on ?, 52:54:00:00:06:aa, from 2026-11-23 18:53:49.992 to 18:53:52.744"), "{text}");
    assert!(
        text.contains(
            "The first after that time: t6-hotplug on ?, 52:54:00:00:06:aa, from 2026-11-23 18:53:55.788"
        ),
        "{text}"
    );
    let (code, text) = answer(&["explain", "T6 hotplug"], HOTPLUG);
    assert_eq!(code, Some(1));
    assert!(text.contains("A guest with a similar name: t6-hotplug\n"), "{text}");
    // A program gets no near one.
    let (_, text) = answer(&["who", HOTPLUGGED, "--at", "2026-11-23 18:53:54", "--json"], HOTPLUG);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["holdings"], Value::Array(Vec::new()));
}

#[test]
fn a_mac_may_be_written_in_any_usual_form() {
    let (_, expected) = answer(&["who", HOTPLUGGED, "--json"], HOTPLUG);
    for form in ["52-54-00-00-06-aa", "5254.0000.06aa", "5254000006AA", "52:54:00:00:06:AA"] {
        assert_eq!(answer(&["who", form, "--json"], HOTPLUG), (Some(0), expected.clone()), "{form}");
        let (_, trail) = answer(&["trail", "--mac", form, "--json"], HOTPLUG);
        assert!(trail.contains(HOTPLUGGED) && !trail.contains("52:54:00:00:06:01"), "{form}");
    }
    // The answer says as what the word was taken.
    let (_, text) = answer(&["who", "5254000006aa"], HOTPLUG);
    assert!(text.starts_with("'5254000006aa' is the MAC 52:54:00:00:06:aa here\n"), "{text}");
}

#[test]
fn a_guest_that_is_named_like_a_mac_is_found_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let both = directory.path().join("audit.log");
    let named = fs::read_to_string(log(HOTPLUG)).unwrap();
    // The same guest's log, in which it has this name and other MACs.
    let named = named.replace("t6-hotplug", "5254000006aa").replace("52:54:00:00:06:", "52:54:00:00:07:");
    fs::write(&both, &named).unwrap();
    let done = run(&["who", "5254000006aa"], &[&both]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.starts_with("'5254000006aa' is a guest's name here\n"), "{text}");
    assert!(text.contains("52:54:00:00:07:01") && text.contains("52:54:00:00:07:aa"), "{text}");
    // With its colons it is a MAC.
    assert_eq!(run(&["who", HOTPLUGGED], &[&both]).status.code(), Some(1));
}

#[test]
fn times_are_read_as_people_write_them() {
    for at in
        ["23.11.2026 18:53:51", "2026-11-23 18:53:51", "11/23/2026 18:53:51", "2026-11-23T19:53:51+01:00"]
    {
        let (code, text) = answer(&["who", HOTPLUGGED, "--at", at, "--utc"], HOTPLUG);
        assert!(code == Some(0) && text.contains("For         2.752 s"), "{at}: {text}");
    }
    // A minute and a day are all of it.
    let count = |at: &str| {
        let (_, text) = answer(&["who", HOTPLUGGED, "--at", at, "--utc", "--format=csv"], HOTPLUG);
        text.lines().skip(1).filter(|row| row.contains(",released,")).count()
    };
    assert_eq!(count("23.11.2026 18:53"), 2);
    assert_eq!(count("23.11.2026"), 5);
    for at in ["tuesday", "tue 14:05", "Mon", "14:05"] {
        // Not these days: it is a time, and not covered.
        assert_eq!(
            answer(&["who", HOTPLUGGED, "--at", at, "--host", "?"], "01-bridge-tap").0,
            Some(4),
            "{at}"
        );
    }
}

#[test]
fn a_terminal_gets_a_pager() {
    let directory = tempfile::tempdir().unwrap();
    let pager = pager(directory.path(), "exec cat");
    for arguments in [&["who", "tun"][..], &["explain", "tun"], &["trail"], &["findings"]] {
        let mut command = taptrail();
        command.args(arguments).arg(log(HOTPLUG)).env("TAPTRAIL_PAGER", format!("{pager} -a  b"));
        let (code, text) = shown(&mut command);
        assert_eq!(code, Some(i32::from(arguments[0] == "findings")), "{text}");
        assert!(text.starts_with("paged by -a b, LESS=FRX\n") && text.contains("read"), "{text}");
    }
    let text = |set: &[(&str, &str)], arguments: &[&str]| {
        let mut command = taptrail();
        shown(command.args(["who", "tun"]).args(arguments).arg(log(HOTPLUG)).envs(set.iter().copied())).1
    };
    assert!(text(&[("PAGER", &pager), ("LESS", "S")], &[]).starts_with("paged by , LESS=S\n"));
    assert!(!text(&[("PAGER", &pager), ("TAPTRAIL_PAGER", "")], &[]).contains("paged"));
    assert!(!text(&[("PAGER", &pager)], &["--no-pager"]).contains("paged"));
    assert!(!text(&[("PAGER", &pager)], &["--json"]).contains("paged"));
    let shell = text(&[("PAGER", &format!("{pager} | cat"))], &[]);
    assert!(shell.starts_with("taptrail: no pager is used: PAGER has characters for a shell"), "{shell}");
    assert!(shell.contains("5 sessions") || shell.contains("6 sessions"), "{shell}");
    // sudo lets users run taptrail, not what they like.
    let elevated = text(&[("PAGER", &pager), ("SUDO_UID", "1000")], &[]);
    assert!(!elevated.contains("paged") && elevated.contains("PAGER names another program"), "{elevated}");
    // Not a terminal.
    let mut command = taptrail();
    let piped = command.args(["who", "tun"]).arg(log(HOTPLUG)).env("PAGER", &pager).output().unwrap();
    assert!(!String::from_utf8(piped.stdout).unwrap().contains("paged"));
}

#[test]
fn what_was_mistaken_in_the_arguments_is_named_and_never_answered() {
    let log = log(HOTPLUG);
    let said = |arguments: &[&str], logs: &[&Path], what: &str| {
        let done = run(arguments, logs);
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(2), &b""[..]), "{stderr}");
        assert!(stderr.contains(what), "{stderr}");
    };
    for command in ["who", "explain"] {
        for typo in ["52:54:00:00:06", "52:54:00:00:06:ag", "52:54:00:00:06:aa:bb", "5254:00:00:06:aa"] {
            said(&[command, typo], &[&log], "looks like a MAC and is none");
        }
        said(&[command, log.to_str().unwrap(), HOTPLUGGED], &[], "is the first argument");
        said(&[command, HOTPLUGGED, "tue 14:05"], &[&log], "--at 'tue 14:05' asks for it");
    }
    said(&["who", HOTPLUGGED, "--at", "31.11.2026"], &[&log], "There is no day '31.11.2026'");
    // The time as an answer prints it.
    let (code, text) = answer(&["who", HOTPLUGGED, "--at", "2026-11-23 18:53:51.000 UTC"], HOTPLUG);
    assert!(code == Some(0) && text.contains("held 52:54:00:00:06:aa"), "{text}");
}

#[test]
fn a_pager_that_ends_early_changes_no_exit_code_and_nothing_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let pager = pager(directory.path(), "exit 7");
    for (what, code) in [("t6-hotplug", 0), ("52:54:00:00:06:ab", 1)] {
        let mut command = taptrail();
        command.args(["explain", what]).args(vec![log(HOTPLUG); 20]).env("PAGER", &pager);
        assert_eq!(shown(&mut command), (Some(code), "paged by , LESS=FRX\n".to_owned()), "{what}");
    }
}

#[test]
fn an_interrupt_is_the_pagers() {
    let directory = tempfile::tempdir().unwrap();
    let pager = pager(directory.path(), "kill -INT $PPID\nsleep 0.2\nexec cat");
    let mut command = taptrail();
    let (code, text) = shown(command.args(["who", "t6-hotplug"]).arg(log(HOTPLUG)).env("PAGER", &pager));
    assert!(code == Some(0) && text.contains("6 sessions"), "{code:?} {text}");
}

#[test]
fn colours_are_for_terminals_unless_asked_for() {
    let colored = |text: &str| text.contains("\x1b[1m");
    let terminal = |more: &[&str]| {
        let mut command = taptrail();
        shown(command.args(["trail", "--no-pager"]).args(more).arg(log(HOTPLUG))).1
    };
    assert!(colored(&terminal(&[])) && !colored(&terminal(&["--color", "never"])));
    let piped = |more: &[&str]| answer(&[&["trail"], more].concat(), HOTPLUG).1;
    assert!(!colored(&piped(&[])) && colored(&piped(&["--color=always"])));
    let help = String::from_utf8(run(&["who", "--help", "--color", "always"], &[]).stdout).unwrap();
    assert!(colored(&help), "{help}");
    let mut command = taptrail();
    command.args(["trail", "--no-pager"]).arg(log(HOTPLUG)).env("NO_COLOR", "1");
    assert!(!colored(&shown(&mut command).1));
}

#[test]
fn long_reading_shows_its_progress_on_a_terminal_and_erases_it() {
    let some = fs::read(log(HOTPLUG)).unwrap().repeat(64);
    let mut command = taptrail();
    command
        .args(["findings", "--no-pager", "-", "--format", "csv", "--kind", "close-failed"])
        .stdin(Stdio::piped());
    let (_, text) = on_terminal(&mut command, |stdin| {
        let mut stdin = stdin.unwrap();
        for wait in [2300, 300, 0] {
            stdin.write_all(&some).unwrap();
            std::thread::sleep(Duration::from_millis(wait));
        }
    });
    assert!(text.contains("lines/s, -"), "{text:?}");
    // Its last line is cleared.
    let (_, last) = text.rsplit_once("lines/s").unwrap();
    assert!(last.contains("\x1b[2K") || last.contains("\x1b[K"), "{text:?}");
}
