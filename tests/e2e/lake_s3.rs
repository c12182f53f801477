//! A lake in an object store that is asked by HTTP: an S3 server (moto), and between it and taptrail
//! a proxy that is as bad as a busy network is.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::OwnedChild;
use crate::world::lab;

/// The server's program, which `scripts/setup test` installs.
fn moto() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let program = target.join("s3/bin/moto_server");
    assert!(program.exists(), "{} is missing: scripts/setup test installs it", program.display());
    program
}

/// An S3 server with the bucket `lake`.
struct Server {
    _child: OwnedChild,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let mut command = Command::new(moto());
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { _child: child.into(), port };
        let since = Instant::now();
        loop {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let request = "PUT /lake HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n";
                let mut answer = String::new();
                stream.write_all(request.as_bytes()).unwrap();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"), "{answer}");
                return server;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "the S3 server does not answer");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Answered,
    /// The store is busy: 503, and nothing was done.
    Throttled,
    /// The store fails: 500, and nothing was done.
    Failed,
    /// It was done, and the connection ended before the answer.
    AnswerLost,
    /// The connection ended in the middle of the answer.
    AnswerCut,
}

/// Passes requests on to the server, and has a fate for each.
struct Proxy {
    port: u16,
    /// How many requests had each method and fate.
    seen: Arc<Mutex<BTreeMap<(String, Fate), usize>>>,
}

impl Proxy {
    /// `fate` is asked with the number of the request, from 0.
    fn start(server: &Server, fate: fn(usize) -> Fate) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<BTreeMap<_, usize>>> = Arc::default();
        let (to, counts) = (server.port, Arc::clone(&seen));
        // It ends with the test's process.
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (Ok(stream), counts) = (stream, Arc::clone(&counts)) else { continue };
                thread::spawn(move || {
                    let fate = fate(number);
                    // A client may give up.
                    if let Ok(method) = pass_on(stream, to, fate) {
                        *counts.lock().unwrap().entry((method, fate)).or_default() += 1;
                    }
                });
            }
        });
        Self { port, seen }
    }

    /// How many requests had this fate.
    fn had(&self, wanted: Fate) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|((_, fate), _)| *fate == wanted)
            .map(|(_, count)| count)
            .sum()
    }

    /// Requests by method since the last call.
    fn take(&self) -> BTreeMap<String, usize> {
        let mut by_method = BTreeMap::new();
        for ((method, _), count) in std::mem::take(&mut *self.seen.lock().unwrap()) {
            *by_method.entry(method).or_default() += count;
        }
        by_method
    }
}

