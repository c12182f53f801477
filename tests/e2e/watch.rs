//! `taptrail watch`: a log that it follows, real QEMUs, and its notifications.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::world::OwnedChild;
use crate::world::World;
use crate::world::auditing::Auditing;
use crate::world::log::{Log, MAC, UUID};
use crate::world::tls::{Certificate, Server};
use serde_json::Value;
use taptrail_kernel::audit::{Audit, VIRT_CONTROL, VIRT_RESOURCE};
use taptrail_kernel::proc::{PidFd, ProcessId, Signal};

/// A real QEMU with one tap, whose address is derived from the guest's as libvirt does it.
struct Qemu(OwnedChild);

impl Qemu {
    fn start(world: &World) -> Self {
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "none", "-nodefaults", "-display", "none", "-name", "web1", "-uuid", UUID])
            .args(["-netdev", "tap,id=n0,ifname=watched0,script=no,downscript=no,vhost=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(world.path("qemu.log")).unwrap())
            .spawn()
            .unwrap();
        let qemu = Self(child.into());
        world.until("QEMU has its tap", || world.links().contains(&"watched0".to_owned()));
        world.ip("link set watched0 address fe:54:00:0a:0f:01");
        qemu
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// `taptrail watch`, and the events that it printed.
pub(crate) struct Watch {
    child: OwnedChild,
    events: Arc<Mutex<Vec<Value>>>,
    errors: PathBuf,
}

impl Watch {
    pub(crate) fn start(world: &World, options: &[&str]) -> Self {
        Self::start_with(world, options, Stdio::null())
    }

    fn start_with(world: &World, options: &[&str], stdin: Stdio) -> Self {
        let errors = world.path("watch.log");
        let mut command = world.command([&["watch", "--json", "--every", "200ms"], options].concat());
        let stderr = File::options().create(true).append(true).open(&errors).unwrap();
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let events = Arc::<Mutex<Vec<_>>>::default();
        let (lines, to) = (BufReader::new(child.stdout.take().unwrap()).lines(), Arc::clone(&events));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap();
                crate::world::contract::assert_valid("watch", &event);
                to.lock().unwrap().push(event);
            }
        });
        Self { child: child.into(), events, errors }
    }

    /// Waits for an event with these values.
    pub(crate) fn wait_for(&mut self, world: &World, what: &[(&str, &str)]) -> Value {
        let is = |line: &Value| what.iter().all(|(name, value)| line[*name] == **value);
        let mut found = None;
        let (events, errors) = (Arc::clone(&self.events), self.errors.clone());
        let child = &mut self.child;
        world.until(&format!("{what:?}"), || {
            let events = events.lock().unwrap();
            found = events.iter().find(|line| is(line)).cloned();
            let ended = child.try_wait().unwrap();
            assert!(
                found.is_some() || ended.is_none(),
                "{what:?}: {ended:?} {events:#?} {}",
                fs::read_to_string(&errors).unwrap()
            );
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn all(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    fn signal(&self, signal: Signal) {
        PidFd::open(ProcessId::of(self.child.id()).unwrap()).unwrap().send_signal(signal).unwrap();
    }

    /// Ends it with SIGTERM, and asserts success.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.errors());
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }
}

/// The kind of each event, with its state or finding.
pub(crate) fn kinds(events: &[Value]) -> Vec<String> {
    let word = |line: &Value| {
        let more = [&line["state"], &line["finding"]].into_iter().find_map(Value::as_str);
        format!("{} {}", line["kind"].as_str().unwrap(), more.unwrap_or_default()).trim().to_owned()
    };
    events.iter().map(word).collect()
}

// Shows 13.28.
#[test]
fn what_a_manager_says_and_what_its_qemu_holds_is_reported_as_it_happens() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    let mut watch = Watch::start(&world, &[]);
    log.boots(qemu.0.id());
    let granted = watch.wait_for(&world, &[("kind", "granted")]);
    assert_eq!((&granted["guest"]["name"], &granted["mac"]), (&"web1".into(), &MAC.into()));
    assert_eq!(granted["pid"], qemu.0.id());
    assert_eq!(granted["descriptors"][0]["device"]["dev"], "watched0");
    qemu.kill();
    watch.wait_for(&world, &[("kind", "guest"), ("state", "gone")]);
    let released = watch.wait_for(&world, &[("kind", "released")]);
    assert_eq!(
        (&released["certainty"], &released["device"]["dev"]),
        (&"definitive".into(), &"watched0".into())
    );
    watch.stop();
    assert_eq!(
        kinds(&watch.all()),
        ["opened", "guest started", "granted", "guest ended", "guest gone", "released"],
        "{}",
        watch.errors()
    );
    let trail =
        world.json(["trail", "--format", "json", world.state().join("ledger.sqlite").to_str().unwrap()]);
    assert_eq!(
        (&trail["holdings"][0]["state"], &trail["holdings"][0]["certainty"]),
        (&"released".into(), &"definitive".into())
    );
}

// Shows 13.23.
#[test]
fn a_watcher_that_comes_back_goes_on_where_it_was_across_rotations() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    log.noise(200);
    log.boots(qemu.0.id());
    let mut watch = Watch::start(&world, &[]);
    watch.wait_for(&world, &[("kind", "granted")]);
    watch.stop();
    // While no watcher runs, the log is rotated twice, and the guest gets another interface and
    // loses it.
    let other = "52:54:00:0a:0f:02";
    log.rotate();
    log.opened(other);
    log.granted("attach", other);
    log.rotate();
    log.granted("detach", other);
    let mut watch = Watch::start(&world, &[]);
    watch.wait_for(&world, &[("kind", "opened"), ("mac", other)]);
    // Nobody saw the interface, and no record follows, but it is released.
    let released = watch.wait_for(&world, &[("kind", "released"), ("mac", other)]);
    assert_eq!((&released["reason"], &released["certainty"]), (&"detach".into(), &"inferred".into()));
    watch.stop();
    let mut events = watch.all();
    let mut watch = Watch::start(&world, &[]);
    qemu.kill();
    watch.wait_for(&world, &[("kind", "guest"), ("state", "ended")]);
    watch.stop();
    events.extend(watch.all());
    // The next watcher reports the end of the account, and repeats no event.
    let mut watch = Watch::start(&world, &[]);
    watch.wait_for(&world, &[("kind", "released"), ("mac", MAC)]);
    watch.stop();
    events.extend(watch.all());
    let kinds = kinds(&events);
    assert_eq!(kinds, ["opened", "released", "guest ended", "guest gone", "released"], "{events:#?}");
    assert!(!events.iter().any(|line| line["finding"] == "log-gap"), "{events:#?}");
}

