//! The commands of README.md and docs/ are run, and print what the document shows.
//!
//! A comment before each block of commands says where it runs, or why it does not:
//!
//! ```text
//! <!-- runs in: a host; exits with 1; varies: 12307 -->
//! <!-- not run: needs a bucket -->
//! ```
//!
//! The places are those of [`Place`]. Blocks of one page and one place run one after the other in
//! the same shell. In a `console` block, each command's output is compared; `…` stands for any text,
//! and on a line of its own for any lines. In other blocks, commands have only to succeed. Commands
//! may end with 0 and the codes that the comment names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag};
use regex::{Captures, Regex};

use crate::world::World;
use crate::world::libvirt::{Libvirt, Nic, Watch};

/// A test for each page that has commands that run.
macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(#[test]
        fn $test() {
            run_page($page);
        })*
    };
}

pages! {
    readme: "README.md",
    api: "docs/api.md",
    auditing: "docs/auditing.md",
    bridge_helper: "docs/bridge-helper.md",
    ci: "docs/ci.md",
    ecs: "docs/ecs.md",
    findings: "docs/findings.md",
    fleet: "docs/fleet.md",
    guest_files: "docs/guest-files.md",
    guests: "docs/guests.md",
    lake: "docs/lake.md",
    ledger: "docs/ledger.md",
    libvirt: "docs/libvirt.md",
    libvirt_nic_spec: "docs/nic-spec.md",
    reading: "docs/reading.md",
    records: "docs/records.md",
    report: "docs/report.md",
    schema: "docs/schema.md",
    without_libvirt: "docs/without-libvirt.md",
}

