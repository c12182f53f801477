//! Holdings, findings and the bridge helper's taps as documents of the Elastic Common Schema (ECS)
//! 8.17, for SIEMs.
//!
//! docs/ecs.md says what each field is. Fields of ECS are used in their own meaning alone; what ECS
//! has no field for is under `taptrail`, with the names that it has in other JSON.

use std::borrow::Cow;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use taptrail_record::Device;
use taptrail_trail::{BridgeTap, Certainty, Finding, FindingKind, Holding, Severity, State};

use crate::text::escape_name;

/// The version of ECS.
const VERSION: &str = "8.17.0";

/// The document that explains each kind of finding.
const FINDINGS: &str = "https://github.com/taptrail/taptrail/blob/main/docs/findings.md";

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    ecs: Ecs,
    message: Cow<'a, str>,
    event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Host<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File<'a>>,
    related: Related<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule>,
    taptrail: Taptrail<'a>,
}

#[derive(Serialize)]
struct Ecs {
    version: &'static str,
}

#[derive(Serialize)]
struct Event {
    kind: &'static str,
    category: [&'static str; 1],
    #[serde(rename = "type")]
    types: Vec<&'static str>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    /// In nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<u8>,
    module: &'static str,
    dataset: &'static str,
}

#[derive(Serialize)]
struct Host<'a> {
    name: &'a str,
    hostname: &'a str,
}

#[derive(Serialize)]
struct User {
    id: String,
}

#[derive(Serialize)]
struct Process {
    pid: u32,
}

#[derive(Serialize)]
struct File<'a> {
    path: &'a str,
}

#[derive(Serialize)]
struct Related<'a> {
    hosts: Vec<&'a str>,
}

#[derive(Serialize)]
struct Rule {
    name: &'static str,
    description: &'static str,
    ruleset: &'static str,
    reference: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Taptrail<'a> {
    Holding(&'a Holding),
    BridgeTap(&'a BridgeTap),
    Finding(&'a Finding),
}

/// Writes a holding as one line.
pub(crate) fn write_holding(out: &mut impl Write, holding: &Holding) -> io::Result<()> {
    crate::json::write_jsonl(out, &of_holding(holding))
}

/// Writes a tap of the bridge helper's as one line.
pub(crate) fn write_bridge_tap(out: &mut impl Write, tap: &BridgeTap) -> io::Result<()> {
    crate::json::write_jsonl(out, &of_bridge_tap(tap))
}

/// Writes a finding as one line.
pub(crate) fn write_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    crate::json::write_jsonl(out, &of_finding(finding))
}

fn of_holding(holding: &Holding) -> Document<'_> {
    let was_held = matches!(holding.state, State::Held | State::Released);
    let start = if was_held { holding.granted } else { holding.opened };
    let end = holding.released.filter(|_| was_held);
    // An end that nobody observed, or that may be another's, has no exact time.
    let is_exact = holding.last_seen.is_none() && holding.certainty != Certainty::Ambiguous;
    let span = start.zip(end).filter(|_| is_exact);
    let first = holding.proof.first().map(|proof| proof.time);
    let behind = holding.device.dev.as_ref().map(|dev| format!(" '{}'", escape_name(dev)));
    let message = format!(
        "{} {}: {}{} {}",
        escape_name(&holding.guest.name),
        holding.mac,
        escape_name(&holding.device.path),
        behind.unwrap_or_default(),
        holding.state.as_str()
    );
    Document {
        timestamp: rfc3339(start.or(holding.opened).or(first).unwrap_or(Timestamp::UNIX_EPOCH)),
        ecs: Ecs { version: VERSION },
        message: message.into(),
        event: Event { start: start.map(rfc3339), end: end.map(rfc3339), ..of_state(holding.state, span) },
        host: host(&holding.host),
        user: None,
        process: holding.pid.map(|pid| Process { pid }),
        file: file(&holding.device),
        related: related(&holding.host, Some(&holding.guest.name)),
        rule: None,
        taptrail: Taptrail::Holding(holding),
    }
}

fn of_bridge_tap(tap: &BridgeTap) -> Document<'_> {
    // Of one that nobody was to watch, only the beginning is known.
    let end = tap.released;
    let span = end.filter(|_| tap.last_seen.is_none()).map(|end| (tap.passed, end));
    let dev = tap.device.dev.as_deref().map_or("?".into(), escape_name);
    let message = format!(
        "bridge {}, user {}: tap '{dev}' {}",
        escape_name(&tap.bridge),
        tap.requester.uid,
        tap.state.as_str()
    );
    let event = of_state(tap.state, span);
    Document {
        timestamp: rfc3339(tap.passed),
        ecs: Ecs { version: VERSION },
        message: message.into(),
        event: Event {
            start: Some(rfc3339(tap.passed)),
            end: end.map(rfc3339),
            dataset: "taptrail.bridge_tap",
            ..event
        },
        host: host(&tap.host),
        user: Some(User { id: tap.requester.uid.to_string() }),
        process: Some(Process { pid: tap.requester.pid }),
        file: file(&tap.device),
        related: related(&tap.host, None),
        rule: None,
        taptrail: Taptrail::BridgeTap(tap),
    }
}

