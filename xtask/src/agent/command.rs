//! Runs the requested command, and sends its output and exit status to the host.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};

use crate::wire::{Frame, Kind, send};

/// The host's request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// The directory of this kernel's modules.
    pub(super) modules: PathBuf,
    directory: PathBuf,
    command: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

impl Request {
    /// Reads frames up to the end of the request.
    pub(super) fn read(mut next: impl FnMut() -> Result<Frame>) -> Result<Self> {
        let mut request = Self::default();
        loop {
            let Frame { kind, mut bytes } = next()?;
            match kind {
                Kind::Modules => request.modules = OsString::from_vec(bytes).into(),
                Kind::Directory => request.directory = OsString::from_vec(bytes).into(),
                Kind::Argument => request.command.push(OsString::from_vec(bytes)),
                Kind::Variable => {
                    let end = bytes.iter().position(|byte| *byte == b'=').context("A variable without =")?;
                    let value = bytes.split_off(end + 1);
                    bytes.truncate(end);
                    request.variables.push((OsString::from_vec(bytes), OsString::from_vec(value)));
                }
                Kind::Run => return Ok(request),
                other => bail!("The host was not expected to say {other:?}"),
            }
        }
    }
}

/// Runs the command, ends processes that it leaves running, and returns its exit status like a
/// shell.
pub(super) fn run<P>(request: &Request, port: P) -> Result<u8>
where
    P: Write + Copy + Send,
{
    let [program, arguments @ ..] = &request.command[..] else { bail!("The host asked for no command") };
    // The command is also searched in its own PATH.
    let spawned = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(request.variables.iter().map(|(name, value)| (name, value)))
        .current_dir(&request.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let said = format!("xtask: can't run {}: {error}\n", program.display());
            send(port, Kind::Stderr, said.as_bytes())?;
            return Ok(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    let port = Mutex::new(port);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let pid = Pid::from_child(&child);
    std::thread::scope(|scope| {
        let outputs = [
            scope.spawn(|| pass(stdout, Kind::Stdout, &port)),
            scope.spawn(|| pass(stderr, Kind::Stderr, &port)),
        ];
        let status = wait_for(pid)?;
        // Its background processes would keep the pipes open. Process group 1 is kill(2) with -1:
        // all processes.
        let _ = kill_process_group(Pid::INIT, Signal::KILL);
        for output in outputs {
            output.join().map_err(|_| anyhow::anyhow!("An output's thread panicked"))??;
        }
        Ok(code(status))
    })
}

/// Waits for this process, and reaps all others that end before, as the first process must.
fn wait_for(pid: Pid) -> Result<WaitStatus> {
    loop {
        if let Some((ended, status)) = wait(WaitOptions::empty())?
            && ended == pid
        {
            return Ok(status);
        }
    }
}

fn code(status: WaitStatus) -> u8 {
    let of_signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(of_signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Forwards one output as it is written.
fn pass<P: Write + Copy>(output: Option<impl Read>, kind: Kind, port: &Mutex<P>) -> Result<()> {
    let Some(mut output) = output else { return Ok(()) };
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let count = output.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let port = port.lock().map_err(|_| anyhow::anyhow!("The other output's thread panicked"))?;
        send(*port, kind, &buffer[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frames: &[(Kind, &str)]) -> Result<Request> {
        let mut frames =
            frames.iter().map(|(kind, text)| Frame { kind: *kind, bytes: text.as_bytes().into() });
        Request::read(|| frames.next().context("no more"))
    }

    #[test]
    fn a_request_is_complete_when_it_is_to_be_run() {
        let request = read(&[
            (Kind::Modules, "/m"),
            (Kind::Directory, "/d"),
            (Kind::Argument, "sh"),
            (Kind::Argument, ""),
            (Kind::Variable, "A=b=c"),
            (Kind::Variable, "EMPTY="),
            (Kind::Run, ""),
        ]);
        assert_eq!(
            request.unwrap(),
            Request {
                modules: "/m".into(),
                directory: "/d".into(),
                command: vec!["sh".into(), "".into()],
                variables: vec![("A".into(), "b=c".into()), ("EMPTY".into(), "".into())],
            }
        );
        assert_eq!(read(&[(Kind::Argument, "sh")]).unwrap_err().to_string(), "no more");
        assert!(read(&[(Kind::Variable, "no value")]).is_err());
        assert!(read(&[(Kind::Status, "")]).is_err());
    }
}
