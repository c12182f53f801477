//! A ledger that is damaged, full, foreign or read-only, and who may read it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use std::ops::ControlFlow;

use crate::world::{EMPTY, World};
use serde_json::json;
use taptrail_kernel::proc::Signal;
use taptrail_ledger::{AuditOutcome, Ledger, Logged, NewRecord, NewWatched, Process};
use taptrail_record::{Descriptor, Device, Event, Rdev, Record};
use taptrail_source::{Input, ReadOptions, read};
use taptrail_trail::{Content, Entry};

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";
const TWO: &str = "bridge=br0,mac=52:54:00:00:00:02,vhost=off";

/// A world whose ledger is on a small file system of its own, mounted for this test alone.
fn small() -> World {
    let world = World::new();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(&["--make-rprivate", "/"]);
    fs::create_dir(world.state()).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=512k,mode=700", "small", world.state().to_str().unwrap()]);
    world
}

fn mount(arguments: &[&str]) {
    assert!(Command::new("/bin/mount").args(arguments).status().unwrap().success(), "mount {arguments:?}");
}

/// Fills the file system to its last byte.
fn fill(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("filler");
    let mut filler = fs::File::create(&path).unwrap();
    while filler.write_all(&[0; 512]).is_ok() {}
    path
}

// Shows 4.10.
#[test]
fn a_full_disk_refuses_grants_and_harms_no_guest() {
    let world = small();
    let guest = world.start("web1", &["--nic", ONE]);
    let filler = fill(&world.state());
    world.attach(&guest, TWO).fails(1, "database or disk is full");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    assert_eq!(world.links(), ["vnet0"]);
    world.try_start("web2", &["--nic", TWO], &EMPTY).fails(1, "full");
    assert_eq!(world.links(), ["vnet0"]);
    // A revocation works nevertheless, and is on record when there is room again.
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(guest.holds(), Vec::<String>::new());
    fs::remove_file(filler).unwrap();
    world.attach(&guest, TWO).ok();
    world.stop(&guest);
    let record_lines = world.record_lines();
    assert_eq!(record_lines.iter().filter(|line| *line == "revoke 01").count(), 1, "{record_lines:?}");
    assert_eq!(world.taptrail(["ledger", "check"]).ok().code(), 0);
    world.assert_clean();
}

// Shows 4.10.
#[test]
fn a_ledger_that_turns_read_only_refuses_grants_and_harms_no_guest() {
    let world = small();
    let guest = world.start("web1", &["--nic", ONE]);
    let connection = rusqlite::Connection::open(Ledger::file(&world.state())).unwrap();
    // By SQLite's own switch: the file system can't be remounted while a supervisor has its files
    // open.
    connection
        .execute_batch(
            "CREATE TRIGGER no BEFORE INSERT ON record BEGIN SELECT raise(ABORT, 'read-only'); END",
        )
        .unwrap();
    world.attach(&guest, TWO).fails(1, "read-only");
    assert_eq!((guest.holds(), world.links()), (vec!["tun vnet0".to_owned()], vec!["vnet0".to_owned()]));
    connection.execute_batch("DROP TRIGGER no").unwrap();
    drop(connection);
    world.attach(&guest, TWO).ok();
    world.stop(&guest);
    world.assert_clean();
}

// Shows 4.10.
#[test]
fn a_disk_that_fails_under_a_guest_refuses_grants_and_what_ended_is_closed_later() {
    let world = World::new();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(&["--make-rprivate", "/"]);
    fs::create_dir(world.state()).unwrap();
    let (image, state) = (world.path("disk"), world.state());
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let image = image.to_str().unwrap();
    assert!(Command::new("/sbin/mkfs.ext4").args(["-q", image]).status().unwrap().success());
    let state = state.to_str().unwrap();
    mount(&["-o", "loop", image, state]);
    let guest = world.start("web1", &["--nic", ONE]);
    // As ext4 does itself when its disk returns errors: it writes nothing from then on, also to
    // open files.
    mount(&["-o", "remount,abort", state]);
    world.attach(&guest, TWO).fails(1, "disk I/O error");
    assert_eq!((guest.holds(), world.links()), (vec!["tun vnet0".to_owned()], vec!["vnet0".to_owned()]));
    world.try_start("web2", &["--nic", TWO], &EMPTY).fails(1, "Read-only file system");

    // The guest's end does not wait for the ledger; closing its account does.
    world.taptrail(["stop", "web1", "--force"]).fails(1, "account could not be closed");
    assert_eq!(world.links(), Vec::<String>::new());
    assert!(Command::new("/bin/umount").arg(state).status().unwrap().success());
    let mended = Command::new("/sbin/e2fsck").args(["-fy", image]).output().unwrap();
    assert!(matches!(mended.status.code(), Some(0 | 1)), "{mended:?}");
    mount(&["-o", "loop", image, state]);
    world.taptrail(["recover"]).ok();
    world.assert_clean();
    assert_eq!(world.record_lines().last().unwrap(), "guest unknown");
    assert!(Command::new("/bin/umount").arg(state).status().unwrap().success());
}