#[test]
fn each_block_of_commands_is_run_or_says_why_not() {
    let mut wrong = String::new();
    let mut run = 0;
    for page in all_pages() {
        for block in blocks_of(&page) {
            let place = format!("{page}:{}", block.line);
            match &block.mark {
                _ if block.language.is_empty() => {
                    let _ = writeln!(wrong, "{place}: say in which language this block is");
                }
                Some(_) if !block.has_commands() => {
                    let _ = writeln!(wrong, "{place}: the comment is for commands, and here are none");
                }
                Some(Mark::RunsIn { .. }) if !PAGES.contains(&page.as_str()) => {
                    let _ = writeln!(wrong, "{place}: add {page} to `pages!`");
                }
                Some(Mark::NotRun(reason)) if reason.is_empty() => {
                    let _ = writeln!(wrong, "{place}: say why it is not run");
                }
                Some(Mark::RunsIn { .. }) => run += 1,
                Some(Mark::NotRun(_)) => {}
                None if block.has_commands() => {
                    let _ = writeln!(wrong, "{place}: say where it runs, or why it does not");
                }
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(run > 20, "only {run} blocks are run");
}

#[test]
fn output_that_differs_is_found() {
    let same = |shown: &str, printed: &str| compare(shown, printed, false, &[]).is_none();
    assert!(same("one\n…\nlast …\n", "one\ntwo\nthree\nlast word\n"));
    assert!(!same("one\n…\nlast …\n", "one\ntwo\nthree\n"));
    assert!(!same("one\n", "one\ntwo\n"));
    assert!(!same("", "one\n"));
    assert!(!same("at 10:00:00\n", "at 10:00:01\n"));

    let alike = |shown: &str, printed: &str| compare(shown, printed, true, &["20".to_owned()]).is_none();
    assert!(alike("pid 12, FD 20, at 10:00:00.001", "pid 4711,  FD 3, at 2026-11-30 10:00:01"));
    assert!(!alike("FD 21\n", "FD 3\n"));
    assert!(!alike("52:54:00:00:00:01\n", "52:54:00:00:00:02\n"));
    assert!(!alike("2 descriptors released\n", "3 descriptors released\n"));
}

/// README.md and the pages of docs/.
fn all_pages() -> Vec<String> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let names = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    let mut pages: Vec<_> = names.filter(|name| name.ends_with(".md")).collect();
    pages.push("README.md".to_owned());
    pages.sort();
    pages
}

/// What the comment before a block says.
#[derive(Clone, Debug)]
enum Mark {
    RunsIn {
        place: Place,
        /// The exit codes that are fine besides 0.
        exits: Vec<i32>,
        /// Words of the output that are others each time.
        varies: Vec<String>,
    },
    NotRun(String),
}

impl Mark {
    /// None for a comment about something else.
    fn parse(comment: &str) -> Option<Self> {
        let text = comment.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim();
        if let Some(reason) = text.strip_prefix("not run:") {
            return Some(Self::NotRun(reason.trim().to_owned()));
        }
        let mut parts = text.strip_prefix("runs in:")?.split(';').map(str::trim);
        let name = parts.next().unwrap();
        let place = Place::parse(name).unwrap_or_else(|| panic!("no place is called '{name}'"));
        let (mut exits, mut varies) = (Vec::new(), Vec::new());
        for part in parts {
            let list = |list: &str| list.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>();
            match part.split_once(' ') {
                Some(("exits", rest)) => {
                    let codes = rest.strip_prefix("with ").expect("'exits with CODE'");
                    exits = list(codes).iter().map(|code| code.parse().expect("an exit code")).collect();
                }
                Some(("varies:", words)) => varies = list(words),
                _ => panic!("'{part}' says nothing of a block"),
            }
        }
        Some(Self::RunsIn { place, exits, varies })
    }
}

/// A fenced block of a page.
struct Block {
    /// Its first line in the page.
    line: usize,
    language: String,
    text: String,
    mark: Option<Mark>,
}

impl Block {
    fn has_commands(&self) -> bool {
        matches!(self.language.as_str(), "sh" | "console" | "python")
    }

    /// The commands as a shell takes them, each with what it prints, if that is shown.
    fn commands(&self) -> Vec<(String, Option<String>)> {
        match self.language.as_str() {
            // Each command has to succeed, or to end with one of the codes that the comment names.
            "sh" => {
                let Some(Mark::RunsIn { exits, .. }) = &self.mark else { return Vec::new() };
                let codes = exits.iter().fold("0".to_owned(), |all, code| format!("{all}|{code}"));
                let trap = format!("trap 'c=$?; case $c in {codes}) ;; *) exit $c ;; esac' ERR");
                vec![(format!("({trap}\n{}\n)", self.text), None)]
            }
            "python" => vec![(format!("python3 - <<'END'\n{}\nEND", self.text), None)],
            _ => self.console(),
        }
    }

    /// Commands follow a prompt, and go on in the next line after `\` or `|`.
    fn console(&self) -> Vec<(String, Option<String>)> {
        let mut commands: Vec<(String, Option<String>)> = Vec::new();
        let mut goes_on = false;
        for line in self.text.lines() {
            let command = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
            match (command, commands.last_mut()) {
                (None, Some((command, _))) if goes_on => {
                    let _ = write!(command, "\n{line}");
                }
                (Some(command), _) => commands.push((command.to_owned(), Some(String::new()))),
                (None, Some((_, Some(output)))) => {
                    let _ = writeln!(output, "{line}");
                }
                (None, _) => panic!("line {}: a console begins with a prompt", self.line),
            }
            goes_on = (goes_on || command.is_some()) && line.ends_with(['\\', '|']);
        }
        commands
    }
}

/// All fenced blocks of a page.
fn blocks_of(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut blocks = Vec::new();
    let mut mark = None;
    let mut in_block = false;
    for (event, range) in Parser::new(&text).into_offset_iter() {
        match event {
            Event::Html(html) => mark = Mark::parse(&html).or(mark),
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                in_block = true;
                let line = text[..range.start].lines().count() + 1;
                let language = language.to_string();
                blocks.push(Block { line, language, text: String::new(), mark: mark.take() });
            }
            Event::Text(part) if in_block => blocks.last_mut().unwrap().text.push_str(&part),
            Event::End(pulldown_cmark::TagEnd::CodeBlock) => in_block = false,
            Event::Start(Tag::HtmlBlock) | Event::End(pulldown_cmark::TagEnd::HtmlBlock) => {}
            _ => assert!(mark.is_none(), "{page}: no block follows the comment {mark:?}"),
        }
    }
    assert!(mark.is_none(), "{page}: no block follows the comment {mark:?}");
    blocks
}

/// Where commands run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A clone of this repository, and logs in it. Output is as the document has it.
    SourceTree,
    /// A directory with an audit log, and in `saved` those of two hosts.
    Logs,
    /// A directory `evidence`, as `heap.sh` makes it.
    Heap,
    /// A log server with the logs of some hosts in /srv/logs, and their lake. What is a bucket in
    /// the documents, s3://audit-lake/kvm, is the directory /srv/lake.
    LogServer,
    /// A host with a bridge `br0` and a link `lower`, an empty ledger and no audit log, and this
    /// repository's `packaging`.
    Host,
    /// The same, with an empty guest `web1` on `br0`.
    HostWithGuest,
    /// The same, with an empty guest `job-4712`.
    HostWithJob,
    /// A host with the audit log of a libvirt, whose last line was written an hour ago, and a copy of
    /// it in `saved`.
    LibvirtLog,
    /// A host with a libvirtd, an auditd, guests `web1` and `web2`, and two that failed to start.
    Libvirt,
    /// The same, with a watcher that has seen these guests' devices.
    WatchedLibvirt,
}

