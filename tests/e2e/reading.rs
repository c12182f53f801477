//! Logs of any shape and compression, torn and mixed, which always have the same facts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::world::contract;

/// Real logs of a libvirtd, with the truth beside them.
fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/libvirt")
        .join(folder)
        .canonicalize()
        .unwrap()
}

fn log(folder: &str) -> Vec<u8> {
    fs::read(data(folder).join("audit.log")).unwrap()
}

fn command<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    // Interpreted times are in the reader's zone; and there is no ledger.
    command
        .args(arguments)
        .env("TZ", "UTC")
        .env("TAPTRAIL_STATE_DIR", "/nonexistent")
        .env("TAPTRAIL_AUDIT_LOG", "/nonexistent/audit.log")
        .stdin(Stdio::null());
    command
}

fn run<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    command(arguments).output().unwrap()
}

/// The trail of these files, as JSON.
fn trail<P: AsRef<Path>>(files: &[P]) -> Value {
    let done = run(["trail".as_ref(), "--format=json".as_ref()]
        .into_iter()
        .chain(files.iter().map(|file| file.as_ref().as_os_str())));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The trail of bytes on standard input, as JSON.
fn trail_of_stdin(bytes: &[u8]) -> Value {
    serde_json::from_slice(&output(command(["trail", "--format=json", "-"]), bytes)).unwrap()
}

/// The output of a command that reads these bytes.
fn output(mut command: Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A thread writes, because a full pipe would block both processes.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let done = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(done.status.success(), "{command:?}");
    done.stdout
}

/// A trail's holdings and findings, without the places of the lines.
fn claims(trail: &Value) -> Value {
    let mut claims = serde_json::json!({ "holdings": trail["holdings"], "findings": trail["findings"] });
    for list in ["holdings", "findings"] {
        for item in claims[list].as_array_mut().unwrap() {
            for proof in item["proof"].as_array_mut().unwrap() {
                for place in ["source", "line", "copies"] {
                    proof[place].take();
                }
            }
        }
    }
    claims
}

fn pipe_through(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments).env("TZ", "UTC").env("LC_ALL", "C");
    output(command, input)
}

// Shows 10.6.
#[test]
fn rotations_and_copies_of_them_give_one_trail() {
    let whole = log("libvirt-9.0/06-hotplug");
    let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    let dir = tempfile::tempdir().unwrap();
    let part = |name: &str, lines: &[&[u8]]| fs::write(dir.path().join(name), lines.concat()).unwrap();
    let third = lines.len() / 3;
    fs::write(dir.path().join("audit.log.2"), pipe_through("/bin/gzip", &["-c"], &lines[..third].concat()))
        .unwrap();
    part("audit.log.1", &lines[third..2 * third]);
    part("audit.log", &lines[2 * third..]);
    let expect = trail(&[data("libvirt-9.0/06-hotplug").join("audit.log")]);
    assert_eq!(claims(&trail(&[dir.path()])), claims(&expect));
    part("audit.log.copy", &lines[third / 2..2 * third]);
    let copied = trail(&[dir.path()]);
    assert_eq!(claims(&copied), claims(&expect));
    assert!(copied["input"]["duplicates"].as_u64().unwrap() > 0, "{}", copied["input"]);
}

// Shows 10.7.
#[test]
fn packed_logs_are_recognised_by_their_content() {
    let whole = log("libvirt-9.0/06-hotplug");
    let expect = claims(&trail(&[data("libvirt-9.0/06-hotplug").join("audit.log")]));
    for (program, arguments) in [("/bin/gzip", ["-c"]), ("/usr/bin/xz", ["-c"]), ("/usr/bin/zstd", ["-c"])] {
        let packed = pipe_through(program, &arguments, &whole);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &packed).unwrap();
        assert_eq!(claims(&trail(&[file.path()])), expect, "{program}");
        assert_eq!(claims(&trail_of_stdin(&packed)), expect, "{program} on standard input");
    }
    assert_eq!(claims(&trail_of_stdin(&whole)), expect, "a pipe");
}

// Shows 10.7.
#[test]
fn a_packed_log_cut_short_gives_what_it_has_and_says_so() {
    let packed = pipe_through("/bin/gzip", &["-c"], &log("libvirt-9.0/06-hotplug"));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &packed[..packed.len() * 2 / 3]).unwrap();
    let done = run(["trail".as_ref(), "--format=json".as_ref(), file.path().as_os_str()]);
    assert_eq!(done.status.code(), Some(2));
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(!answer["holdings"].as_array().unwrap().is_empty());
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(
        stderr.contains(file.path().to_str().unwrap()) && stderr.contains("can't be read on"),
        "{stderr}"
    );
}