// Shows 4.11.
#[test]
fn a_damaged_ledger_is_named_and_starts_nobody() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.stop(&guest);
    assert!(world.taptrail(["ledger", "check"]).ok().stdout.contains("is sound"));
    let file = Ledger::file(&world.state());
    // Overwrites everything except the first page.
    let length = fs::metadata(&file).unwrap().len();
    let mut damaged = fs::File::options().write(true).open(&file).unwrap();
    damaged.seek(SeekFrom::Start(4096)).unwrap();
    damaged.write_all(&vec![0xA5; usize::try_from(length - 4096).unwrap()]).unwrap();
    drop(damaged);
    let done = world.taptrail(["ledger", "check"]);
    assert!(matches!(done.code(), 1 | 2), "{}{}", done.stdout, done.stderr);
    world.try_start("web2", &["--nic", TWO], &EMPTY).fails(1, "malformed");
    assert_eq!(world.links(), Vec::<String>::new());
}

// Shows 4.11.
#[test]
fn damage_that_no_start_would_meet_starts_nobody_either() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.stop(&guest);
    let file = Ledger::file(&world.state());
    let pages = fs::metadata(&file).unwrap().len() / 4096;
    // A page of records that no start reads.
    let text = b"op=stop";
    let is_theirs = |page: &u64| {
        let mut bytes = [0; 4096];
        let ledger = fs::File::open(&file).unwrap();
        ledger.read_exact_at(&mut bytes, page * 4096).unwrap();
        bytes.windows(text.len()).any(|window| window == text)
    };
    let page = (1..pages).find(is_theirs).unwrap();
    fs::File::options().write(true).open(&file).unwrap().write_all_at(&[0xA5; 2048], page * 4096).unwrap();
    world.try_start("web2", &["--nic", TWO], &EMPTY).fails(1, "is damaged");
    assert_eq!(world.links(), Vec::<String>::new());
}

/// Makes the ledger of a watcher that ran while a real libvirt wrote this log.
fn watch(state: &Path, log: &Path) {
    let mut records: Vec<(Entry, Record)> = Vec::new();
    let outcome = read(vec![Input::File(log.to_owned())], ReadOptions::default(), &mut |entry| {
        if let Content::Record(record) = &entry.content {
            records.push((entry.clone(), record.clone()));
        }
        ControlFlow::Continue(())
    });
    assert!(outcome.failed.is_empty());
    let mut ledger = Ledger::open(state).unwrap();
    let tx = ledger.begin().unwrap();
    let (guest, begun) = (&records[0].1.guest, records[0].0.time);
    let watched = NewWatched { id: guest, boot_id: "boot", watcher: Process { pid: 77, start: 1 }, begun };
    let key = tx.watched_begins(&watched).unwrap();
    let own = |event: Event, time| {
        let record = Record::success(guest.clone(), event);
        let text = record.text(Path::new("/usr/bin/taptrail")).unwrap();
        let logged = Logged { outcome: AuditOutcome::Off, serial: None };
        let new = NewRecord { time, kind: record.record_type().number(), text: &text, logged };
        tx.watched(key, &new, 77).unwrap();
    };
    let device = Device::new("/dev/tap7", Some(Rdev { major: 246, minor: 2 }), Some("macvtap0".into()));
    let mac = records[0].1.event.mac();
    let descriptor = Descriptor { mac, device, queue: Some(0), vm_pid: 27013, fd: 25 };
    for (entry, record) in &records {
        let text = record.text(Path::new("?")).unwrap();
        let logged = Logged { outcome: AuditOutcome::Copied, serial: entry.serial };
        let new = NewRecord { time: entry.time, kind: record.record_type().number(), text: &text, logged };
        tx.copy(key, &new, entry.writer).unwrap();
        let soon = jiff::SignedDuration::from_millis(5);
        match record.event {
            Event::GuestStart { .. } => own(Event::Seen(descriptor.clone()), entry.time + soon),
            Event::GuestStop { .. } => own(Event::Gone(descriptor.clone()), entry.time - soon),
            _ => {}
        }
    }
    tx.guest_ends(key, "destroyed").unwrap();
    tx.commit().unwrap();
}

