use serde::Serialize;
use taptrail_record::{GuestId, MacAddr};
use taptrail_trail::{Finding, Holding, Input, Proof};

use super::{Explanation, Interface, Lines, sentences};
use crate::style::Clock;

#[derive(Serialize)]
struct Told<'a> {
    interfaces: Vec<ToldInterface<'a>>,
    input: &'a Input,
}

#[derive(Serialize)]
struct ToldInterface<'a> {
    host: &'a str,
    guest: Option<&'a GuestId>,
    mac: Option<MacAddr>,
    holdings: Vec<ToldHolding<'a>>,
    findings: Vec<ToldFinding<'a>>,
}

#[derive(Serialize)]
struct ToldHolding<'a> {
    holding: &'a Holding,
    told: Vec<String>,
    lines: Vec<ToldLine<'a>>,
}

#[derive(Serialize)]
struct ToldFinding<'a> {
    finding: &'a Finding,
    lines: Vec<ToldLine<'a>>,
}

#[derive(Serialize)]
struct ToldLine<'a> {
    source: &'a str,
    line: u64,
    serial: Option<u32>,
    /// Nobody vouches for who wrote it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unauthenticated: bool,
    /// As it stands in its source; null when it could not be read again.
    raw: Option<String>,
}

pub(super) fn json(
    explanation: &Explanation,
    clock: &Clock,
    lines: &Lines<'_>,
) -> Result<String, serde_json::Error> {
    let interfaces = explanation.interfaces.iter().map(|one| interface(one, clock, lines)).collect();
    crate::json(&Told { interfaces, input: &explanation.input })
}

fn interface<'a>(interface: &'a Interface, clock: &Clock, lines: &Lines<'_>) -> ToldInterface<'a> {
    let holding = |holding: &'a Holding| ToldHolding {
        holding,
        told: sentences::of(holding, clock),
        lines: shown(&holding.proof, lines),
    };
    let finding = |finding: &'a Finding| ToldFinding { finding, lines: shown(&finding.proof, lines) };
    ToldInterface {
        host: &interface.host,
        guest: interface.guest.as_ref(),
        mac: interface.mac,
        holdings: interface.holdings.iter().map(holding).collect(),
        findings: interface.findings.iter().map(finding).collect(),
    }
}

fn shown<'a>(proof: &'a [Proof], lines: &Lines<'_>) -> Vec<ToldLine<'a>> {
    let line = |proof: &'a Proof| ToldLine {
        source: &proof.source,
        line: proof.line,
        serial: proof.serial,
        unauthenticated: proof.unauthenticated,
        raw: lines(proof),
    };
    proof.iter().map(line).collect()
}
