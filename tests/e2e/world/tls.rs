//! Certificates, and a web server that presents one: openssl(1).

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::OwnedChild;
use super::World;

const OPENSSL: &str = "/usr/bin/openssl";

/// A certificate and its key, in files.
pub(crate) struct Certificate {
    pub(crate) file: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// Makes a certificate authority.
    pub(crate) fn authority(world: &World, name: &str) -> Self {
        Self::new(world, name, &["-addext", "keyUsage=critical,keyCertSign"])
    }

    /// Makes a server's certificate for this subject (`IP:127.0.0.1`, `DNS:example.org`), signed by
    /// this authority.
    pub(crate) fn server(world: &World, name: &str, subject: &str, authority: &Self) -> Self {
        let subject = format!("subjectAltName={subject}");
        let (ca, key) = (authority.file.to_str().unwrap(), authority.key.to_str().unwrap());
        let end = "basicConstraints=critical,CA:FALSE";
        Self::new(world, name, &["-addext", &subject, "-addext", end, "-CA", ca, "-CAkey", key])
    }

    fn new(world: &World, name: &str, more: &[&str]) -> Self {
        assert!(Path::new(OPENSSL).exists(), "{OPENSSL} is missing: run scripts/setup test");
        let made = Self { file: world.path(&format!("{name}.pem")), key: world.path(&format!("{name}.key")) };
        let output = Command::new(OPENSSL)
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1".split(' '))
            .args(["-subj", &format!("/CN={name}"), "-out"])
            .arg(&made.file)
            .arg("-keyout")
            .arg(&made.key)
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        made
    }
}

/// A TLS server that prints requests, and answers on [`Server::respond`].
pub(crate) struct Server {
    child: OwnedChild,
    output: PathBuf,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(world: &World, certificate: &Certificate) -> Self {
        let output = certificate.file.with_extension("log");
        let child = Command::new(OPENSSL)
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert"])
            .arg(&certificate.file)
            .arg("-key")
            .arg(&certificate.key)
            .stdin(Stdio::piped())
            .stdout(File::create(&output).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { child: child.into(), output, address: String::new() };
        world.until("the server listens", || {
            let output = server.output();
            let address = output.lines().find_map(|line| line.strip_prefix("ACCEPT "));
            server.address = address.unwrap_or_default().to_owned();
            address.is_some()
        });
        server
    }

    /// The server's output, with all requests up to now.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }

    /// Sends a response to the last client.
    pub(crate) fn respond(&mut self, status: &str) {
        let respond = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.child.stdin.as_mut().unwrap().write_all(respond.as_bytes()).unwrap();
    }
}