// Shows 13.8.
#[test]
fn libvirts_log_and_the_ledger_of_its_watcher_are_one_trail() {
    let world = World::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt/libvirt-9.0/02-macvtap");
    let log = data.join("audit.log");
    watch(&world.state(), &log);
    let ledger = Ledger::file(&world.state());
    let read = |files: &[&Path]| {
        let files = files.iter().map(|file| file.to_str().unwrap());
        let trail = world.json(["trail", "--assume-host", "h1", "--format", "json"].into_iter().chain(files));
        let keys = ["device", "state", "certainty", "ended_by"];
        let holdings = trail["holdings"].as_array().unwrap().iter();
        let holdings: Vec<_> = holdings.map(|holding| keys.map(|key| holding[key].clone())).collect();
        let findings = trail["findings"].as_array().unwrap().iter();
        let findings: Vec<_> = findings.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect();
        (holdings, findings, trail["input"]["duplicates"].clone())
    };
    let (alone, _, _) = read(&[&log]);
    assert_eq!(alone[0][2..], [json!("inferred"), json!("stop")]);
    let both = read(&[&log, &ledger]);
    assert_eq!(both.0[0][2..], [json!("definitive"), json!("stop")]);
    assert_eq!(both.0[0][0]["path"], "/dev/tap7");
    assert_eq!((both.0.len(), &both.2), (3, &json!(6)), "{both:?}");
    assert_eq!(both.1, ["open-failed", "contradictory-open"]);
    assert_eq!(read(&[&ledger]).0, both.0, "the ledger alone has it, too");

    // If somebody removes a record from the log, the ledger shows it.
    let text = fs::read_to_string(&log).unwrap();
    let cut: Vec<&str> = text.lines().filter(|line| !line.contains("resrc=net reason=start")).collect();
    let changed = world.path("changed.log");
    fs::write(&changed, cut.join("\n") + "\n").unwrap();
    let (holdings, findings, _) = read(&[&changed, &ledger]);
    assert_eq!(holdings, both.0);
    assert_eq!(findings, ["open-failed", "contradictory-open", "serial-gap"]);
}

// Shows 10.47.
#[test]
fn an_attach_that_is_under_way_is_reported_as_opening() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    // QEMU does not answer: the hand-over waits for it.
    guest.signal(Signal::STOP);
    let mut attach = world.command(["attach", "web1", "--nic", ONE]).stderr(Stdio::null()).spawn().unwrap();
    let state = || world.trail()["holdings"][0]["state"].clone();
    world.until("the open is on record", || !state().is_null());
    assert_eq!(state(), "opening");
    let trail = world.trail();
    assert_eq!(trail["holdings"][0]["certainty"], "definitive");
    assert_eq!(trail["holdings"][0]["possibly_held"][0]["why"], "trail-ends");
    world.taptrail(["findings"]).ok();
    let explanation = world.taptrail(["explain", "web1"]).ok().stdout;
    assert!(explanation.contains("and no record shows yet what followed"), "{explanation}");
    // A copy of the ledger still names a supervisor of this host.
    let copy = world.path("copy.sqlite");
    rusqlite::Connection::open(Ledger::file(&world.state()))
        .unwrap()
        .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    guest.signal(Signal::CONT);
    assert!(attach.wait().unwrap().success());
    assert_eq!(state(), "held");
    // Nobody can finish the killed supervisor's step.
    world.kill_supervisor("web1");
    let left = world.json(["trail".as_ref(), "--format=json".as_ref(), copy.as_os_str()]);
    assert_eq!(left["holdings"][0]["state"], "unknown", "{left}");
    assert_eq!(left["findings"][0]["kind"], "grant-unknown");
    world.taptrail(["recover"]).ok();
}

/// Makes a ledger with one guest that has ended; part of it is only in its write-ahead log.
fn evidence(world: &World, to: &Path) {
    let guest = world.start("web1", &["--nic", ONE]);
    // An open reader keeps SQLite from checkpointing the write-ahead log at the end.
    let reader = rusqlite::Connection::open(Ledger::file(&world.state())).unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM record", [], |row| row.get(0)).unwrap();
    world.stop(&guest);
    for name in ["ledger.sqlite", "ledger.sqlite-wal"] {
        fs::copy(world.state().join(name), to.join(name)).unwrap();
    }
    assert!(fs::metadata(to.join("ledger.sqlite-wal")).unwrap().len() > 0);
}

