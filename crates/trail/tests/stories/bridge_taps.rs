//! Taps that the bridge helper passed, by its records and a watcher's.

use crate::log_builder::*;
use taptrail_record::{BridgeClose, BridgeOpen, Device, Outcome, Rdev, Requester};
use taptrail_trail::{BridgeTap, Content, Gap, GapReason, Report};

const NETNS: u64 = 4_026_531_840;

fn open(tap: &str, parent: u32) -> BridgeOpen {
    BridgeOpen {
        bridge: "br0".into(),
        device: Some(Device::new("/dev/net/tun", Some(Rdev::TUN), Some(tap.into()))),
        refusal: None,
        errno: None,
        requester: Requester { uid: 1000, auid: 1000, pid: parent },
        start_time: Some(u64::from(parent) * 100),
        claimed_name: Some("web1".into()),
        claimed_uuid: None,
        netns: Some(NETNS),
        ifindex: None,
        outcome: Outcome::Success,
    }
}

fn by_helper(tap: &str, parent: u32) -> Content {
    Content::BridgeOpen(open(tap, parent))
}

fn by_watcher(tap: &str, parent: u32) -> Content {
    Content::BridgeOpen(BridgeOpen { ifindex: Some(7), ..open(tap, parent) })
}

fn close(tap: &str, parent: u32) -> Content {
    let BridgeOpen { bridge, requester, start_time, .. } = open(tap, parent);
    Content::BridgeClose(BridgeClose { bridge, dev: tap.into(), requester, start_time, last_seen: None })
}

/// `tap0 4711 released close x2`: the tap, its caller, its state, what ended it, its proofs.
fn taps(report: &Report) -> Vec<String> {
    let line = |tap: &BridgeTap| {
        let by = tap.ended_by.map_or("-", |by| by.as_str());
        let dev = tap.device.dev.as_deref().unwrap_or("?");
        format!("{dev} {} {} {by} x{}", tap.requester.pid, tap.state.as_str(), tap.proof.len())
    };
    report.bridge_taps.iter().map(line).collect()
}

// Shows 10.56.
#[test]
fn a_tap_is_held_until_a_watchers_close() {
    let log = || LogBuilder::new().entry(by_helper("tap0", 7));
    // Nobody was to record the close.
    assert_eq!(taps(&log().report()), ["tap0 7 unknown - x1"]);
    assert_eq!(taps(&log().entry(by_watcher("tap0", 7)).report()), ["tap0 7 held - x2"]);
    let report = log().entry(by_watcher("tap0", 7)).after(60).entry(close("tap0", 7)).report();
    assert_eq!(taps(&report), ["tap0 7 released close x3"]);
    let tap = &report.bridge_taps[0];
    assert!(tap.released.unwrap().duration_since(tap.passed).as_secs() >= 60);
    assert_eq!((tap.last_seen, tap.claimed_name.as_deref()), (None, Some("web1")));
    // From the kernel's audit alone, where `watch --emit-audit` writes the close.
    assert_eq!(taps(&log().entry(close("tap0", 7)).report()), ["tap0 7 released close x2"]);
    // The ledger alone has the watcher's.
    let ledger = LogBuilder::new().entry(by_watcher("tap0", 7)).entry(close("tap0", 7));
    assert_eq!(taps(&ledger.report()), ["tap0 7 released close x2"]);
    assert!(report.holdings.is_empty());
}

// Shows 10.56.
#[test]
fn a_close_ends_its_own_tap_only() {
    let log = || LogBuilder::new().entry(by_helper("tap0", 7)).entry(by_helper("tap1", 7));
    for other in [close("tap2", 7), close("tap1", 8)] {
        assert_eq!(taps(&log().entry(other).report()), ["tap0 7 unknown - x1", "tap1 7 unknown - x1"]);
    }
    assert_eq!(
        taps(&log().entry(close("tap1", 7)).report()),
        ["tap0 7 unknown - x1", "tap1 7 released close x2"]
    );
}

// Shows 10.56.
#[test]
fn a_name_that_is_given_again_shows_the_end() {
    let report = LogBuilder::new().entry(by_helper("tap0", 7)).after(9).entry(by_helper("tap0", 8)).report();
    assert_eq!(taps(&report), ["tap0 7 released name-reused x2", "tap0 8 unknown - x1"]);
    let first = &report.bridge_taps[0];
    assert_eq!((first.last_seen, first.released), (Some(first.passed), Some(report.bridge_taps[1].passed)));
    // libvirt's session daemon asks for all of its guests.
    let again = LogBuilder::new().entry(by_helper("tap0", 7)).entry(by_watcher("tap0", 7));
    let again = again.entry(by_helper("tap0", 7)).entry(by_watcher("tap0", 7)).report();
    assert_eq!(taps(&again), ["tap0 7 released name-reused x3", "tap0 7 held - x2"]);
    // Another network namespace may have the name, too; of one that is not known nothing follows.
    for netns in [Some(NETNS + 1), None] {
        let other = Content::BridgeOpen(BridgeOpen { netns, ..open("tap0", 8) });
        let report = LogBuilder::new().entry(by_helper("tap0", 7)).entry(other).report();
        assert_eq!(taps(&report), ["tap0 7 unknown - x1", "tap0 8 unknown - x1"]);
    }
}

// Shows 10.56.
#[test]
fn a_tap_that_could_not_be_passed_was_never_granted() {
    let failed = |refusal: &str, device| {
        let refusal = Some(refusal.into());
        Content::BridgeOpen(BridgeOpen { outcome: Outcome::Failed, refusal, device, ..open("tap0", 7) })
    };
    let log = || LogBuilder::new().entry(by_helper("tap0", 7));
    let report = log().entry(failed("hand-over", open("tap0", 7).device)).report();
    assert_eq!(taps(&report), ["tap0 7 never-granted - x2"]);
    // A refusal of another bridge says nothing about it, and is no tap.
    assert_eq!(taps(&log().entry(failed("acl", None)).report()), ["tap0 7 unknown - x1"]);
    assert_eq!(taps(&LogBuilder::new().entry(failed("acl", None)).report()), [""; 0]);
}

// Shows 10.56.
#[test]
fn boots_and_gaps_are_not_guessed_over() {
    let held = || LogBuilder::new().entry(by_watcher("tap0", 7)).after(9);
    assert_eq!(taps(&held().entry(Content::Boot).report()), ["tap0 7 released reboot x2"]);
    let gap = Gap { since: None, serials: None, why: GapReason::Backlog };
    let report = held().entry(Content::Gap(gap)).report();
    assert_eq!(taps(&report), ["tap0 7 held - x1"]);
    assert!(report.bridge_taps[0].uncertain_since.is_some());
    // Other hosts have taps of this name.
    let report = held().on("h2").entry(close("tap0", 7)).report();
    assert_eq!(taps(&report), ["tap0 7 held - x1"]);
}