/// ausearch prints the same events in two more shapes.
// Shows 10.3.
#[test]
fn what_ausearch_prints_gives_the_same_trail() {
    for folder in fs::read_dir(data("libvirt-9.0")).unwrap() {
        let file = folder.unwrap().path().join("audit.log");
        let expect = trail(&[&file]);
        let path = file.to_str().unwrap();
        for arguments in [["--raw", "--input", path], ["-i", "--input", path]] {
            let printed = pipe_through("/sbin/ausearch", &arguments, b"");
            let answer = trail_of_stdin(&printed);
            assert_eq!(claims(&answer), claims(&expect), "{path} {arguments:?}");
        }
    }
}

// Shows 10.8.
#[test]
fn libvirtds_own_log_beside_the_audit_log_adds_nothing() {
    for folder in fs::read_dir(data("libvirt-9.0")).unwrap() {
        let folder = folder.unwrap().path();
        let alone = trail(&[folder.join("audit.log")]);
        let both = trail(&[folder.join("audit.log"), folder.join("libvirtd.log")]);
        let held = |trail: &Value| claims(trail)["holdings"].as_array().unwrap().len();
        assert_eq!(held(&both), held(&alone), "{}", folder.display());
        let kinds = |trail: &Value| {
            let mut kinds: Vec<String> = trail["findings"]
                .as_array()
                .unwrap()
                .iter()
                .map(|finding| finding["kind"].to_string())
                .collect();
            kinds.sort();
            kinds
        };
        assert_eq!(kinds(&both), kinds(&alone), "{}", folder.display());
    }
}

// Shows 10.8.
#[test]
fn an_opening_that_no_audit_log_saw_is_a_finding() {
    let answer = trail(&[data("wild.log")]);
    let unsent: Vec<&Value> = answer["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["kind"] == "record-not-sent")
        .collect();
    assert_eq!(unsent.len(), 2, "{answer:#}");
    assert_eq!(unsent[0]["mac"], "fa:16:3e:b9:9b:ec");
}

// Shows 10.11.
#[test]
fn damaged_input_is_counted_and_located_and_never_fatal() {
    let mut bytes = log("libvirt-9.0/01-bridge-tap");
    let expect = claims(&trail(&[data("libvirt-9.0/01-bridge-tap").join("audit.log")]));
    bytes.extend_from_slice(b"\0\0\0\0\n");
    bytes.extend((0..=255_u8).cycle().take(100_000));
    bytes.push(b'\n');
    bytes.extend_from_slice(b"type=VIRT_RESOURCE msg=audit(1795459983.0");
    bytes.push(b'\n');
    bytes.resize(bytes.len() + 10_000_000, b'x');
    bytes.extend_from_slice(
        b"\ntype=VIRT_RESOURCE msg=audit(1795459983.000:9999): pid=1 uid=0 auid=0 ses=0 msg='virt=kv",
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &bytes).unwrap();
    let done = run(["trail".as_ref(), "--format=json".as_ref(), file.path().as_os_str()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(claims(&answer)["holdings"], expect["holdings"]);
    assert!(answer["input"]["unreadable"].as_u64().unwrap() >= 2, "{}", answer["input"]);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(stderr.contains(&format!("{}:", file.path().display())), "{stderr}");
}

// Shows 10.14.
#[test]
fn findings_are_an_exit_code() {
    let clean = data("libvirt-9.0-vhost/v2-mq2").join("audit.log");
    let wrong = data("libvirt-9.0/08-fail-qemu").join("audit.log");
    let code = |arguments: &[&str]| run(arguments).status.code();
    assert_eq!(code(&["findings", wrong.to_str().unwrap()]), Some(1));
    assert_eq!(code(&["findings", clean.to_str().unwrap()]), Some(0));
    assert_eq!(code(&["findings", "--kind", "false-start", clean.to_str().unwrap()]), Some(0));
    assert_eq!(code(&["findings", "/nonexistent/audit.log"]), Some(2));
    assert_eq!(code(&["findings", "--kind", "no-such-kind", clean.to_str().unwrap()]), Some(2));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let unwritten = command(["findings".as_ref(), wrong.as_os_str()])
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(unwritten.code(), Some(2), "output that can't be written is no finding");
}

#[test]
fn more_logs_than_a_shell_allows_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..=200 {
        fs::write(dir.path().join(format!("audit.log.{number}")), log("libvirt-9.0/01-bridge-tap")).unwrap();
    }
    let script = "ulimit -S -n 64 && exec \"$0\" trail --format=json \"$1\"";
    let program = env!("CARGO_BIN_EXE_taptrail");
    let done = Command::new("sh").args(["-c", script, program]).arg(dir.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(answer["input"]["files"].as_array().unwrap().len(), 200);
    assert_eq!(answer["input"]["records"], 6);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = command(["trail", "--format=jsonl"])
        .arg(data("libvirt-9.0/06-hotplug"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success());
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
}

#[test]
fn a_binary_journal_is_refused_with_the_way_out() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"LPKSHHRH\0\0\0\0").unwrap();
    let done = run(["trail".as_ref(), file.path().as_os_str()]);
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("journalctl --file"));
    assert_eq!(String::from_utf8_lossy(&done.stdout), "", "nothing was read, and nothing is answered");
}

// Shows 10.5.
#[test]
fn names_that_imitate_a_record_change_nothing() {
    for folder in ["libvirt-9.0/17-names", "libvirt-9.0/23-quote-injection"] {
        let answer = trail(&[data(folder).join("audit.log")]);
        let truth: Value =
            serde_json::from_slice(&fs::read(data(folder).join("truth.json")).unwrap()).unwrap();
        let mut uuids: Vec<&str> = truth["processes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|process| process["uuid"].as_str().unwrap())
            .collect();
        uuids.sort_unstable();
        uuids.dedup();
        let held =
            answer["holdings"].as_array().unwrap().iter().filter(|holding| !holding["granted"].is_null());
        let mut found: Vec<&str> = held.map(|holding| holding["guest"]["uuid"].as_str().unwrap()).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, uuids, "{folder}");
    }
}

/// Runs taptrail under a hard limit of open files.
fn run_with_file_limit(files: u32, arguments: &[&std::ffi::OsStr]) -> Output {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh", &files.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_taptrail")).args(arguments);
    command.env("TZ", "UTC").env("TAPTRAIL_STATE_DIR", "/nonexistent");
    command.env("TAPTRAIL_AUDIT_LOG", "/nonexistent/audit.log").stdin(Stdio::null());
    command.output().unwrap()
}