/// Rewrites a process's arguments, as any process can do for itself.
fn rewrite_arguments(pid: u32, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // arg_start and arg_end (proc(5), fields 48 and 49).
    let [start, end] = [45, 46].map(|at: usize| fields[at].parse::<u64>().unwrap());
    let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
    let mut arguments = vec![0; usize::try_from(end - start).unwrap()];
    memory.read_exact_at(&mut arguments, start).unwrap();
    let at = arguments.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    memory.write_all_at(to.as_bytes(), start + u64::try_from(at).unwrap()).unwrap();
}

#[test]
fn a_qemu_that_rewrites_its_arguments_is_watched_by_the_next_watcher_and_accounted_for() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    log.boots(qemu.0.id());
    let mut watch = Watch::start(&world, &[]);
    watch.wait_for(&world, &[("kind", "granted")]);
    watch.stop();
    rewrite_arguments(qemu.0.id(), UUID, "ffffffff-ffff-4fff-8fff-ffffffffffff");
    let mut watch = Watch::start(&world, &[]);
    log.opened("52:54:00:0a:0f:02");
    watch.wait_for(&world, &[("kind", "opened"), ("mac", "52:54:00:0a:0f:02")]);
    let log_path = log.path.to_str().unwrap().to_owned();
    let options = ["verify", "--netns", "/proc/self/ns/net", "--ignore-pid", "1", "--format", "json"];
    let seen = world.json(options.into_iter().chain(["--log", &log_path]));
    assert_eq!(
        (&seen["counts"]["accounted"], &seen["devices"][0]["process"]["pid"]),
        (&1.into(), &qemu.0.id().into())
    );
    qemu.kill();
    let released = watch.wait_for(&world, &[("kind", "released"), ("mac", MAC)]);
    assert_eq!((&released["certainty"], &released["end_doubt"]), (&"definitive".into(), &Value::Null));
    watch.stop();
    assert_eq!(kinds(&watch.all())[..2], ["opened", "guest ended"], "{:#?}", watch.all());
}