#[test]
fn a_ledger_on_read_only_media_is_read() {
    let world = World::new();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(&["--make-rprivate", "/"]);
    let media = world.path("media");
    fs::create_dir(&media).unwrap();
    mount(&["-t", "tmpfs", "-o", "mode=755", "media", media.to_str().unwrap()]);
    evidence(&world, &media);
    mount(&["-o", "remount,ro", media.to_str().unwrap()]);
    let file = media.join("ledger.sqlite");
    let file = file.to_str().unwrap();
    for arguments in [
        &["--state-dir", media.to_str().unwrap(), "trail", "--format", "json"][..],
        &["trail", "--format", "json", file],
    ] {
        let trail = world.json(arguments);
        assert_eq!(trail["holdings"][0]["state"], "released", "{trail}");
        assert_eq!(trail["holdings"][0]["certainty"], "definitive");
    }
    let of = |command: &[&str]| {
        let arguments = [&["--state-dir", media.to_str().unwrap()], command].concat();
        world.taptrail(arguments).ok().stdout
    };
    assert!(of(&["ledger", "check"]).contains("is sound"));
    assert_eq!(of(&["ledger", "export"]).lines().count(), 5);
    assert!(of(&["list"]).contains("No guests"));
    assert!(of(&["explain", ONE.split(['=', ',']).nth(3).unwrap()]).contains("Basis       definitive: "));
}

// Shows 4.17.
#[test]
fn a_state_directory_that_others_can_write_to_is_believed_by_no_command() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    evidence(&world, dir.path());
    let state = dir.path().to_str().unwrap();
    let (file, log) = (dir.path().join("ledger.sqlite"), dir.path().join("ledger.sqlite-wal"));
    let before = (fs::read(&file).unwrap(), fs::read(&log).unwrap());
    let in_it = |command: &[&str]| world.taptrail([&["--state-dir", state], command].concat());
    assert!(in_it(&["trail"]).ok().stdout.contains("web1"));
    let commands = [&["trail"][..], &["who", "tun"], &["explain", "web1"], &["findings"], &["verify"]];
    let check = [&["ledger", "check"][..], &["ledger", "export"]];
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refused = |why: &str| {
        for command in commands.iter().chain(&check) {
            let done = in_it(command);
            assert!(!done.success() && done.stdout.is_empty(), "{command:?}: {}", done.stdout);
            assert!(
                done.stderr.contains(&format!("is refused, because {why}")),
                "{command:?}: {}",
                done.stderr
            );
        }
        // `list` still shows guests whose supervisor answers.
        let listed = in_it(&["list"]);
        assert!(listed.stderr.contains(&format!("is refused, because {why}")), "{}", listed.stderr);
        // As a FILE it is evidence of its owner.
        assert!(world.taptrail(["trail".as_ref(), file.as_os_str()]).ok().stdout.contains("web1"));
    };
    mode(dir.path(), 0o777);
    refused("others may write to it");
    mode(dir.path(), 0o700);
    mode(&file, 0o666);
    refused("others may write to it");
    mode(&file, 0o600);
    std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
    refused("it belongs to user 65534");
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
    refused("it belongs to user 65534");
    assert!((fs::read(&file).unwrap(), fs::read(&log).unwrap()) == before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_user_who_may_only_read_a_ledger_reads_it_and_leaves_it_as_it_is() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    evidence(&world, dir.path());
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let files = || {
        let entries = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = files();
    mode(dir.path(), 0o755);
    before.keys().for_each(|path| mode(path, 0o644));
    let program = dir.path().parent().unwrap().join(format!("taptrail-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_taptrail"), &program).unwrap();
    mode(&program, 0o755);
    let read = |user: &str| {
        let done = Command::new("/usr/bin/setpriv")
            .args(["--reuid", user, "--clear-groups"])
            .arg(&program)
            .args(["trail", "--format", "json"])
            .arg(dir.path().join("ledger.sqlite"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
        serde_json::from_slice::<serde_json::Value>(&done.stdout).map_err(|_| stderr)
    };
    let trails = ["65534", "0"].map(read);
    fs::remove_file(&program).unwrap();
    for trail in trails {
        assert_eq!(trail.unwrap()["holdings"][0]["state"], "released");
    }
    assert_eq!(files(), before);
}

#[test]
fn a_ledger_with_a_trigger_is_refused_by_its_name_and_nothing_is_opened() {
    let world = World::new();
    world.stop(&world.start("web1", &["--nic", ONE]));
    let file = Ledger::file(&world.state());
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute_batch("CREATE TRIGGER x AFTER INSERT ON record BEGIN DELETE FROM record; END").unwrap();
    drop(raw);
    let says =
        format!("{} is not as taptrail makes it, and nothing of it is believed: trigger 'x'", file.display());
    let copy = world.path("copy.sqlite");
    fs::copy(&file, &copy).unwrap();
    world.taptrail(["trail"]).fails(2, &says);
    world.taptrail(["ledger", "check"]).fails(2, &says);
    world.taptrail(["trail".as_ref(), copy.as_os_str()]).fails(2, "trigger 'x' is none of a ledger's");
    world.try_start("web2", &["--nic", ONE], &EMPTY).fails(1, "trigger 'x'");
    assert_eq!(world.links(), [""; 0]);
}