/// The line of one open, in the `number`th minute.
fn open_line(number: u32) -> String {
    let [.., high, low] = number.to_be_bytes();
    format!(
        "type=VIRT_RESOURCE msg=audit({}.000:{number}): pid=812 uid=0 auid=4294967295 ses=4294967295 \
         msg='virt=kvm resrc=net reason=open vm=\"g{number}\" uuid=00000000-0000-4000-8000-{number:012x} \
         net=52:54:00:00:{high:02x}:{low:02x} path=\"/dev/net/tun\" rdev=0A:C8 exe=\"/usr/sbin/libvirtd\" hostname=? \
         addr=? terminal=? res=failed'\n",
        1_795_460_000 + 60 * number,
    )
}

#[test]
fn more_rotations_than_files_may_be_open_are_read() {
    const MANY: u32 = 400;
    for packed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=MANY {
            let (name, line) = (format!("audit.log.{}", MANY - number + 1), open_line(number).into_bytes());
            if packed {
                fs::write(dir.path().join(name + ".gz"), pipe_through("/bin/gzip", &["-c"], &line)).unwrap();
            } else {
                fs::write(dir.path().join(name), line).unwrap();
            }
        }
        let arguments = ["trail", "--format=json", dir.path().to_str().unwrap()].map(std::ffi::OsStr::new);
        let done = run_with_file_limit(200, &arguments);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let trail: Value = serde_json::from_slice(&done.stdout).unwrap();
        let names: Vec<_> =
            trail["holdings"].as_array().unwrap().iter().map(|one| &one["guest"]["name"]).collect();
        let expect: Vec<_> = (1..=MANY).map(|number| format!("g{number}")).collect();
        assert_eq!(names, expect.iter().collect::<Vec<_>>(), "packed: {packed}");
    }
}