// Shows 13.37.
#[test]
fn a_watcher_says_what_it_follows_from_where_and_what_it_waits_for() {
    let world = World::new();
    let path = world.path("audit.log");
    let logs = |watch: &mut Watch, what: &str| {
        world.until(what, || {
            let errors = watch.errors();
            errors.contains(what) || watch.child.try_wait().unwrap().is_some_and(|_| panic!("{errors}"))
        });
    };
    let following = format!("Following the audit log {}\n", path.display());
    let mut watch = Watch::start(&world, &[]);
    logs(&mut watch, &format!("WARN {} does not exist: no guest is watched until it does", path.display()));
    assert!(watch.errors().contains(&following), "{}", watch.errors());
    let mut log = Log::new(&world);
    log.noise(4);
    log.opened(MAC);
    watch.wait_for(&world, &[("kind", "opened")]);
    watch.stop();

    fs::remove_file(&watch.errors).unwrap();
    let mut watch = Watch::start(&world, &[]);
    let place = format!(
        "Going on from the checkpoint: {} at line 6; the last record that the previous watcher took is of ",
        path.display()
    );
    logs(&mut watch, &place);
    watch.stop();
    assert!(watch.errors().contains(&following) && !watch.errors().contains("does not exist"));

    // If the log was replaced, the checkpoint's place is gone.
    fs::remove_file(&path).unwrap();
    Log { serial: 2000, ..Log::new(&world) }.noise(1);
    let mut watch = Watch::start(&world, &[]);
    logs(&mut watch, "Going on from the checkpoint, whose place in the log is gone: ");
    watch.stop();

    // The first watcher of all begins with the oldest rotation, or as `--begin` says.
    let world = World::new();
    let mut log = Log::new(&world);
    log.noise(3);
    log.rotate();
    log.noise(2);
    let oldest =
        format!("No checkpoint: beginning with the oldest rotation, {}.1 at line 1\n", log.path.display());
    let now = format!(
        "No checkpoint: beginning with what is written from now on, {} at line 3\n",
        log.path.display()
    );
    for (options, what) in [(&["--begin", "end"][..], &now), (&[], &oldest)] {
        let mut watch = Watch::start(&world, options);
        world.until(what, || watch.errors().contains(what));
        watch.signal(Signal::KILL);
        watch.wait();
        fs::remove_dir_all(world.state()).unwrap();
    }
}

// Shows 13.16.
#[test]
fn a_change_of_bridge_without_a_record_is_an_event_and_a_metric() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    for bridge in ["one", "two"] {
        world.ip(&format!("link add {bridge} type bridge"));
    }
    world.ip("link set watched0 master one");
    log.boots(qemu.0.id());
    let numbers = world.path("taptrail.prom");
    let mut watch = Watch::start(&world, &["--metrics-file", numbers.to_str().unwrap()]);
    watch.wait_for(&world, &[("kind", "granted")]);
    world.ip("link set watched0 master two");
    let changed = watch.wait_for(&world, &[("kind", "bridge-changed")]);
    assert_eq!((&changed["from"], &changed["to"]), (&"one".into(), &"two".into()));
    assert_eq!((&changed["mac"], &changed["device"]["dev"]), (&MAC.into(), &"watched0".into()));
    assert_eq!((&changed["guest"]["name"], &changed["pid"]), (&"web1".into(), &qemu.0.id().into()));
    // A change that failed leaves the tap in no bridge.
    world.ip("link set watched0 nomaster");
    let changed = watch.wait_for(&world, &[("kind", "bridge-changed"), ("from", "two")]);
    assert_eq!(changed.get("to"), Some(&Value::Null));
    world.until("the number", || {
        fs::read_to_string(&numbers).is_ok_and(|text| text.contains("\ntaptrail_bridge_changes_total 2\n"))
    });
    qemu.kill();
    watch.wait_for(&world, &[("kind", "released")]);
    watch.stop();
    let kinds = kinds(&watch.all());
    assert_eq!(kinds.iter().filter(|kind| *kind == "bridge-changed").count(), 2, "{kinds:?}");
    assert_eq!(kinds.last().unwrap(), "released");
}

