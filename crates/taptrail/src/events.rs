//! `taptrail events`: prints the events of a guest as they happen.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use taptrail_guest::api::{Device, Event};
use taptrail_guest::{Client, Dirs, descriptors};

use crate::CommandResult;
use crate::cli::Events;
use crate::unresponsive::client_failure;

pub(crate) fn events(arguments: &Events, dirs: &Dirs) -> CommandResult {
    let mut written = Ok(());
    let result = Client::connect(&dirs.run, &arguments.guest).and_then(|mut client| {
        client.events(|event| {
            let shown = if arguments.output.is_json() { json(&event) } else { Ok(line(&event)) };
            written = shown.and_then(|line| print_line(&line));
            written.is_ok()
        })
    });
    result.map_err(|error| client_failure(error, &arguments.guest, dirs))?;
    match written {
        // If the reader has closed the pipe, it has read enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("Standard output can't be written")?
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn json(event: &Event) -> io::Result<String> {
    Ok(taptrail_report::json_line(event)?)
}

/// `2026-11-23T22:04:15.600Z 52:54:00:12:34:56 opened /dev/net/tun 'vnet0' queue 0`
fn line(event: &Event) -> String {
    let mut line = format!("{}  ", event.time);
    let failed = event.outcome.as_deref() == Some("failed");
    if let Some(mac) = &event.mac {
        let _ = write!(line, "{mac}  ");
    }
    match (event.kind.as_str(), &event.state) {
        ("guest", Some(state)) => line += &format!("the guest is {state}"),
        ("interface", Some(state)) => {
            line += &format!("interface '{}' is {state}", event.ifname.as_deref().unwrap_or("?"));
        }
        ("finding", _) => {
            line += &format!("finding {}", event.finding.as_deref().unwrap_or("?"));
        }
        ("started" | "ended", _) => line += &format!("the guest has {}", event.kind),
        ("granted", _) if failed => line += "grant",
        (kind, _) => line += kind,
    }
    if let Some(of) = &event.device {
        line += &device(of);
    }
    if let Some(count) = event.fds.and_then(|fds| usize::try_from(fds).ok()) {
        let _ = write!(line, " {}", descriptors(count));
    }
    if event.forced == Some(true) {
        line += " by force";
    }
    if let Some(reason) = &event.reason {
        let _ = write!(line, " ({reason})");
    }
    if failed {
        line += " FAILED";
    }
    if let Some(errno) = event.errno.and_then(|errno| i32::try_from(errno).ok()) {
        let _ = write!(line, ": {}", io::Error::from_raw_os_error(errno));
    }
    if let Some(time) = &event.last_seen {
        let _ = write!(line, ", unseen since {time}");
    }
    if let Some(doubt) = &event.doubt {
        let _ = write!(line, ", not shown to be over ({doubt})");
    }
    if let Some(text) = &event.text {
        let _ = write!(line, ": {text}");
    }
    if let Some(who) = &event.requester {
        let _ = write!(line, ", asked by user {} (pid {})", who.uid, who.pid);
    }
    line
}

fn device(device: &Device) -> String {
    let behind = device.dev.as_ref().map(|dev| format!(" '{dev}'")).unwrap_or_default();
    format!(" {}{behind} queue {}", device.path, device.queue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    fn event(json: &str) -> Event {
        let head = r#"{"sequence":1,"time":"2026-11-23T22:04:15.600Z","#;
        serde_json::from_str(&format!("{head}{json}}}")).unwrap()
    }

    #[test]
    fn a_line_says_what_happened() {
        let lines = [
            r#""kind":"guest","state":"running""#,
            r#""kind":"opened","mac":"52:54:00:00:00:01","outcome":"success","device":{"kind":"tun","path":"/dev/net/tun","rdev":"0A:C8","dev":"vnet0","queue":0,"qemu_fd":null}"#,
            r#""kind":"opened","mac":"52:54:00:00:00:01","outcome":"failed","errno":2,"device":{"kind":"vhost-net","path":"/dev/vhost-net","rdev":null,"dev":null,"queue":1,"qemu_fd":null}"#,
            r#""kind":"granted","mac":"52:54:00:00:00:01","reason":"attach","outcome":"failed","text":"QEMU refused the interface: no such bus""#,
            r#""kind":"released","mac":"52:54:00:00:00:01","reason":"detach","outcome":"success","fds":2,"forced":true,"requester":{"uid":1000,"login_uid":null,"pid":7}"#,
            r#""kind":"interface","mac":"52:54:00:00:00:01","ifname":"vnet0","state":"revoked""#,
            r#""kind":"guest","state":"stopped","reason":"destroyed""#,
        ];
        let result: Vec<_> = lines.iter().map(|json| line(&event(json))).collect();
        let result = result.join("\n").replace("2026-11-23T22:04:15.600Z  ", "");
        assert_eq!(
            result,
            "the guest is running\n\
             52:54:00:00:00:01  opened /dev/net/tun 'vnet0' queue 0\n\
             52:54:00:00:00:01  opened /dev/vhost-net queue 1 FAILED: No such file or directory (os error 2)\n\
             52:54:00:00:00:01  grant (attach) FAILED: QEMU refused the interface: no such bus\n\
             52:54:00:00:00:01  released 2 descriptors by force (detach), asked by user 1000 (pid 7)\n\
             52:54:00:00:00:01  interface 'vnet0' is revoked\n\
             the guest is stopped (destroyed)"
        );
    }

    #[test]
    fn a_line_of_json_is_as_its_schema_says() {
        let full = r#""kind":"closed","state":"gone","reason":"detach","outcome":"success","errno":2,"mac":"52:54:00:00:00:01","ifname":"vnet0","device":{"kind":"tun","path":"/dev/net/tun","rdev":"0A:C8","dev":"vnet0","queue":0,"qemu_fd":30,"doubt":"unseen"},"fds":2,"forced":true,"last_seen":"2026-11-23T22:04:15.600Z","doubt":"unseen","requester":{"uid":1000,"login_uid":null,"pid":7},"finding":"log-gap","text":"x""#;
        for members in [full, r#""kind":"guest","state":"running""#] {
            let line: serde_json::Value = serde_json::from_str(&json(&event(members)).unwrap()).unwrap();
            contract::assert_valid("events", &line);
            for (place, changed) in contract::mutations(&line) {
                assert!(!contract::faults("events", &changed).is_empty(), "{place}");
            }
        }
    }
}