#[test]
fn an_answer_that_can_not_be_written_is_an_error_and_one_that_nobody_reads_is_none() {
    let log = data("libvirt-9.0/06-hotplug").join("audit.log");
    let log = log.to_str().unwrap();
    for arguments in [
        &["trail", log][..],
        &["trail", "--format=json", log],
        &["trail", "--format=jsonl", log],
        &["trail", "--format=csv", log],
        &["findings", log],
        &["findings", "--format=json", log],
        &["who", "tun", log],
        &["explain", "52:54:00:00:06:01", log],
        &["explain", "--format=json", "52:54:00:00:06:01", log],
        &["verify", log],
        &["--help"],
        &["trail", "--help"],
        &["--version"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let done = command(arguments).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert!(matches!(done.status.code(), Some(1 | 2)), "{arguments:?}: {:?} {stderr}", done.status);
        assert!(
            stderr.contains("Standard output can't be written: No space left"),
            "{arguments:?}: {stderr}"
        );

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = command(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert!(!String::from_utf8(done.stderr).unwrap().contains("pipe"), "{arguments:?}");
    }
}

#[test]
fn a_files_name_writes_no_line_of_its_own_into_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let name = "a\ntaptrail: all is well\u{1b}[2J\u{202e}.log";
    fs::write(
        dir.path().join(name),
        "type=VIRT_RESOURCE msg=audit(1.000:1): pid=1 msg='virt=kvm resrc=net'\n",
    )
    .unwrap();
    fs::write(dir.path().join("b\n.sqlite"), "SQLite format 3\0").unwrap();
    let missing = dir.path().join(format!("missing{name}"));
    for path in [dir.path().join(name), dir.path().join("b\n.sqlite"), missing] {
        for question in [&["trail"][..], &["findings"], &["who", "tun"], &["explain", "web1"], &["verify"]] {
            let done = run(question.iter().map(std::ffi::OsStr::new).chain([path.as_os_str()]));
            for output in [&done.stdout, &done.stderr] {
                let output = String::from_utf8(output.clone()).unwrap();
                let is_ours = |line: &str| !line.starts_with("taptrail: all is well");
                assert!(output.lines().all(is_ours) && !output.contains(['\u{1b}', '\u{202e}']), "{output}");
            }
            assert!(!done.stderr.is_empty(), "{question:?}");
        }
    }
}

#[test]
fn guests_whose_names_look_alike_are_distinguished() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let invisible =
        ['\u{ad}', '\u{115f}', '\u{200b}', '\u{202e}', '\u{2800}', '\u{3164}', '\u{a0}', '\u{e0041}'];
    let names: Vec<String> =
        invisible.iter().map(|c| format!("web1{c}")).chain(["web1".to_owned()]).collect();
    let hex = |name: &str| name.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
    let lines = (1..).zip(&names).map(|(number, name)| {
        open_line(number).replace(&format!("vm=\"g{number}\""), &format!("vm={}", hex(name)))
    });
    fs::write(&log, lines.collect::<String>()).unwrap();
    let log = log.to_str().unwrap();
    for question in [
        &["trail", log][..],
        &["trail", "--format=csv", log],
        &["trail", "--format=json", log],
        &["trail", "--format=jsonl", log],
        &["findings", log],
        &["findings", "--format=csv", log],
        &["who", "tun", log],
        &["explain", "web1", log],
    ] {
        let answer = String::from_utf8(run(question).stdout).unwrap();
        assert!(!answer.contains(&invisible[..]), "{question:?}: {answer}");
    }
    let trail = trail(&[log]);
    let found: Vec<_> =
        trail["holdings"].as_array().unwrap().iter().map(|one| &one["guest"]["name"]).collect();
    assert_eq!(found, names.iter().collect::<Vec<_>>(), "JSON has the names as they are");
}