/// The event of a device in a state. A span whose ends were both observed gives its duration.
fn of_state(state: State, span: Option<(Timestamp, Timestamp)>) -> Event {
    let (types, action) = match state {
        State::OpenFailed => (vec!["info"], "device-open-failed"),
        State::Opening => (vec!["info"], "device-opening"),
        State::NeverGranted => (vec!["info"], "device-never-granted"),
        State::Unknown => (vec!["info"], "device-unknown"),
        State::Held => (vec!["access", "start"], "device-held"),
        State::Released => (vec!["access", "end"], "device-released"),
    };
    let outcome = match state {
        State::OpenFailed => "failure",
        State::Held | State::Released => "success",
        State::Opening | State::NeverGranted | State::Unknown => "unknown",
    };
    Event {
        kind: "event",
        category: ["network"],
        types,
        action,
        outcome: Some(outcome),
        start: None,
        end: None,
        duration: span.and_then(|(start, end)| i64::try_from(end.duration_since(start).as_nanos()).ok()),
        severity: None,
        module: "taptrail",
        dataset: "taptrail.holding",
    }
}

fn of_finding(finding: &Finding) -> Document<'_> {
    let kind = finding.kind;
    Document {
        timestamp: rfc3339(finding.time),
        ecs: Ecs { version: VERSION },
        message: finding.text.as_str().into(),
        event: Event {
            kind: if kind.severity() == Severity::Grave { "alert" } else { "event" },
            category: ["network"],
            types: vec![if kind == FindingKind::RefusedOpen { "denied" } else { "info" }],
            action: kind.as_str(),
            outcome: is_failure(kind).then_some("failure"),
            start: None,
            end: None,
            duration: None,
            severity: Some(severity(kind)),
            module: "taptrail",
            dataset: "taptrail.finding",
        },
        host: host(&finding.host),
        user: None,
        process: None,
        file: finding.device.as_ref().and_then(file),
        related: related(&finding.host, finding.guest.as_ref().map(|guest| &*guest.name)),
        rule: Some(Rule {
            name: kind.as_str(),
            description: kind.summary(),
            ruleset: "taptrail",
            reference: format!("{FINDINGS}#{}", kind.as_str()),
        }),
        taptrail: Taptrail::Finding(finding),
    }
}

/// ECS leaves the numbers to the source.
fn severity(kind: FindingKind) -> u8 {
    match kind.severity() {
        Severity::Notice => 1,
        Severity::Warning => 2,
        Severity::Grave => 3,
    }
}

/// Whether it reports that an action failed; other kinds have no outcome.
fn is_failure(kind: FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::OpenFailed
            | FindingKind::StartFailed
            | FindingKind::AttachFailed
            | FindingKind::DetachFailed
            | FindingKind::StopFailed
            | FindingKind::CloseFailed
            | FindingKind::RefusedOpen
    )
}

/// The host; none where no source names it.
fn host(name: &str) -> Option<Host<'_>> {
    (name != "?").then_some(Host { name, hostname: name })
}

/// The character device; none where the record has an interface's name in its place.
fn file(device: &Device) -> Option<File<'_>> {
    device.path.starts_with('/').then_some(File { path: &device.path })
}

fn related<'a>(host: &'a str, guest: Option<&'a str>) -> Related<'a> {
    let mut hosts: Vec<_> = Some(host).filter(|host| *host != "?").into_iter().chain(guest).collect();
    hosts.dedup();
    Related { hosts }
}

fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
#[path = "../../../tests/e2e/world/ecs.rs"]
mod fields;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::sample::{at, bridge_tap, finding, holding};

    fn json(document: &Document<'_>) -> Value {
        let mut line = Vec::new();
        crate::json::write_jsonl(&mut line, document).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).unwrap()
    }

    fn documents() -> Vec<Value> {
        let tap = || holding("web1", 1, 10, Some(30));
        let state = |state| Holding { state, granted: None, released: None, ended_by: None, ..tap() };
        let holdings = [
            tap(),
            holding("web1", 1, 10, None),
            state(State::OpenFailed),
            state(State::Opening),
            state(State::NeverGranted),
            state(State::Unknown),
            Holding { opened: None, granted: None, pid: None, host: "?".into(), ..tap() },
            Holding { last_seen: Some(at(20)), ..tap() },
            Holding { device: Device::new("macvtap0", None, Some("macvtap0".into())), ..tap() },
        ];
        let of_kind = |kind: &FindingKind| Finding { kind: *kind, ..finding(Some("web1"), Some(1), 22) };
        let findings: Vec<_> = FindingKind::ALL.iter().map(of_kind).chain([finding(None, None, 3)]).collect();
        let taps = [bridge_tap(10, Some(30)), bridge_tap(10, None)];
        let documents = holdings.iter().map(of_holding).chain(taps.iter().map(of_bridge_tap));
        documents.chain(findings.iter().map(of_finding)).map(|of| json(&of)).collect()
    }

    #[test]
    fn a_tap_of_the_bridge_helper_is_a_document_of_its_own() {
        let released = json(&of_bridge_tap(&bridge_tap(10, Some(30))));
        assert_eq!(released["message"], "bridge br0, user 1000: tap 'tap0' released");
        assert_eq!(released["event"]["duration"], 20_000_000_000_i64);
        assert_eq!(released["user"]["id"], "1000");
        assert_eq!(released["taptrail"]["type"], "bridge_tap");
        // What its process claims to be is no related host.
        assert_eq!(released["related"]["hosts"], serde_json::json!(["h1"]));
        let between = BridgeTap { last_seen: Some(at(20)), ..bridge_tap(10, Some(30)) };
        assert!(json(&of_bridge_tap(&between))["event"].get("duration").is_none());
    }

    #[test]
    fn each_field_is_one_of_ecs_or_taptrails_own() {
        let mut used = BTreeSet::new();
        for document in documents() {
            assert_eq!(fields::faults(&document), Vec::<String>::new(), "{document:#}");
            used.extend(fields::of(&document));
        }
        let listed = fields::listed().map(|field| field.name.to_owned()).collect();
        assert_eq!(used, listed, "fields that are used, and fields of the list");
    }

    #[test]
    fn a_field_that_ecs_lacks_or_has_in_another_type_is_noticed() {
        let good = documents().remove(0);
        for (place, value) in [
            ("/event/kinds", Value::from("event")),
            ("/event/kind", Value::from("finding")),
            ("/event/category", Value::from("network")),
            ("/event/type", Value::from(vec!["opened"])),
            ("/event/duration", Value::from("1s")),
            ("/event/start", Value::from(7)),
            ("/host/name", Value::from(vec!["h1"])),
            ("/process/pid", Value::from("7")),
        ] {
            let mut changed = good.clone();
            let (parent, name) = place.rsplit_once('/').unwrap();
            changed.pointer_mut(parent).unwrap()[name] = value;
            assert!(!fields::faults(&changed).is_empty(), "{place}");
        }
    }

    #[test]
    fn a_duration_is_there_only_where_both_ends_were_observed() {
        let duration = |holding: &Holding| json(&of_holding(holding))["event"]["duration"].as_i64();
        let tap = holding("web1", 1, 10, Some(30));
        assert_eq!(duration(&tap), Some(19_000_000_000), "from the grant at 11 on");
        for unknown in [
            Holding { granted: None, ..tap.clone() },
            Holding { last_seen: Some(at(20)), ..tap.clone() },
            Holding { certainty: Certainty::Ambiguous, ..tap.clone() },
            holding("web1", 1, 10, None),
        ] {
            assert_eq!(duration(&unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn the_document_about_the_mapping_has_each_field() {
        let text = include_str!("../../../docs/ecs.md");
        let cells =
            text.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
        let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let documented: BTreeSet<&str> = names.filter(|name| !name.starts_with("taptrail.")).collect();
        assert_eq!(documented, fields::listed().map(|field| field.name).collect());
    }
}
