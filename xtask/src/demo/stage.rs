//! Where the demo happens: a network namespace and a directory of its own, and the machine's
//! auditing switched on.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::auditing::{self, Auditing};
use crate::interrupt;
use crate::programs::{Background, IP, NFT, must, words};

/// The log of this machine's auditd.
const AUDIT_LOG: &str = "/var/log/audit/audit.log";
/// The demo's one guest.
pub(super) const GUEST: &str = "web1";

/// The namespace and directory; all is put back when this value is dropped.
#[derive(Debug)]
pub(super) struct Stage {
    taptrail: PathBuf,
    /// Where the kernel's records are; none if it has no auditing.
    pub(super) audit_log: Option<PathBuf>,
    // Fields are dropped in this order.
    _auditd: Option<Background>,
    _auditing: Auditing,
    dir: TempDir,
}

impl Stage {
    pub(super) fn set_up(taptrail: &Path) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "Root is needed: the demo opens /dev/net/tun and makes a network namespace"
        );
        let taptrail = fs::canonicalize(taptrail).with_context(|| taptrail.display().to_string())?;
        let dir = tempfile::Builder::new().prefix("taptrail-demo.").tempdir_in("/tmp")?;
        for name in ["state", "run"] {
            fs::create_dir(dir.path().join(name))?;
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o700))?;
        }
        let mut auditing = Auditing::lock()?;
        let (audit_log, auditd) = match auditing::status("pid").as_deref() {
            None => {
                print("demo: the kernel has no auditing; the ledger has the trail all the same")?;
                (None, None)
            }
            Some("0") => {
                let place = dir.path().join("audit");
                (Some(place.join("audit.log")), Some(auditing::start_daemon(&place, "nochange")?))
            }
            Some(_) => (Some(PathBuf::from(AUDIT_LOG)), None),
        };
        auditing.turn_on()?;
        unshare(CloneFlags::CLONE_NEWNET).context("Can't make a network namespace")?;
        let stage = Self { taptrail, audit_log, _auditd: auditd, _auditing: auditing, dir };
        stage.use_nft(Path::new(NFT))?;
        Ok(stage)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new(&self.taptrail);
        command
            .args(arguments)
            .env("TAPTRAIL_STATE_DIR", dir.join("state"))
            .env("TAPTRAIL_RUN_DIR", dir.join("run"))
            .env("TAPTRAIL_AUDIT_LOG", self.audit_log.clone().unwrap_or_else(|| dir.join("none")))
            .env("TAPTRAIL_NFT", self.nft());
        command
    }

    /// Shows a command of taptrail, that must succeed.
    pub(super) fn show(&self, arguments: &[&str]) -> Result<()> {
        self.show_in(Path::new("."), arguments)
    }

    /// The same, run in a directory.
    pub(super) fn show_in(&self, directory: &Path, arguments: &[&str]) -> Result<()> {
        match self.try_in(directory, arguments)? {
            0 => Ok(()),
            code => bail!("taptrail {} ended with exit code {code}", arguments.join(" ")),
        }
    }

    /// Shows a command, and returns its exit code.
    pub(super) fn try_to_show(&self, arguments: &[&str]) -> Result<i32> {
        self.try_in(Path::new("."), arguments)
    }

    fn try_in(&self, directory: &Path, arguments: &[&str]) -> Result<i32> {
        print(&format!("$ taptrail {}", arguments.join(" ")))?;
        show_output(self.command(arguments).current_dir(directory))
    }

    /// Lets taptrail use another nft than this machine's.
    pub(super) fn refuse_filters(&self) -> Result<()> {
        let program = self.dir.path().join("refuse");
        fs::write(&program, include_str!("nft_without_chains.sh"))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700))?;
        self.use_nft(&program)
    }

    pub(super) fn allow_filters(&self) -> Result<()> {
        self.use_nft(Path::new(NFT))
    }

    fn use_nft(&self, program: &Path) -> Result<()> {
        let _ = fs::remove_file(self.nft());
        symlink(program, self.nft()).context("Can't set an nft")
    }

    fn nft(&self) -> PathBuf {
        self.dir.path().join("nft")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.dir.path().join("run").join(GUEST).join("api").exists() {
            let _ = self.command(&["stop", GUEST, "--force"]).status();
        }
    }
}

/// Says what comes next.
pub(super) fn say(what: &str) -> Result<()> {
    let (begin, end) = if io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    print(&format!("\n{begin}== {what}{end}"))
}

pub(super) fn print(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("Can't write")
}

/// Runs a command whose output is part of the demo; its exit code.
pub(super) fn show_output(command: &mut Command) -> Result<i32> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("Can't run {}", words(command)))?;
    interrupt::check()?;
    status.code().with_context(|| format!("{}: {status}", words(command)))
}

pub(super) fn show_links() -> Result<()> {
    print(&must(IP, &["-brief", "link", "show"])?)
}