fn sha256sum(file: &Path) -> String {
    let sum = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(sum.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn inputs_have_the_hashes_that_sha256sum_prints_where_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, packed) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
    let whole = log("libvirt-9.0/06-hotplug");
    fs::write(&plain, &whole).unwrap();
    fs::write(&packed, pipe_through("/bin/gzip", &["-c"], &whole)).unwrap();
    let commands: [(&[&str], &str); 6] = [
        (&["trail"], "trail"),
        (&["findings"], "findings"),
        (&["who", "tun"], "trail"),
        (&["explain", "tun"], "explain"),
        (&["guests"], "guests"),
        (&["guests", "--all-events"], "guest-events"),
    ];
    for (command, schema) in commands {
        let json = |more: &[&str]| {
            let files = [dir.path().to_str().unwrap()];
            let all = command.iter().chain(more).chain(&files);
            let answer: Value = serde_json::from_slice(&run(all.chain(&["--format=json"])).stdout).unwrap();
            contract::assert_valid(schema, &answer);
            answer
        };
        let mut seen = 0;
        for file in json(&["--hash"])["input"]["files"].as_array().unwrap() {
            let path = Path::new(file["path"].as_str().unwrap());
            assert_eq!(file["sha256"], sha256sum(path), "{command:?} {file}");
            assert_eq!(file["size"], fs::metadata(path).unwrap().len(), "{command:?} {file}");
            assert!(file.get("no_sha256").is_none(), "{command:?} {file}");
            seen += 1;
        }
        assert_eq!(seen, 2, "{command:?}");
        for file in json(&[])["input"]["files"].as_array().unwrap() {
            assert!(file.get("sha256").is_none() && file.get("size").is_none(), "{command:?} {file}");
        }
    }
    let lines = run(["trail", "--format=jsonl", "--hash", plain.to_str().unwrap()]).stdout;
    let last = String::from_utf8(lines).unwrap();
    contract::assert_valid("trail-lines", &serde_json::from_str(last.lines().last().unwrap()).unwrap());
    assert!(last.lines().last().unwrap().contains(&sha256sum(&plain)), "{last}");
    for format in ["--format=csv", "--format=ecs", "--format=table"] {
        let refused = run(["trail", format, "--hash", plain.to_str().unwrap()]);
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && refused.stdout.is_empty(), "{format}");
        assert!(stderr.contains("add --format json"), "{stderr}");
    }
}

#[test]
fn what_has_no_hash_says_why() {
    let whole = log("libvirt-9.0/06-hotplug");
    let stdin = output(command(["trail", "--format=json", "--hash", "-"]), &whole);
    let file = &serde_json::from_slice::<Value>(&stdin).unwrap()["input"]["files"][0];
    assert_eq!(file["sha256"], Value::Null);
    assert_eq!(file["no_sha256"], "standard input can be read once only");

    let dir = tempfile::tempdir().unwrap();
    taptrail_ledger::Ledger::open(dir.path()).unwrap();
    let ledger = taptrail_ledger::Ledger::file(dir.path());
    let done = run(["trail".as_ref(), "--format=json".as_ref(), "--hash".as_ref(), ledger.as_os_str()]);
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    let file = &answer["input"]["files"][0];
    assert_eq!(file["sha256"], Value::Null);
    assert!(file["no_sha256"].as_str().unwrap().contains("database"), "{file}");
}

#[test]
fn a_file_that_changes_while_it_is_read_has_no_hash_and_one_that_is_renamed_has() {
    let whole = log("libvirt-9.0/06-hotplug");
    type Change = fn(&Path);
    let changes: [(Change, bool); 4] = [
        (|path| fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"\n").unwrap(), false),
        // The same size: other bytes.
        (|path| fs::write(path, vec![b'x'; fs::read(path).unwrap().len()]).unwrap(), false),
        (
            |path| {
                fs::rename(path, path.with_extension("old")).unwrap();
                fs::write(path, "type=CWD msg=audit(1795460022.944:1): cwd=/\n").unwrap();
            },
            true,
        ),
        (|_| {}, true),
    ];
    for (number, (change, is_hashed)) in changes.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (path, pipe) = (dir.path().join("audit.log"), dir.path().join("pipe"));
        fs::write(&path, &whole).unwrap();
        let expect = sha256sum(&path);
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut command = command(["trail", "--format=json", "--hash", "--assume-host", "h1"]);
        let child = command.args([&path, &pipe]).stdout(Stdio::piped()).spawn().unwrap();
        // The open ends when taptrail opens the pipe, before which it has looked at both inputs.
        let pipe = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        change(&path);
        (&pipe).write_all(b"type=CWD msg=audit(1795460022.944:1): cwd=/\n").unwrap();
        drop(pipe);
        let done = child.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
        let files = answer["input"]["files"].as_array().unwrap();
        let of =
            |name: &str| files.iter().find(|file| file["path"].as_str().unwrap().ends_with(name)).unwrap();
        let hash = of("audit.log")["sha256"].as_str();
        assert_eq!(hash, is_hashed.then_some(expect.as_str()), "{number}: {answer}");
        let why = of("audit.log").get("no_sha256").and_then(Value::as_str);
        assert_eq!(why, (!is_hashed).then_some("it changed while it was read"), "{number}");
        assert!(of("pipe")["no_sha256"].as_str().unwrap().contains("no regular file"), "{answer}");
    }
}
