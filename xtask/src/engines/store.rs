//! An S3 server on loopback, and its bucket as a directory.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::quietly;
use crate::programs::{Background, wait_for};
use crate::python::Python;

/// Mounts a bucket as a directory.
pub(super) const S3FS: &str = "/usr/bin/s3fs";

const BUCKET: &str = "lake";
const PREFIX: &str = "fleet";

/// A port of loopback that nobody listened on a moment ago.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The body of the answer to an HTTP request to loopback.
pub(super) fn http(method: &str, port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{method} {path}: {head}");
    Ok(body.to_owned())
}

/// An S3 server with one bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    port: u16,
    _server: Background,
}

impl Bucket {
    pub(super) fn start(python: &Python, dir: &Path) -> Result<Self> {
        let port = free_port()?;
        let log = fs::File::create(dir.join("s3.log"))?;
        let mut command = Command::new(python.script("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let bucket = Self { port, _server: Background::start(&mut command)? };
        wait_for("the S3 server", || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
        http("PUT", port, &format!("/{BUCKET}"))?;
        Ok(bucket)
    }

    /// The lake's URL.
    pub(super) fn url(&self) -> String {
        format!("s3://{BUCKET}/{PREFIX}")
    }

    /// The same for clients that take URLs of HTTP.
    pub(super) fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}/{BUCKET}/{PREFIX}", self.port)
    }

    /// What clients have in their environment.
    pub(super) fn environment(&self) -> [(&'static str, String); 6] {
        [
            ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "nobody".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "nothing".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }
}

/// The bucket as a directory. It is unmounted when this value is dropped.
#[derive(Debug)]
pub(super) struct Mount(PathBuf);

impl Mount {
    pub(super) fn of(bucket: &Bucket, dir: &Path) -> Result<Self> {
        let mount = Self(dir.join("bucket"));
        fs::create_dir(&mount.0)?;
        let password = dir.join("s3fs.password");
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(&password)?.write_all(b"nobody:nothing\n")?;
        let options = format!(
            "url=http://127.0.0.1:{},use_path_request_style,ro,passwd_file={}",
            bucket.port,
            password.display()
        );
        quietly(Command::new(S3FS).arg(BUCKET).arg(&mount.0).args(["-o", &options]))?;
        wait_for("the mounted bucket", || Ok(mount.lake().join("generations").is_dir()))?;
        Ok(mount)
    }

    /// The lake in it.
    pub(super) fn lake(&self) -> PathBuf {
        self.0.join(PREFIX)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process that ends still may have a file open.
        let _ = Command::new("/bin/umount").arg("--lazy").arg(&self.0).status();
    }
}