/// Passes on one request of a connection, and closes it. Returns the method; a listing is one.
fn pass_on(mut client: TcpStream, to: u16, fate: Fate) -> std::io::Result<String> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if !lower.starts_with("connection:") {
            if line == "\r\n" {
                head.push_str("Connection: close\r\n\r\n");
                break;
            }
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let is_list = head.contains("list-type=2");
    let method = if is_list { "LIST" } else { head.split(' ').next().unwrap_or_default() }.to_owned();
    let refused = match fate {
        Fate::Throttled => Some("503 Slow Down"),
        Fate::Failed => Some("500 Internal Server Error"),
        _ => None,
    };
    if let Some(refused) = refused {
        write!(client, "HTTP/1.1 {refused}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        return Ok(method);
    }
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match fate {
        Fate::AnswerLost => {}
        Fate::AnswerCut => client.write_all(&answer[..answer.len() * 2 / 3])?,
        _ => client.write_all(&answer)?,
    }
    client.shutdown(Shutdown::Both)?;
    Ok(method)
}

fn taptrail(proxy: &Proxy, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.args(arguments).env("TZ", "UTC").env_remove("TAPTRAIL_LOG").stdin(Stdio::null());
    command.env("TAPTRAIL_STATE_DIR", "/nonexistent").env("TAPTRAIL_AUDIT_LOG", "/nonexistent/audit.log");
    command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", proxy.port));
    command.env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", "nobody");
    command.env("AWS_SECRET_ACCESS_KEY", "nothing").env("AWS_EC2_METADATA_DISABLED", "true");
    command.output().unwrap()
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Logs of eight hosts of the lab.
fn logs(directory: &Path) -> String {
    let logs = directory.join("logs");
    assert_eq!(lab::copy_logs("libvirt-9.0", 8, &logs), 8);
    logs.display().to_string()
}

/// What of a trail does not depend on where it was read from.
fn holdings(trail: &Value) -> Vec<String> {
    let of = |holding: &Value| {
        let fields =
            ["host", "guest", "mac", "device", "opened", "granted", "released", "state", "certainty"];
        fields.map(|field| holding[field].to_string()).join(" ")
    };
    let mut all: Vec<String> = trail["holdings"].as_array().unwrap().iter().map(of).collect();
    all.sort();
    all
}

// Shows 15.2, 15.3.
#[test]
fn a_store_that_throttles_fails_and_loses_answers_gets_all_of_it_once() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(directory.path());
    let server = Server::start();
    let proxy = Proxy::start(&server, |number| match number % 11 {
        2 | 3 => Fate::Throttled,
        5 => Fate::Failed,
        7 => Fate::AnswerLost,
        9 => Fate::AnswerCut,
        _ => Fate::Answered,
    });
    let archive = ["archive", &logs, "--to", "s3://lake/fleet", "--json"];
    let archived = taptrail(&proxy, &archive);
    assert_eq!(archived.status.code(), Some(0), "{}", String::from_utf8_lossy(&archived.stderr));
    assert_eq!(json(&archived)["batch"]["hosts"], 8);
    let again = taptrail(&proxy, &archive);
    assert_eq!(json(&again)["batch"]["objects_written"], 0, "{again:?}");
    let compacted = taptrail(&proxy, &["lake", "compact", "s3://lake/fleet", "--json"]);
    assert_eq!(json(&compacted)["batches"], 1);
    let checked = taptrail(&proxy, &["lake", "check", "s3://lake/fleet"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let from_lake = json(&taptrail(&proxy, &["trail", "--lake", "s3://lake/fleet", "--json"]));
    let from_logs = json(&taptrail(&proxy, &["trail", &logs, "--json"]));
    assert!(holdings(&from_logs).len() > 20, "{}", holdings(&from_logs).len());
    assert_eq!(holdings(&from_lake), holdings(&from_logs));
    for fate in [Fate::Throttled, Fate::Failed, Fate::AnswerLost, Fate::AnswerCut] {
        assert!(proxy.had(fate) > 0, "{fate:?} did not happen");
    }
}

#[test]
fn how_many_requests_a_host_makes() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(directory.path());
    let server = Server::start();
    let proxy = Proxy::start(&server, |_| Fate::Answered);
    let archived = json(&taptrail(&proxy, &["archive", &logs, "--to", "s3://lake/fleet", "--json"]));
    let requests = proxy.take();
    let objects = usize::try_from(archived["batch"]["objects"].as_u64().unwrap()).unwrap();
    eprintln!("archive, {objects} objects: {requests:?}");
    // Each object is written and looked for; then the manifest, which is read again.
    assert_eq!((requests["PUT"], requests["HEAD"]), (objects + 1, objects), "{requests:?}");
    assert_eq!(requests["GET"], 1, "{requests:?}");
    taptrail(&proxy, &["lake", "compact", "s3://lake/fleet"]);
    eprintln!("compact: {:?}", proxy.take());
    let mac = json(&taptrail(&proxy, &["trail", &logs, "--json"]))["holdings"][0]["mac"].clone();
    let at = json(&taptrail(&proxy, &["trail", &logs, "--json"]))["holdings"][0]["granted"].clone();
    let (mac, at) = (mac.as_str().unwrap(), at.as_str().unwrap());
    let who = taptrail(&proxy, &["who", mac, "--at", at, "--lake", "s3://lake/fleet"]);
    assert_eq!(who.status.code(), Some(0), "{who:?}");
    let requests = proxy.take();
    eprintln!("who: {requests:?}");
    assert!(requests.values().sum::<usize>() < 30, "{requests:?}");
}