/// A place that was made. What it needs ends with it, in the order of the fields.
struct Made {
    _watch: Option<Watch>,
    libvirt: Option<Libvirt>,
    world: Option<World>,
}

impl Made {
    fn world(&self) -> &World {
        self.libvirt.as_ref().map_or_else(|| self.world.as_ref().unwrap(), |libvirt| &libvirt.world)
    }
}

impl Place {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "the source tree" => Self::SourceTree,
            "a directory of logs" => Self::Logs,
            "a heap of logs" => Self::Heap,
            "a log server" => Self::LogServer,
            "a host" => Self::Host,
            "a host with a guest web1" => Self::HostWithGuest,
            "a host with a job's guest job-4712" => Self::HostWithJob,
            "a host with libvirt's log" => Self::LibvirtLog,
            "a libvirt host" => Self::Libvirt,
            "a libvirt host with a watcher" => Self::WatchedLibvirt,
            _ => return None,
        })
    }

    /// Whether times, processes and numbers are others each time.
    fn varies(self) -> bool {
        !matches!(self, Self::SourceTree | Self::Logs | Self::Heap)
    }

    /// None where tests may not switch auditing, and this one needs it.
    fn prepare(self) -> Option<Made> {
        if matches!(self, Self::Libvirt | Self::WatchedLibvirt) {
            let libvirt = libvirt_host()?;
            let watch = (self == Self::WatchedLibvirt).then(|| watcher_of(&libvirt));
            return Some(Made { _watch: watch, libvirt: Some(libvirt), world: None });
        }
        let world = World::new();
        become_host(&world);
        let here = world.path("here");
        match self {
            Self::SourceTree => {
                for name in ["tests", "packaging", "docs"] {
                    symlink(root().join(name), here.join(name)).unwrap();
                }
            }
            Self::Logs => {
                let log = libvirt_log();
                fs::write(here.join("audit.log"), &log).unwrap();
                for host in ["a", "b"] {
                    fs::create_dir_all(here.join("saved").join(host)).unwrap();
                }
                fs::write(here.join("saved/a/audit.log"), &log).unwrap();
                let other = "tests/data/libvirt/libvirt-9.0/02-macvtap/audit.log";
                fs::copy(root().join(other), here.join("saved/b/audit.log")).unwrap();
            }
            Self::Heap => make_heap(&here),
            Self::LogServer => {
                const LAKE: &str = "file:///srv/lake";
                make_heap(&here);
                shell(
                    "mkdir -p /srv/logs /srv/lake /etc/taptrail
                    cp -r evidence/hv01 evidence/hv03 evidence/hv04 evidence/hv09 /srv/logs
                    cp -r 'evidence/hv10 (Berlin)' /srv/logs/hv07
                    cp evidence/hv11/audit.log /var/log/audit
                    minisign -G -W -p /etc/taptrail/lake.pub -s /etc/taptrail/lake.key",
                    &here,
                );
                world.taptrail(["archive", "/srv/logs", "--to", LAKE]).ok();
                world.taptrail(["lake", "compact", LAKE]).ok();
            }
            Self::Host => symlink(root().join("packaging"), here.join("packaging")).unwrap(),
            Self::HostWithGuest => {
                world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off"]);
            }
            Self::HostWithJob => {
                world.start("job-4712", &["--nic", "bridge=br0,mac=52:54:00:c1:47:12,vhost=off"]);
            }
            Self::LibvirtLog => {
                let hour = jiff::SignedDuration::from_hours(1);
                let log = libvirt_log().replace("t6-hotplug", "web1");
                let log = moved_to(&log, jiff::Timestamp::now() - hour);
                fs::write("/var/log/audit/audit.log", &log).unwrap();
                fs::create_dir(here.join("saved")).unwrap();
                fs::write(here.join("saved/audit.log"), &log).unwrap();
            }
            Self::Libvirt | Self::WatchedLibvirt => unreachable!(),
        }
        Some(Made { _watch: None, libvirt: None, world: Some(world) })
    }
}

