//! `taptrail serve`: the page over HTTP, in a real browser and by hand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use taptrail_kernel::proc::{PidFd, ProcessId, Signal};

use crate::report::browser::Browser;
use crate::world::OwnedChild;
use crate::world::World;

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";

const TOKEN: &str = "a-token-for-this-test";

/// A server that has said on what address it is.
struct Server {
    child: OwnedChild,
    address: String,
    /// What follows the address: `?token=…`, or nothing.
    query: String,
    _out: BufReader<ChildStdout>,
}

impl Server {
    fn start(world: &World, options: &[&str]) -> Self {
        world.ip("link set lo up");
        let arguments = ["serve", "--listen", "127.0.0.1:0"].iter().chain(options);
        let mut command = world.command(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let url = line.strip_prefix("Serving on http://").and_then(|rest| rest.split_once('/'));
        let (address, rest) = url.unwrap_or_else(|| panic!("{line}"));
        let query = rest.split(' ').next().unwrap_or_default().to_owned();
        Self { child: child.into(), address: address.to_owned(), query, _out: out }
    }

    /// The answer to a request with these lines behind the first.
    fn get(&self, path: &str, lines: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n{lines}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn host(&self) -> String {
        format!("Host: {}\r\n", self.address)
    }
}

#[test]
fn a_guest_that_is_plugged_in_while_the_page_is_open_appears_on_it() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let server = Server::start(&world, &["--utc"]);
    let mut browser = Browser::start(1280, 900);
    // The token, which is made for each server, becomes a cookie.
    assert!(server.query.starts_with("?token="), "{}", server.query);
    browser.open_url(&format!("http://{}/{}", server.address, server.query));
    assert_eq!(browser.eval("location.search"), "");
    browser.wait_for("document.querySelector('.live')?.dataset.state === 'live'");
    assert_eq!(
        browser
            .text("#counts li:first-child b, #counts li:first-child strong, #counts li:first-child")
            .trim()
            .chars()
            .next(),
        Some('1')
    );
    // The filter is kept when the page loads itself again.
    browser.eval("document.getElementById('f-text').value = 'web1'");
    world.attach(&guest, "macvtap=lower,mac=52:54:00:00:00:02,vhost=off").ok();
    let plugged = Instant::now();
    browser.wait_over_loads("document.documentElement.dataset.ready !== undefined && document.body.textContent.includes('52:54:00:00:00:02')");
    eprintln!("a hot-plug was on the page after {} ms", plugged.elapsed().as_millis());
    browser.wait_over_loads("document.getElementById('f-text').value === 'web1'");
    let asked = |complaint: &&String| !complaint.contains("/events");
    let complaints: Vec<_> = browser.complaints().iter().filter(asked).cloned().collect();
    assert_eq!(complaints, Vec::<String>::new());
    // It says so when nobody keeps it up to date any more. A page that is just being loaded can't.
    let mut last = None;
    loop {
        browser.wait_over_loads("document.querySelector('.live')?.dataset.state === 'live'");
        let generation = Some(browser.eval("document.body.dataset.generation"));
        if generation == last {
            break;
        }
        last = generation;
        std::thread::sleep(Duration::from_secs(1));
    }
    drop(server);
    browser.wait_over_loads("document.querySelector('.live')?.dataset.state === 'lost'");
    world.stop(&guest);
}

#[test]
fn only_requests_that_mean_this_server_are_answered() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let server = Server::start(&world, &["--no-token"]);
    let host = server.host();
    let page = server.get("/", &host);
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("web1"), "{}", &page[..200]);
    for header in ["cache-control: no-store", "x-frame-options: DENY", "x-content-type-options: nosniff"] {
        assert!(page.to_lowercase().contains(&header.to_lowercase()), "{header}");
    }
    assert!(server.get("/", "Host: evil.example.org\r\n").starts_with("HTTP/1.1 421"));
    let foreign = format!("{host}Origin: http://evil.example.org\r\n");
    for path in ["/", "/events"] {
        assert!(server.get(path, &foreign).starts_with("HTTP/1.1 403"));
    }
    assert!(server.get("/../etc/passwd", &host).starts_with("HTTP/1.1 404"));
    assert!(!server.get("/nothing", &host).contains("web1"));
    world.stop(&guest);
}

#[test]
fn whoever_has_no_token_reads_nothing() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let refused = world.taptrail(["serve", "--listen", "0.0.0.0:0", "--no-token"]);
    refused.fails(2, "0.0.0.0:0 is no loopback address");
    let file = world.path("token");
    std::fs::write(&file, "short\n").unwrap();
    let short = world.taptrail(["serve", "--token-file", file.to_str().unwrap()]);
    short.fails(2, "The token must have at least 16 characters");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let server = Server::start(&world, &["--token-file", file.to_str().unwrap()]);
    assert_eq!(server.query, "", "a token of a file is not printed");
    let host = server.host();
    for path in ["/", "/events", "/?token=a-token-for-this-tesT"] {
        assert!(server.get(path, &host).starts_with("HTTP/1.1 401"), "{path}");
    }
    let given = server.get(&format!("/?token={TOKEN}"), &host);
    assert!(given.starts_with("HTTP/1.1 303") && given.contains("HttpOnly; SameSite=Strict"), "{given}");
    let cookie = given.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let pair = cookie.split(';').next().unwrap();
    assert!(server.get("/", &format!("{host}Cookie: {pair}\r\n")).starts_with("HTTP/1.1 200"));
    world.stop(&guest);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up_and_the_end_is_graceful() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let mut server = Server::start(&world, &["--no-token"]);
    // Requests of which nothing is read, or that never end.
    let mut slow = Vec::new();
    for number in 0..20 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        match number % 2 {
            0 => write!(stream, "GET / HTTP/1.1\r\n{}\r\n", server.host()).unwrap(),
            _ => write!(stream, "GET /events HTTP/1.1\r\nHost").unwrap(),
        }
        slow.push(stream);
    }
    assert!(server.get("/", &server.host()).starts_with("HTTP/1.1 200"));
    let mut events = TcpStream::connect(&server.address).unwrap();
    write!(events, "GET /events HTTP/1.1\r\n{}\r\n", server.host()).unwrap();
    let mut lines = BufReader::new(&mut events).lines();
    assert!(lines.any(|line| line.unwrap() == "data: 1"));
    let id = ProcessId::of(server.child.id()).unwrap();
    PidFd::open(id).unwrap().send_signal(Signal::TERM).unwrap();
    assert!(server.child.wait().unwrap().success());
    world.stop(&guest);
}
