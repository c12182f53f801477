//! Doubles, swaps and removes lines of a log: the trail must be the same, or the loss must be
//! noted.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use jiff::tz::TimeZone;
use taptrail_record::DeviceKind;
use taptrail_trail::{Certainty, Holding, Trail};

use super::lines;
use crate::{Input, NoteKind, ReadOptions, ReadOutcome, read};

/// The result of reading a log.
struct TrailRead {
    holdings: Vec<Holding>,
    outcome: ReadOutcome,
}

fn parsed(text: &[u8]) -> TrailRead {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    let mut trail = Trail::new();
    let now = "2026-12-01T00:00:00Z".parse().unwrap();
    let options = ReadOptions { zone: TimeZone::UTC, now, ..ReadOptions::default() };
    let outcome = read(vec![Input::File(file.path().to_owned())], options, &mut |entry| {
        trail.feed(entry);
        ControlFlow::Continue(())
    });
    let mut holdings: Vec<_> = trail.drain_ended().collect();
    holdings.extend(trail.finish().holdings);
    holdings.sort_by_key(|of| (of.guest.uuid, of.mac, of.opened, of.released, of.device.kind));
    TrailRead { holdings, outcome }
}

/// The facts of holdings, without their sources.
fn facts(holdings: &[Holding]) -> Vec<String> {
    let facts = |of: &Holding| {
        let times = (of.opened, of.granted, of.released);
        format!("{:?} {} {:?} {times:?} {:?} {:?}", of.guest, of.mac, of.device, of.state, of.certainty)
    };
    holdings.iter().map(facts).collect()
}

/// Whether a holding claimed from a log without one of its lines also follows from the complete
/// log.
fn is_supported(claim: &Holding, whole: &[Holding]) -> bool {
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

/// Damages a log in each way. `is_ordered`: its lines have serial numbers.
pub(super) fn check(shape: &str, path: &Path, text: &[u8], is_ordered: bool) {
    // A few logs represent all.
    if !path.components().any(|part| part.as_os_str() == "libvirt-9.0") {
        return;
    }
    let all: Vec<&[u8]> = lines(text).collect();
    let join = |lines: &[&[u8]]| lines.iter().flat_map(|line| [*line, b"\n"].concat()).collect::<Vec<u8>>();
    let whole = parsed(text);
    let about = |what: &str| format!("{shape}, {what}: {}", path.display());

    let twice: Vec<&[u8]> = all.iter().flat_map(|line| [*line, *line]).collect();
    let again: Vec<&[u8]> = all.iter().chain(&all).copied().collect();
    let mut swapped = all.clone();
    swapped.chunks_exact_mut(2).for_each(|two| two.swap(0, 1));
    for (what, damaged) in [("each line twice", twice), ("all lines twice", again), ("swapped", swapped)] {
        let damaged = parsed(&join(&damaged));
        // Without serial numbers, the order of lines with equal times is unknown.
        if is_ordered || what != "swapped" {
            assert_eq!(facts(&damaged.holdings), facts(&whole.holdings), "{}", about(what));
        }
    }

    // A log may end before its last line, so only earlier losses have to show.
    for lost in (0..all.len().saturating_sub(1)).step_by(11) {
        let mut rest = all.clone();
        rest.remove(lost);
        let rest = parsed(&join(&rest));
        let is_noted = rest
            .outcome
            .notes
            .iter()
            .any(|note| matches!(note.kind, NoteKind::Unnumbered | NoteKind::NoGuestLines));
        let false_claim = rest.holdings.iter().find(|claim| !is_supported(claim, &whole.holdings));
        assert!(is_noted || false_claim.is_none(), "{}: {false_claim:?}", about("a line lost"));
    }
}