/// A host with guests of a real libvirt.
fn libvirt_host() -> Option<Libvirt> {
    let libvirt = Libvirt::start_without_rules()?;
    for name in ["here", "bin"] {
        fs::create_dir(libvirt.world.path(name)).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_taptrail"), libvirt.world.path("bin/taptrail")).unwrap();
    let on = |source, last: u8| Nic::on(source, &format!("52:54:00:0a:0f:{last:02x}"));
    libvirt.create("web1", 1, &[on("br0", 1), on("lower", 2)]);
    let web2 = libvirt.create("web2", 2, &[on("br0", 3)]);
    for (name, number, nic) in [("web3", 3, on("no-bridge", 4)), ("web4", 4, on("br0", 5).rom("/no-file"))] {
        assert!(!libvirt.try_create(name, number, &[nic]).success(), "{name} starts");
    }
    // Its records are in the log when this returns.
    libvirt.trail(&web2.uuid);
    Some(libvirt)
}

fn watcher_of(libvirt: &Libvirt) -> Watch {
    let watch = libvirt.watch();
    libvirt.world.until("the watcher has seen the guests' devices", || {
        let trail = libvirt.world.json(["trail", "--held", "--json"]);
        let held = trail["holdings"].as_array().unwrap();
        !held.is_empty() && held.iter().all(|holding| holding["certainty"] == "definitive")
    });
    watch
}

/// Makes the directory `evidence` in this one.
fn make_heap(here: &Path) {
    let script = root().join("tests/e2e/documented_commands/heap.sh");
    let logs = root().join("tests/data/libvirt");
    shell(&format!("sh '{}' '{}'", script.display(), logs.display()), here);
}

fn shell(script: &str, here: &Path) {
    let done = Command::new("/bin/sh").args(["-ec", script]).current_dir(here).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A log of a real libvirt.
fn libvirt_log() -> String {
    fs::read_to_string(root().join("tests/data/libvirt/libvirt-9.0/06-hotplug/audit.log")).unwrap()
}

/// An audit log as it would be if its last line were of this time.
fn moved_to(log: &str, end: jiff::Timestamp) -> String {
    static STAMP: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"audit\((\d+)\.").unwrap());
    let last = STAMP.captures_iter(log).last().expect("audit records")[1].parse::<i64>().unwrap();
    let by = end.as_second() - last;
    let moved = |found: &Captures<'_>| format!("audit({}.", found[1].parse::<i64>().unwrap() + by);
    STAMP.replace_all(log, moved).into_owned()
}