// Shows 13.23.
#[test]
fn a_watcher_that_is_killed_again_and_again_loses_nothing() {
    let world = World::new();
    let mut log = Log::new(&world);
    let mut macs = Vec::new();
    for round in 0..12_u8 {
        let mut watch = Watch::start(&world, &[]);
        for number in 0..4_u8 {
            let mac = format!("52:54:00:0a:1f:{:02x}", round * 4 + number);
            log.noise(50);
            log.opened(&mac);
            macs.push(mac);
            if number == 2 && round % 3 == 0 {
                log.rotate();
            }
        }
        if round % 2 == 0 {
            watch.wait_for(&world, &[("kind", "opened")]);
        }
        watch.signal(Signal::KILL);
        watch.wait();
    }
    let mut watch = Watch::start(&world, &[]);
    let last = "52:54:00:0a:1f:ff";
    log.opened(last);
    macs.push(last.to_owned());
    watch.wait_for(&world, &[("kind", "opened"), ("mac", last)]);
    watch.stop();
    // The ledger has each record once, in order.
    let recorded: Vec<_> =
        world.records().iter().filter_map(|record| record.event.mac()).map(|mac| mac.to_string()).collect();
    assert_eq!(recorded, macs);
}

// Shows 13.21.
#[test]
fn a_log_that_was_removed_is_reported_as_a_gap() {
    let world = World::new();
    let (mut log, qemu) = (Log::new(&world), Qemu::start(&world));
    log.boots(qemu.0.id());
    let mut watch = Watch::start(&world, &[]);
    watch.wait_for(&world, &[("kind", "granted")]);
    watch.stop();
    // Somebody removed the log with its records.
    fs::remove_file(world.path("audit.log")).unwrap();
    log.serial += 100;
    let mut log = Log { serial: log.serial, ..Log::new(&world) };
    log.noise(1);
    let mut watch = Watch::start(&world, &[]);
    let gap = watch.wait_for(&world, &[("finding", "log-gap")]);
    assert!(gap["text"].as_str().unwrap().contains("audit events 1004 to 1103 are not known"), "{gap:#}");
    watch.stop();
    drop(qemu);
}

/// Sends an HTTP request in this world, and returns the response.
fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

// Shows 13.28.
#[test]
fn the_numbers_are_scraped_and_in_a_file() {
    let world = World::new();
    let (mut log, mut qemu) = (Log::new(&world), Qemu::start(&world));
    let file = world.path("taptrail.prom");
    let options = ["--metrics-listen", "127.0.0.1:9108", "--metrics-file", file.to_str().unwrap()];
    let mut watch = Watch::start(&world, &options);
    log.boots(qemu.0.id());
    watch.wait_for(&world, &[("kind", "granted")]);
    let holds = format!("taptrail_holdings{{guest=\"web1\",uuid=\"{UUID}\",kind=\"tun\"}} 1\n");
    let scraped = http_get("127.0.0.1:9108", "/metrics");
    assert!(scraped.starts_with("HTTP/1.1 200 OK\r\n") && scraped.contains(&holds), "{scraped}");
    for line in [
        "taptrail_opens_total{outcome=\"success\"} 1\n",
        "taptrail_grants_total 1\n",
        "taptrail_log_lag_bytes 0\n",
    ] {
        assert!(scraped.contains(line), "{line} in {scraped}");
    }
    assert!(http_get("127.0.0.1:9108", "/").starts_with("HTTP/1.1 404"));
    world.until("the file has them", || fs::read_to_string(&file).is_ok_and(|text| text.contains(&holds)));
    qemu.kill();
    watch.wait_for(&world, &[("kind", "released")]);
    let scraped = http_get("127.0.0.1:9108", "/metrics");
    assert!(
        scraped.contains("taptrail_releases_total{certainty=\"definitive\"} 1\n")
            && !scraped.contains(&holds),
        "{scraped}"
    );
    // Silent scrapers block neither the watcher nor other scrapers.
    let silent: Vec<_> = (0..1000).map(|_| TcpStream::connect("127.0.0.1:9108").unwrap()).collect();
    log.opened("52:54:00:0a:0f:07");
    watch.wait_for(&world, &[("kind", "opened"), ("mac", "52:54:00:0a:0f:07")]);
    assert!(http_get("127.0.0.1:9108", "/metrics").starts_with("HTTP/1.1 200 OK\r\n"));
    drop(silent);
    watch.stop();
}

