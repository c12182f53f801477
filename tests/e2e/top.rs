//! `taptrail top` on a real terminal.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::world::OwnedChild;
use nix::pty::{Winsize, openpty};

/// How long anything may take to be shown.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a terminal has got so far.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn count(&self, words: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(words).count()
    }

    fn wait_for(&self, words: &str, times: usize) {
        let deadline = Instant::now() + TIMEOUT;
        while self.count(words) < times {
            assert!(Instant::now() < deadline, "'{words}' is not shown {times} times");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn what_is_held_is_shown_as_the_log_grows_and_q_leaves_the_terminal_as_it_was() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt/libvirt-9.0");
    let whole = fs::read_to_string(data.join("06-hotplug/audit.log")).unwrap();
    // The guest's start, and then the first hot-plug.
    let attach = whole.find("reason=attach").unwrap();
    let (started, plugged) = (whole[..attach].rfind("\ntype=").unwrap() + 1, attach);
    let plugged = plugged + whole[plugged..].find('\n').unwrap() + 1;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    fs::write(&log, &whole[..started]).unwrap();

    let size = Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    let mut child = {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
        command.args(["top", "--utc"]).arg(&log).env("TERM", "xterm");
        command.stdin(pty.slave.try_clone().unwrap());
        command.stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
        OwnedChild::from(command.spawn().unwrap())
    };
    let mut keyboard = File::from(pty.master);
    let mut terminal = keyboard.try_clone().unwrap();
    let screen = Screen::default();
    let shown = screen.clone();
    std::thread::spawn(move || {
        let mut some = [0; 4096];
        while let Ok(count @ 1..) = terminal.read(&mut some) {
            shown.0.lock().unwrap().extend_from_slice(&some[..count]);
        }
    });
    // The terminal gets only what differs from blanks, so words are looked for one by one.
    screen.wait_for("Held", 1);
    screen.wait_for("52:54:00:00:06:01", 1);
    let before = screen.count("52:54:00:00:06:01");
    fs::write(&log, &whole[..plugged]).unwrap();
    // The newest interface is first, so the older one is drawn again below it.
    screen.wait_for("52:54:00:00:06:01", before + 1);

    keyboard.write_all(b"q").unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success());
    // The screen from before.
    screen.wait_for("\x1b[?1049l", 1);
}