/// Gives this thread and its children directories of a host of their own: what they write to /etc,
/// /var and /srv is the world's, and `/usr/local/bin` has the program that is tested.
fn become_host(world: &World) {
    const HOST: &str = r#"
mount --make-rprivate /
mkdir -p "$1/state" "$1/run" "$1/here"
# Not in the world's directory, which can't be removed while something is mounted in it.
mount -t tmpfs -o mode=755 none /mnt
for dir in etc var srv usr/local; do
	mkdir -p "/mnt/$dir/upper" "/mnt/$dir/work"
	mount -t overlay -o "lowerdir=/$dir,upperdir=/mnt/$dir/upper,workdir=/mnt/$dir/work" none "/$dir"
done
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/lock /run/taptrail /var/lib/taptrail /var/log/audit /usr/local/bin
rm -f /var/log/audit/*
mount --bind "$1/state" /var/lib/taptrail
mount --bind "$1/run" /run/taptrail
mkdir -p /etc/audit
printf '%s\n' 'log_file = /var/log/audit/audit.log' 'space_left = 75' 'admin_space_left = 50' >/etc/audit/auditd.conf
touch /usr/local/bin/taptrail
mount --bind "$2" /usr/local/bin/taptrail
"#;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let taptrail = Path::new(env!("CARGO_BIN_EXE_taptrail"));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-ec", HOST, "host"]).arg(world.path("")).arg(taptrail);
    let done = shell.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn run_page(page: &str) {
    let mut blocks: BTreeMap<Place, Vec<Block>> = BTreeMap::new();
    for block in blocks_of(page) {
        if let Some(Mark::RunsIn { place, .. }) = block.mark {
            blocks.entry(place).or_default().push(block);
        }
    }
    assert!(!blocks.is_empty(), "no block of {page} is run: remove it from `pages!`");
    let mut differences = String::new();
    for (place, blocks) in blocks {
        // Each place is made in namespaces of a thread of its own.
        let one = std::thread::spawn(move || run_blocks(place, &blocks));
        for (line, difference) in one.join().expect("a place in which commands run") {
            let _ = writeln!(differences, "{page}:{line}: {difference}");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Runs blocks in one shell, and returns what is otherwise than the page has it.
fn run_blocks(place: Place, blocks: &[Block]) -> Vec<(usize, String)> {
    const BEGIN: &str = "\u{1e}begin\n";
    const END: &str = "\u{1e}end ";
    let Some(made) = place.prepare() else { return Vec::new() };
    let world = made.world();
    let mut script = String::from("code=0\n");
    for block in blocks {
        for (command, _) in block.commands() {
            let command = match place {
                Place::LogServer => command.replace("s3://audit-lake/kvm", "file:///srv/lake"),
                _ => command,
            };
            // Each command finds the exit code of the one before it in `$?`.
            let _ =
                writeln!(script, "echo -n '{BEGIN}'\n(exit $code)\n{command}\ncode=$?\necho \"{END}$code\"");
        }
        // libvirt, auditd and the watcher follow what was done.
        if place == Place::WatchedLibvirt {
            script.push_str("sleep 3\n");
        }
    }
    fs::write(world.path("script"), script).unwrap();
    // Not to a pipe, which guests in the background would keep open.
    let printed = world.path("printed");
    let output = File::create(&printed).unwrap();
    let bin = world.path("bin").display().to_string();
    // Other places have them where the program looks for them.
    let mut directories = Vec::new();
    if made.libvirt.is_some() {
        directories.push(("TAPTRAIL_STATE_DIR".to_owned(), world.state().display().to_string()));
        directories.push(("TAPTRAIL_RUN_DIR".to_owned(), world.run_dir().display().to_string()));
        directories.extend(world.extra.iter().cloned());
    }
    let status = Command::new("/usr/bin/timeout")
        .args(["--kill-after=5", "240", "/bin/bash"])
        .arg(world.path("script"))
        .env_clear()
        .env("PATH", format!("{bin}:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"))
        .envs([("HOME", "/root"), ("LANG", "C.UTF-8"), ("TZ", "UTC")])
        .envs(directories)
        .current_dir(world.path("here"))
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status()
        .unwrap();
    let printed = String::from_utf8_lossy(&fs::read(&printed).unwrap()).into_owned();
    assert!(status.success(), "the shell ended with {status}:\n{printed}");

    let mut outputs = printed.split(BEGIN).skip(1);
    let mut differences = Vec::new();
    for block in blocks {
        let Some(Mark::RunsIn { exits, varies, .. }) = &block.mark else { unreachable!() };
        for (command, shown) in block.commands() {
            let (output, code) = outputs.next().and_then(|part| part.split_once(END)).expect("its output");
            let code: i32 = code.trim().parse().unwrap();
            if code != 0 && !exits.contains(&code) {
                differences
                    .push((block.line, format!("'{command}' exits with {code}, and prints\n{output}")));
            } else if let Some(difference) =
                shown.and_then(|shown| compare(&shown, output, place.varies(), varies))
            {
                differences.push((block.line, format!("'{command}' prints\n{difference}")));
            }
        }
    }
    differences
}

/// What was printed and should have been, if they differ.
fn compare(shown: &str, printed: &str, varies: bool, words: &[String]) -> Option<String> {
    let (mut expected, mut actual) = (shown.to_owned(), printed.to_owned());
    if varies {
        (expected, actual) = (without_varying(&expected), without_varying(&actual));
    }
    for word in words {
        let whole = Regex::new(&format!(r"(^|\W){}($|\W)", regex::escape(word))).unwrap();
        expected = whole.replace_all(&expected, "${1}[..]${2}").into_owned();
    }
    let lines =
        expected.lines().map(|line| if line == "…" { "...".to_owned() } else { line.replace('…', "[..]") });
    let expected = lines.fold(String::new(), |all, line| all + &line + "\n");
    let (actual, expected) =
        (snapbox::Data::text(actual.trim_end()), snapbox::Data::text(expected.trim_end()));
    let equal = snapbox::Assert::new().try_eq(None, actual, expected);
    equal.err().map(|_| format!("{printed}\nwhere the page has\n{shown}"))
}

/// The text with words for what is another each time, and with single blanks.
fn without_varying(text: &str) -> String {
    static VARYING: LazyLock<Regex> = LazyLock::new(|| {
        let alternatives = [
            // A MAC and a count of seconds look alike; the first is compared.
            r"(?<mac>\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b)",
            r"(?<uuid>\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)",
            r"(?<time>(?:\b\d{4}-\d{2}-\d{2}[T ]|\b)\d{2}:\d{2}:\d{2}(?:\.\d{3})?Z?\b|\b\d{4}-\d{2}-\d{2}\b)",
            r"(?<for>[≥≤]?\b(?:\d+m\d{2}s|\d+(?:\.\d+)? ?m?s)\b\+?)",
            r"(?<pid>\b(?:pid|supervisor|process|Process|QEMU) \d+)",
            r"(?<serial>\baudit\.log:\d+|\bserial \d+)",
            r"(?<node>/dev/tap\d+)",
            r"(?<rdev>\b[0-9A-F]{2}:[0-9A-F]{2}\b)",
            r"(?<hash>\b[0-9a-f]{64}\b)",
            r"(?<host>\bhost=\S+)",
            r"(?<seen>\b[0-9,]+ processes seen)",
            r"(?<blank>[ \t]+)",
        ];
        Regex::new(&alternatives.join("|")).unwrap()
    });
    let replaced = VARYING.replace_all(text, |found: &Captures<'_>| {
        let name = VARYING.capture_names().flatten().find(|name| found.name(name).is_some());
        match name.unwrap_or_default() {
            "mac" => found[0].to_owned(),
            "blank" => " ".to_owned(),
            name => format!("<{name}>"),
        }
    });
    // Whether the kernel audits and has a vhost-net is the machine's to say.
    let of_machine =
        |line: &str| line.starts_with(" WARN Audit") || line.contains("goes on without vhost-net");
    let lines = replaced.lines().filter(|line| !of_machine(line));
    lines.fold(String::new(), |all, line| all + line.trim_end() + "\n")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}
