//! A shape's lines doubled, out of order and with some lost: the same trail, or what is lost is said to be unknown.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use jiff::tz::TimeZone;
use taptrail_record::DeviceKind;
use taptrail_trail::{Certainty, Holding, Trail};

use super::lines;
use crate::{About, Input, Options, Outcome, read};

/// What is told of a log.
struct Told {
    holdings: Vec<Holding>,
    outcome: Outcome,
}

fn told(text: &[u8]) -> Told {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    let mut trail = Trail::new();
    let now = "2026-12-01T00:00:00Z".parse().unwrap();
    let options = Options { zone: TimeZone::UTC, now, ..Options::default() };
    let outcome = read(vec![Input::File(file.path().to_owned())], options, &mut |entry| {
        trail.feed(entry);
        ControlFlow::Continue(())
    });
    let mut holdings: Vec<_> = trail.drain_ended().collect();
    holdings.extend(trail.finish().holdings);
    holdings.sort_by_key(|of| (of.guest.uuid, of.mac, of.opened, of.released, of.device.kind));
    Told { holdings, outcome }
}

/// What is told of a holding, without where it was read.
fn facts(holdings: &[Holding]) -> Vec<String> {
    let facts = |of: &Holding| {
        let times = (of.opened, of.granted, of.released);
        format!("{:?} {} {:?} {times:?} {:?} {:?}", of.guest, of.mac, of.device, of.state, of.certainty)
    };
    holdings.iter().map(facts).collect()
}

/// Whether what is claimed of a log without one of its lines is so by the whole log.
fn is_so(claim: &Holding, whole: &[Holding]) -> bool {
    if !matches!(claim.certainty, Certainty::Definitive | Certainty::Inferred) {
        return true;
    }
    let mut of_interface = whole.iter().filter(|of| of.guest == claim.guest && of.mac == claim.mac);
    of_interface.any(|of| {
        (of.device.kind == claim.device.kind || claim.device.kind == DeviceKind::Unknown)
            && of.state == claim.state
            && claim.granted.is_none_or(|granted| of.granted == Some(granted))
            && claim.released == of.released
    })
}

/// Spoils a log in each way. `is_ordered`: its lines have the kernel's numbers.
pub(super) fn check(shape: &str, path: &Path, text: &[u8], is_ordered: bool) {
    // A few logs stand for all.
    if !path.components().any(|part| part.as_os_str() == "libvirt-9.0") {
        return;
    }
    let all: Vec<&[u8]> = lines(text).collect();
    let join = |lines: &[&[u8]]| lines.iter().flat_map(|line| [*line, b"\n"].concat()).collect::<Vec<u8>>();
    let whole = told(text);
    let about = |what: &str| format!("{shape}, {what}: {}", path.display());

    let twice: Vec<&[u8]> = all.iter().flat_map(|line| [*line, *line]).collect();
    let again: Vec<&[u8]> = all.iter().chain(&all).copied().collect();
    let mut swapped = all.clone();
    swapped.chunks_exact_mut(2).for_each(|two| two.swap(0, 1));
    for (what, spoilt) in [("each line twice", twice), ("all lines twice", again), ("swapped", swapped)] {
        let spoilt = told(&join(&spoilt));
        // In what order lines of one time came, nothing else shows.
        if is_ordered || what != "swapped" {
            assert_eq!(facts(&spoilt.holdings), facts(&whole.holdings), "{}", about(what));
        }
    }

    // A log may end before its last line; what is lost before that has to show.
    for lost in (0..all.len().saturating_sub(1)).step_by(11) {
        let mut rest = all.clone();
        rest.remove(lost);
        let rest = told(&join(&rest));
        let is_said =
            rest.outcome.notes.iter().any(|note| matches!(note.about, About::Unnumbered | About::Nothing));
        let false_claim = rest.holdings.iter().find(|claim| !is_so(claim, &whole.holdings));
        assert!(is_said || false_claim.is_none(), "{}: {false_claim:?}", about("a line lost"));
    }
}