// Shows 13.29.
#[test]
fn a_finding_runs_a_program_calls_a_webhook_and_is_in_the_journal() {
    let world = World::new();
    let mut log = Log::new(&world);
    let (out, program) = (world.path("out"), world.path("program"));
    let left = world.path("left");
    let script = format!(
        "#!/bin/sh\n(setsid sh -c 'echo $$ >{1}; sleep 1000' &)\nuntil [ -s {1} ]; do sleep 0.01; done\n\
         cat >{0}.new && mv {0}.new {0}\n",
        out.display(),
        left.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let journald = UnixDatagram::bind(world.path("journal")).unwrap();
    journald.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = std::thread::spawn({
        let listener = listener.try_clone().unwrap();
        move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            while !request.ends_with('}') {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                request += std::str::from_utf8(&piece[..read]).unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            request
        }
    });
    let options = [
        format!("--on-finding=open-failed={}", program.display()),
        format!("--webhook=any=http://{}/hook", listener.local_addr().unwrap()),
        format!("--journald={}", world.path("journal").display()),
    ];
    let mut watch = Watch::start(&world, &options.each_ref().map(String::as_str));
    log.opened(MAC);
    log.line(
        "VIRT_RESOURCE",
        &format!("resrc=net reason=open vm=\"web1\" uuid={UUID} net={MAC} path=\"/dev/net/tun\" rdev=0A:C8"),
    );
    fs::write(
        &log.path,
        fs::read_to_string(&log.path).unwrap()
            + &fs::read_to_string(&log.path)
                .unwrap()
                .lines()
                .last()
                .unwrap()
                .replace("res=success", "res=failed")
                .replace(":1002)", ":1003)")
            + "\n",
    )
    .unwrap();
    let finding = watch.wait_for(&world, &[("finding", "open-failed")]);
    world.until("the program has run", || out.exists());
    assert_eq!(serde_json::from_str::<Value>(&fs::read_to_string(&out).unwrap()).unwrap(), finding);
    // A process that it left behind in a session of its own is killed, too.
    let left = PathBuf::from(format!("/proc/{}", fs::read_to_string(&left).unwrap().trim()));
    world.until("it is ended", || !left.exists());
    let request = hook.join().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), finding);
    let mut entry = vec![0; 1 << 20];
    loop {
        let length = journald.recv(&mut entry).unwrap();
        let entry = String::from_utf8_lossy(&entry[..length]);
        if entry.contains("TAPTRAIL_FINDING=open-failed\n") {
            assert!(entry.contains("TAPTRAIL_GUEST=web1\n") && entry.contains("PRIORITY=4\n"), "{entry}");
            break;
        }
    }
    watch.stop();
}

