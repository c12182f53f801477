//! The completions of bash, zsh and fish: keys are pressed in the real shells, on a terminal, and
//! what then stands on the command line is looked at.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::world::OwnedChild;
use crate::world::{World, mac};
use nix::pty::{Winsize, openpty};

/// How long a shell may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// A shell on a terminal.
struct Shell {
    _child: OwnedChild,
    terminal: File,
    screen: Arc<Mutex<Vec<u8>>>,
    asked: u32,
}

impl Shell {
    /// The program is found as `taptrail`, and the scripts are those that packages install.
    fn start(name: &str, world: &World) -> Self {
        let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let programs = world.path("bin");
        fs::create_dir_all(&programs).unwrap();
        let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_taptrail"), programs.join("taptrail"));
        let mut command = Command::new("/usr/bin/setsid");
        command.arg("--ctty").args(match name {
            "bash" => vec!["bash", "--norc", "--noprofile", "-i"],
            "zsh" => vec!["zsh", "-f", "-i"],
            _ => vec!["fish", "--no-config", "-i"],
        });
        let slave = || pty.slave.try_clone().unwrap();
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", programs.display());
        command.stdin(slave()).stdout(slave()).stderr(slave());
        command.env_clear().env("PATH", path).env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
        command.env("HOME", world.path("home")).current_dir(world.path(""));
        command.env("TAPTRAIL_STATE_DIR", world.state()).env("TAPTRAIL_RUN_DIR", world.run_dir());
        let child = command.spawn().unwrap();
        let terminal = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, seen) = (terminal.try_clone().unwrap(), Arc::clone(&screen));
        // It ends with the terminal, which the shell's end closes.
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut part) {
                seen.lock().unwrap().extend(&part[..read]);
            }
        });
        let mut shell = Self { _child: child.into(), terminal, screen, asked: 0 };
        let scripts = scripts();
        let load = match name {
            "bash" => format!("source {scripts}/taptrail.bash"),
            "zsh" => {
                format!("fpath=({scripts} $fpath); autoload -Uz compinit; compinit -u -D; setopt no_beep")
            }
            _ => format!("source {scripts}/taptrail.fish"),
        };
        shell.type_keys(&format!("{load}\n"));
        shell
    }

    fn type_keys(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Types the beginning of a command line, presses the tabulator, and returns the words that
    /// stand there then.
    fn completes(&mut self, line: &str) -> Vec<String> {
        self.asked += 1;
        // To the line's beginning, and before what stands there a command that prints it.
        let mark = format!("={}=", self.asked);
        self.type_keys(&format!(
            "{line}\t\u{1}printf '%s' '={}' '= ' ; printf '<%s>' \u{5} ; printf '%s' '/{}' '='\n",
            self.asked, self.asked
        ));
        let end = format!("/{}=", self.asked);
        let begun = Instant::now();
        loop {
            let screen = String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned();
            if let Some(text) =
                screen.rsplit_once(&mark).and_then(|(_, rest)| Some(rest.split_once(&end)?.0.to_owned()))
            {
                let words =
                    text.split('<').skip(1).filter_map(|word| Some(word.split_once('>')?.0.to_owned()));
                return words.collect();
            }
            assert!(begun.elapsed() < TIMEOUT, "no answer to '{line}':\n{screen}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn scripts() -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/completions");
    directory.canonicalize().unwrap().display().to_string()
}

/// What the program itself says can stand at the end of these words: its lines.
fn candidates(world: &World, words: &[&str]) -> Vec<String> {
    let all = ["complete", "fish", "--", "taptrail"].iter().chain(words);
    let done = world.taptrail(all).ok();
    assert_eq!(done.stderr, "");
    done.stdout.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

// Shows 9.11.
#[test]
fn each_shell_completes_guests_macs_and_interfaces_of_this_moment() {
    let world = World::new();
    world.ip("link add br-quite-long type bridge");
    let guest = world.start(
        "web-alpha",
        &[
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:01,vhost=off",
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:a2,vhost=off",
        ],
    );
    fs::write(world.path("a file.log"), "").unwrap();
    fs::create_dir(world.path("home")).unwrap();
    for name in SHELLS {
        let mut shell = Shell::start(name, &world);
        let mut check =
            |line: &str, words: &[&str]| assert_eq!(shell.completes(line), words, "{name}: {line}");
        check("taptrail summ", &["taptrail", "summary"]);
        check("taptrail lake comp", &["taptrail", "lake", "compact"]);
        check("taptrail trail --timel", &["taptrail", "trail", "--timeline"]);
        check("taptrail stop we", &["taptrail", "stop", "web-alpha"]);
        check("taptrail detach web-alpha 52:54:00:00:00:0", &["taptrail", "detach", "web-alpha", &mac(1)]);
        check("taptrail trail --mac 52:54:00:00:00:a", &["taptrail", "trail", "--mac", &mac(0xa2)]);
        check(
            "taptrail trail --mac=52:54:00:00:00:a",
            &["taptrail", "trail", &format!("--mac={}", mac(0xa2))],
        );
        check("taptrail who vnet", &["taptrail", "who", "vnet"]);
        check("taptrail who vnet1", &["taptrail", "who", "vnet1"]);
        check("taptrail attach web-alpha --nic br", &["taptrail", "attach", "web-alpha", "--nic", "bridge="]);
        check(
            "taptrail attach web-alpha --nic bridge=br-",
            &["taptrail", "attach", "web-alpha", "--nic", "bridge=br-quite-long"],
        );
        check(
            "taptrail attach web-alpha --nic bridge=br0,fil",
            &["taptrail", "attach", "web-alpha", "--nic", "bridge=br0,filter="],
        );
        check("taptrail trail a", &["taptrail", "trail", "a file.log"]);
        check("taptrail trail --log /etc/os-rel", &["taptrail", "trail", "--log", "/etc/os-release"]);
        check("taptrail report --output=/etc/os-rel", &["taptrail", "report", "--output=/etc/os-release"]);
        check("taptrail run --user daem", &["taptrail", "run", "--user", "daemon"]);
        check("taptrail findings --kind=open-f", &["taptrail", "findings", "--kind=open-failed"]);
        // Not every shell leaves the slash behind a directory.
        let words = shell.completes("taptrail --state-dir=/usr/shar");
        assert_eq!(words[1].trim_end_matches('/'), "--state-dir=/usr/share", "{name}");
        let mut check =
            |line: &str, words: &[&str]| assert_eq!(shell.completes(line), words, "{name}: {line}");
        check("taptrail run --name x -- /bin/ech", &["taptrail", "run", "--name", "x", "--", "/bin/echo"]);
    }
    world.stop(&guest);
    assert_eq!(candidates(&world, &["stop", "w"]), [""; 0], "it has ended");
    assert_eq!(candidates(&world, &["trail", "--guest", "w"]), ["web-alpha"], "it is on record");
}

// Shows 9.12.
#[test]
fn a_name_that_a_shell_would_run_is_only_a_name() {
    let world = World::new();
    fs::create_dir(world.path("home")).unwrap();
    // By its first letter: what runs commands, what quotes, what means the end of a name to zsh, and
    // what stands for words of the history.
    let names = [
        ("a", "a$(touch pwned) `touch pwned`; 'x'"),
        ("b", r"b\c\\d\:e"),
        ("f", r"f:g\"),
        ("h", "h!touch!!"),
    ];
    let guests: Vec<_> = names.iter().map(|(_, name)| world.start(name, &[])).collect();
    for name in SHELLS {
        let mut shell = Shell::start(name, &world);
        for (typed, guest) in names {
            let line = format!("taptrail stop {typed}");
            assert_eq!(shell.completes(&line), ["taptrail", "stop", guest], "{name}: {line}");
        }
    }
    // Between double quotes, bash has no spelling for it.
    let quoted = Shell::start("bash", &world).completes("taptrail stop \"h\t\" --forc");
    assert_eq!(quoted, ["taptrail", "stop", "h", "--force"]);
    assert!(!world.path("pwned").exists());
    for guest in &guests {
        world.stop(guest);
    }
}

// Shows 9.11.
#[test]
fn a_completion_is_silent_whatever_is_there() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off"]);
    assert_eq!(candidates(&world, &["detach", "web1", ""]), [mac(1)]);
    world.stop(&guest);

    // No ledger; a ledger that is none; directories that are none.
    for state in ["nowhere", "broken", "file"] {
        let path = world.path(state);
        match state {
            "broken" => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
                fs::write(path.join("ledger.sqlite"), "no ledger").unwrap();
            }
            "file" => fs::write(&path, "").unwrap(),
            _ => {}
        }
        let option = format!("--state-dir={}", path.display());
        let run = format!("--run-dir={}", path.display());
        for words in [["stop", ""], ["who", "x"], ["detach", ""]] {
            let all: Vec<&str> = [option.as_str(), &run].into_iter().chain(words).collect();
            assert!(candidates(&world, &all).iter().all(|word| word.starts_with('-')), "{state} {words:?}");
        }
    }
}

// Shows 9.11.
#[test]
fn an_ordinary_user_gets_what_the_kernel_shows_to_anyone() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off"]);
    // The directory of the program may be closed to others.
    let program = PathBuf::from("/tmp").join(format!("taptrail-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_taptrail"), &program).unwrap();
    let ask = |words: &[&str]| {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.args(["complete", "fish", "--", "taptrail"]).args(words);
        command.env("TAPTRAIL_STATE_DIR", world.state()).env("TAPTRAIL_RUN_DIR", world.run_dir());
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (macs, guests) = (ask(&["trail", "--mac", "52"]), ask(&["stop", "w"]));
    fs::remove_file(&program).unwrap();
    assert_eq!(macs, format!("{}\tvnet0\n", mac(1)), "from the mark of the link");
    assert_eq!(guests, "", "the directories are root's");
    world.stop(&guest);
}
