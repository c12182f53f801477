//! A QMP monitor for a test, beside the supervisor's.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// QEMU's option for a monitor at this socket.
pub(crate) fn option(socket: &Path) -> String {
    format!("unix:{},server=on,wait=off", socket.display())
}

/// The monitor, after the greeting.
pub(crate) struct Qmp {
    stream: UnixStream,
    lines: Lines<BufReader<UnixStream>>,
}

impl Qmp {
    pub(crate) fn connect(socket: PathBuf) -> Self {
        let stream = UnixStream::connect(socket).expect("a monitor");
        let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
        lines.next();
        let mut qmp = Self { stream, lines };
        qmp.execute("qmp_capabilities", json!({}));
        qmp
    }

    /// Executes a command, and returns QEMU's answer.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Value {
        self.ask(command, arguments).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Executes a command that QEMU must refuse, and returns its error.
    pub(crate) fn refused(&mut self, command: &str, arguments: Value) -> String {
        let error = self.ask(command, arguments).expect_err("a refusal");
        error["desc"].as_str().expect("a description").to_owned()
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Value> {
        writeln!(self.stream, "{}", json!({"execute": command, "arguments": arguments}))
            .expect("a running QEMU");
        loop {
            let line = self.lines.next().expect("an answer").expect("an answer");
            let answer: Value = serde_json::from_str(&line).expect("JSON");
            // QEMU may send events before the answer.
            match (answer.get("return"), answer.get("error")) {
                (Some(returned), _) => return Ok(returned.clone()),
                (_, Some(error)) => return Err(error.clone()),
                _ => {}
            }
        }
    }

    /// Whether vhost is started, for each virtio NIC of the guest, in the order of their ids.
    pub(crate) fn vhost_started(&mut self) -> Vec<bool> {
        let all = self.execute("x-query-virtio", json!({}));
        let mut paths: Vec<&str> = all
            .as_array()
            .expect("devices")
            .iter()
            .filter(|device| device["name"] == "virtio-net")
            .map(|device| device["path"].as_str().expect("a path"))
            .collect();
        paths.sort_unstable();
        paths
            .into_iter()
            .map(|path| {
                let status = self.execute("x-query-virtio-status", json!({ "path": path }));
                status["vhost-started"].as_bool().expect("a virtio NIC's status")
            })
            .collect()
    }
}