// Shows 13.42.
#[test]
fn a_webhook_over_tls_goes_to_whom_the_hosts_authorities_vouch_for_and_to_nobody_else() {
    let mut world = World::new();
    let (ours, others) = (Certificate::authority(&world, "ours"), Certificate::authority(&world, "others"));
    let server = |name, subject, authority| {
        Server::start(&world, &Certificate::server(&world, name, subject, authority))
    };
    let mut known = server("known", "IP:127.0.0.1", &ours);
    let misnamed = server("misnamed", "DNS:example.org", &ours);
    let mut stranger = server("stranger", "IP:127.0.0.1", &others);
    let authorities = world.path("authorities");
    fs::copy(&ours.file, &authorities).unwrap();
    world.extra.push(("SSL_CERT_FILE".to_owned(), authorities.to_str().unwrap().to_owned()));
    let numbers = world.path("taptrail.prom");
    let mut options = vec![format!("--metrics-file={}", numbers.display())];
    options.extend(
        [&known, &misnamed, &stranger].map(|to| format!("--webhook=any=https://{}/hook", to.address)),
    );
    let mut log = Log::new(&world);
    let mut watch = Watch::start(&world, &options.iter().map(String::as_str).collect::<Vec<_>>());
    let count = |outcome: &str| {
        let prefix = format!("taptrail_deliveries_total{{to=\"webhook\",outcome=\"{outcome}\"}} ");
        let numbers = fs::read_to_string(&numbers).unwrap_or_default();
        numbers.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
    };

    log.failed_start("web1");
    world.until("it is sent", || known.output().contains(r#""name":"web1""#));
    assert!(known.output().contains("POST /hook HTTP/1.1"), "{}", known.output());
    known.respond("204 No Content");
    watch.wait_for(&world, &[("finding", "start-failed")]);
    world.until("the others are given up", || watch.errors().matches("failed: https://").count() == 2);
    for to in [&misnamed, &stranger] {
        let output = to.output();
        assert!(!output.contains("POST"), "{output}");
        let failed = format!("The webhook for a finding 'start-failed' failed: https://{}/…: ", to.address);
        assert!(watch.errors().contains(&failed), "{failed} is not in: {}", watch.errors());
    }

    // The host gets another authority, which is valid from the next finding on.
    fs::write(&authorities, [fs::read(&ours.file).unwrap(), fs::read(&others.file).unwrap()].concat())
        .unwrap();
    log.failed_start("web2");
    for to in [&mut known, &mut stranger] {
        world.until("it is sent", || to.output().contains(r#""name":"web2""#));
        to.respond("200 OK");
    }
    world.until("it is counted", || (count("done"), count("failed")) == ("3".to_owned(), "3".to_owned()));
    assert!(!misnamed.output().contains("POST"), "{}", misnamed.output());
    watch.stop();
}

// Shows 13.33.
#[test]
fn a_service_manager_is_notified_what_is_followed_and_a_reload_harms_nothing() {
    let mut world = World::new();
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    world.extra.push(("NOTIFY_SOCKET".to_owned(), world.path("notify").display().to_string()));
    world.extra.push(("WATCHDOG_USEC".to_owned(), "200000".to_owned()));
    let (mut log, qemu) = (Log::new(&world), Qemu::start(&world));
    let mut watch = Watch::start(&world, &[]);
    let wait_for_message = |what: &str| {
        let mut text = [0; 1024];
        loop {
            let length = socket.recv(&mut text).unwrap_or_else(|error| panic!("{what}: {error}"));
            if String::from_utf8_lossy(&text[..length]).contains(what) {
                break;
            }
        }
    };
    wait_for_message("READY=1");
    log.boots(qemu.0.id());
    wait_for_message(": 1 guest holds 1 device");
    watch.signal(Signal::HUP);
    for _ in 0..3 {
        wait_for_message("WATCHDOG=1");
    }
    log.opened("52:54:00:0a:0f:08");
    watch.wait_for(&world, &[("kind", "opened"), ("mac", "52:54:00:0a:0f:08")]);
    watch.signal(Signal::TERM);
    wait_for_message("STOPPING=1");
    assert!(watch.wait().success());
}

#[test]
fn a_missing_log_is_reported_everywhere_until_it_exists() {
    let mut world = World::new();
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    world.extra.push(("NOTIFY_SOCKET".to_owned(), world.path("notify").display().to_string()));
    let mut watch = Watch::start(&world, &["--metrics-listen", "127.0.0.1:9108"]);
    let receive = || {
        let mut text = [0; 1024];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let path = world.path("audit.log").display().to_string();
    let waits = format!("STATUS=Waits for {path}, which does not exist");
    assert_eq!(receive(), format!("READY=1\n{waits}"));
    let numbers = http_get("127.0.0.1:9108", "/metrics");
    assert!(numbers.contains("\ntaptrail_log_present 0\n"), "{numbers}");
    Log::new(&world).opened(MAC);
    watch.wait_for(&world, &[("kind", "opened")]);
    let numbers = http_get("127.0.0.1:9108", "/metrics");
    assert!(numbers.contains("\ntaptrail_log_present 1\n"), "{numbers}");
    let follows = format!("STATUS=Follows {path}: ");
    loop {
        let message = receive();
        if message.starts_with(&follows) {
            break;
        }
        assert!(message.starts_with(&waits), "{message}");
    }
    watch.stop();
}

// Shows 13.32.
#[test]
fn a_watcher_that_can_not_begin_says_why() {
    let world = World::new();
    let fails = |options: &[&str], says: &str| {
        world.taptrail([&["watch"], options].concat()).fails(2, says);
    };
    fails(&["--metrics-listen", "0.0.0.0:9108"], "--metrics-for-all");
    fails(&["--on-finding", "any=true"], "no absolute path");
    fails(&["--on-finding", "any=/no/such/program"], "/no/such/program: No such file");
    fails(&["--on-finding", "any=/etc/passwd"], "/etc/passwd may not be run: chmod +x");
    fails(&["--on-finding", "gap=/bin/true"], "no kind of finding 'gap'");
    fails(&["--webhook", "any=ftp://example.org"], "no address");
    fails(&["--log", "/no/such/dir/audit.log"], "/no/such/dir");
    fails(&["--kernel", "--stdin"], "cannot be used with");
    let mut watch = Watch::start(&world, &[]);
    Log::new(&world).opened(MAC);
    watch.wait_for(&world, &[("kind", "opened")]);
    fails(&[], "Another watcher");
    watch.stop();
}

#[test]
fn a_reader_who_goes_away_ends_a_watch_that_is_for_nobody_else() {
    let world = World::new();
    let mut log = Log::new(&world);
    let mut child = world
        .command(["watch"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    world.until("it ends", || {
        log.opened(MAC);
        child.try_wait().unwrap().is_some()
    });
    assert!(child.wait().unwrap().success());
}

// Shows 13.27.
#[test]
fn standard_input_is_followed_to_its_end_after_the_log() {
    let world = World::new();
    let mut log = Log::new(&world);
    log.opened(MAC);
    let mut watch = Watch::start_with(&world, &["--stdin"], Stdio::piped());
    watch.wait_for(&world, &[("kind", "opened"), ("mac", MAC)]);
    // auditd writes to its log first, and then to its plugins.
    let before = fs::read(&log.path).unwrap();
    let other = "52:54:00:0a:0f:02";
    log.opened(other);
    let all = fs::read(&log.path).unwrap();
    let mut stdin = watch.child.stdin.take().unwrap();
    stdin.write_all(&all).unwrap();
    drop(stdin);
    assert!(watch.wait().success());
    let opened: Vec<_> =
        watch.all().iter().map(|line| line["mac"].as_str().unwrap_or("?").to_owned()).collect();
    assert_eq!(opened, [MAC, other], "records in the first {} bytes are not reported again", before.len());
}

/// The packaged plugin configuration, for this program and world.
fn plugin(world: &World, arguments: &Path) -> String {
    let packaged = include_str!("../../packaging/taptrail-auditd.conf");
    let path = world.path("plugin");
    let text = format!(
        "#!/bin/sh\nTAPTRAIL_STATE_DIR={} TAPTRAIL_AUDIT_LOG={} exec {} \"$@\" 2>>{}\n",
        world.state().display(),
        world.path("auditd/audit.log").display(),
        env!("CARGO_BIN_EXE_taptrail"),
        world.path("plugin.log").display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let config = packaged.replace("/usr/bin/taptrail", path.to_str().unwrap());
    assert!(config.contains("args = watch --stdin\n"));
    config.replace("watch --stdin\n", &format!("watch @{}\n", arguments.display()))
}

fn log_open(audit: &mut Audit, mac: &str) {
    let text = format!(
        "virt=kvm resrc=net reason=open vm=\"web1\" uuid={UUID} net={mac} path=\"/dev/net/tun\" rdev=0A:C8 \
         exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=success"
    );
    audit.log(VIRT_RESOURCE, &text).unwrap();
}

/// The MACs on record.
fn macs(world: &World) -> Vec<String> {
    if !world.state().join("ledger.sqlite").exists() {
        return Vec::new();
    }
    world.records().iter().filter_map(|record| record.event.mac()).map(|mac| mac.to_string()).collect()
}

// Shows 13.27.
#[test]
fn auditing_a_plugin_of_the_real_auditd_gets_all_records_and_ends_with_it() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let arguments = world.path("watch.args");
    fs::write(&arguments, "# of a plugin\n--stdin\n--silent\n-v\n").unwrap();
    let conf = plugin(&world, &arguments);
    auditing.plugin("taptrail.conf", &conf);
    let mut audit = Audit::open().unwrap();
    let mac = |last: u8| format!("52:54:00:0a:2f:{last:02x}");
    let errors = || fs::read_to_string(world.path("plugin.log")).unwrap_or_default();
    for round in 0..2_u8 {
        auditing.restart_daemon(&world.path(""));
        for number in 0..20 {
            log_open(&mut audit, &mac(round * 20 + number));
        }
        world.until("all is on record", || {
            assert!(!errors().contains("taptrail:"), "{}", errors());
            macs(&world).len() == usize::from(round + 1) * 20
        });
        auditing.end_daemon();
    }
    assert_eq!(macs(&world), (0..40).map(mac).collect::<Vec<_>>());
    let checkpoint = taptrail_ledger::Ledger::open_to_read(&world.state()).unwrap().checkpoint().unwrap();
    assert!(checkpoint.is_some());
    // The watcher saw that auditd ended, so a boot would be no gap.
    assert!(checkpoint.unwrap().text.contains("daemon=ended"), "{}", errors());
}

// Shows 13.26.
#[test]
fn auditing_is_received_from_the_kernel_itself_and_an_overrun_is_a_gap() {
    let Some(_auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let mut watch = Watch::start(&world, &["--kernel", "--begin", "end"]);
    let mut audit = Audit::open().unwrap();
    let mac = |last: u8| format!("52:54:00:0a:3f:{last:02x}");
    world.until("it listens", || {
        log_open(&mut audit, &mac(0));
        watch.all().iter().any(|line| line["kind"] == "opened")
    });
    log_open(&mut audit, &mac(1));
    watch.wait_for(&world, &[("kind", "opened"), ("mac", &mac(1))]);
    // The watcher is stopped while the kernel sends more than its socket holds.
    watch.signal(Signal::STOP);
    let text = format!(
        "virt=kvm op=stop reason=shutdown vm=\"other\" uuid={UUID} vm-pid=0 {} res=success",
        "x".repeat(4000)
    );
    let records: Vec<_> = (0..64).map(|_| (VIRT_CONTROL, &text)).collect();
    for _ in 0..80 {
        audit.log_all(&records);
    }
    watch.signal(Signal::CONT);
    world.until("it hears again", || {
        log_open(&mut audit, &mac(2));
        watch.all().iter().any(|line| line["mac"] == mac(2))
    });
    let gap = watch.wait_for(&world, &[("finding", "log-gap")]);
    let text = gap["text"].as_str().unwrap();
    let numbers =
        text.strip_prefix("The kernel sent records faster than they were read: audit events ").unwrap();
    let (first, rest) = numbers.split_once(" to ").unwrap();
    let number = |text: &str| text.parse::<u32>().unwrap();
    // Most of these records are lost, as no buffer holds them.
    assert!(number(rest.split_once(' ').unwrap().0) - number(first) > 500, "{gap:#}");
    watch.stop();
    // Records that the kernel sends while no watcher listens are a gap, too.
    log_open(&mut audit, &mac(3));
    let mut watch = Watch::start(&world, &["--kernel"]);
    world.until("it listens again", || {
        log_open(&mut audit, &mac(4));
        watch.all().iter().any(|line| line["kind"] == "opened")
    });
    let gap = watch.wait_for(&world, &[("finding", "log-gap")]);
    assert!(
        gap["text"].as_str().unwrap().starts_with("Records that the kernel sent while nobody listened"),
        "{gap:#}"
    );
    watch.stop();
}

#[test]
fn a_locked_ledger_is_waited_for_and_nothing_is_reported_before() {
    let world = World::new();
    let mut log = Log::new(&world);
    let mut watch = Watch::start(&world, &[]);
    log.opened(MAC);
    watch.wait_for(&world, &[("kind", "opened")]);
    // Another process has an open transaction.
    let busy = rusqlite::Connection::open(world.state().join("ledger.sqlite")).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let other = "52:54:00:0a:0f:02";
    log.opened(other);
    world.until("it says so", || watch.errors().contains("tried again in 1 s"));
    log.rotate();
    log.opened("52:54:00:0a:0f:03");
    assert_eq!(watch.all().len(), 1, "{:#?}", watch.all());
    busy.execute_batch("ROLLBACK").unwrap();
    watch.wait_for(&world, &[("mac", "52:54:00:0a:0f:03")]);
    watch.stop();
    let opened: Vec<_> =
        watch.all().iter().map(|line| line["mac"].as_str().unwrap_or("?").to_owned()).collect();
    assert_eq!(opened, [MAC, other, "52:54:00:0a:0f:03"]);
}

#[test]
fn a_log_that_can_not_be_read_is_tried_again() {
    let world = World::new();
    let mut log = Log::new(&world);
    let mut watch = Watch::start(&world, &[]);
    log.opened(MAC);
    watch.wait_for(&world, &[("kind", "opened")]);
    // A directory stands where the log should be.
    fs::rename(&log.path, world.path("audit.log.1")).unwrap();
    fs::create_dir(&log.path).unwrap();
    world.until("it says so", || watch.errors().contains("tried again in 1 s"));
    fs::remove_dir(&log.path).unwrap();
    log.file = File::options().create(true).append(true).open(&log.path).unwrap();
    log.opened("52:54:00:0a:0f:02");
    watch.wait_for(&world, &[("mac", "52:54:00:0a:0f:02")]);
    watch.stop();
}

#[test]
fn a_watcher_whose_ledger_is_removed_ends_for_the_next_to_begin() {
    let world = World::new();
    let mut watch = Watch::start(&world, &[]);
    let mut log = Log::new(&world);
    log.opened(MAC);
    watch.wait_for(&world, &[("kind", "opened")]);
    for file in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
        let _ = fs::remove_file(world.state().join(file));
    }
    log.granted("attach", MAC);
    assert_eq!(watch.wait().code(), Some(1));
}
