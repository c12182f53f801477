use serde::Serialize;
use taptrail_record::{GuestId, MacAddr};
use taptrail_trail::{BridgeTap, Finding, Holding, Input, Proof};

use super::{Explanation, Interface, LineReader, by_interface, sentences};
use crate::bridge_taps;
use crate::style::TimeFormat;

#[derive(Serialize)]
struct ExplanationJson<'a> {
    interfaces: Vec<InterfaceJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bridge_taps: Vec<BridgeTapJson<'a>>,
    input: &'a Input,
}

#[derive(Serialize)]
struct InterfaceJson<'a> {
    host: &'a str,
    guest: Option<&'a GuestId>,
    mac: Option<MacAddr>,
    holdings: Vec<HoldingJson<'a>>,
    findings: Vec<FindingJson<'a>>,
}

#[derive(Serialize)]
struct HoldingJson<'a> {
    holding: &'a Holding,
    told: Vec<String>,
    lines: Vec<LineJson<'a>>,
}

#[derive(Serialize)]
struct BridgeTapJson<'a> {
    bridge_tap: &'a BridgeTap,
    told: Vec<String>,
    lines: Vec<LineJson<'a>>,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    finding: &'a Finding,
    lines: Vec<LineJson<'a>>,
}

#[derive(Serialize)]
struct LineJson<'a> {
    source: &'a str,
    line: u64,
    serial: Option<u32>,
    /// Whether its source does not authenticate its writers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unauthenticated: bool,
    /// The line as in its source; null when it could not be read again.
    raw: Option<String>,
}

pub(super) fn json(
    explanation: &Explanation,
    clock: &TimeFormat,
    lines: &LineReader<'_>,
) -> Result<String, serde_json::Error> {
    let interfaces = by_interface(explanation);
    let interfaces = interfaces.iter().map(|one| interface(one, clock, lines)).collect();
    let bridge_tap = |tap| bridge_tap(tap, clock, lines);
    let bridge_taps = explanation.report.bridge_taps.iter().map(bridge_tap).collect();
    crate::json(&ExplanationJson { interfaces, bridge_taps, input: &explanation.report.input })
}

fn bridge_tap<'a>(tap: &'a BridgeTap, clock: &TimeFormat, lines: &LineReader<'_>) -> BridgeTapJson<'a> {
    let rows = bridge_taps::statement(tap, clock);
    let told = rows.into_iter().map(|(label, text)| format!("{label} {text}")).collect();
    BridgeTapJson { bridge_tap: tap, told, lines: shown(&tap.proof, lines) }
}

fn interface<'a>(interface: &Interface<'a>, clock: &TimeFormat, lines: &LineReader<'_>) -> InterfaceJson<'a> {
    let holding = |holding: &'a Holding| HoldingJson {
        holding,
        told: sentences::describe(holding, clock),
        lines: shown(&holding.proof, lines),
    };
    let finding = |finding: &'a Finding| FindingJson { finding, lines: shown(&finding.proof, lines) };
    InterfaceJson {
        host: interface.host,
        guest: interface.guest,
        mac: interface.mac,
        holdings: interface.holdings.iter().copied().map(holding).collect(),
        findings: interface.findings.iter().copied().map(finding).collect(),
    }
}

fn shown<'a>(proof: &'a [Proof], lines: &LineReader<'_>) -> Vec<LineJson<'a>> {
    let line = |proof: &'a Proof| LineJson {
        source: &proof.source,
        line: proof.line,
        serial: proof.serial,
        unauthenticated: proof.unauthenticated,
        raw: lines(proof),
    };
    proof.iter().map(line).collect()
}
