//! A trail that begins in the middle: the older part of the log was rotated away.

use crate::fixtures::{findings, tun};
use crate::log_builder::*;

#[test]
fn a_guest_that_runs_since_before_appears_by_what_it_gives_up() {
    let report = LogBuilder::new().after(10).ok(1, detach(mac(3))).report();
    assert_eq!(lines(&report), ["g1 unknown x? released detach inferred 10"]);
    assert_eq!(findings(&report), [""; 0]);
    let holding = &report.holdings[0];
    assert_eq!((holding.opened, holding.granted, holding.device.path.as_str()), (None, None, "?"));
}

#[test]
fn its_hot_plugs_are_reported_as_usual() {
    let log = LogBuilder::new().ok(1, open(mac(3), &tun())).ok(1, attach(mac(3)));
    let report = log.ok(1, detach(mac(4))).after(10).ok(1, op_stop("shutdown")).report();
    assert_eq!(
        lines(&report),
        ["g1 unknown x? released detach inferred 0", "g1 tun x? released stop inferred 10"]
    );
    assert_eq!(findings(&report), [""; 0]);
}

#[test]
fn a_change_of_its_bridge_shows_what_it_holds() {
    let log = LogBuilder::new().ok(1, detach(mac(3))).ok(1, attach(mac(3)));
    assert_eq!(lines(&log.report()), ["g1 unknown x? held - inferred -"]);
    let report = log.after(10).ok(1, op_stop("shutdown")).report();
    assert_eq!(lines(&report), ["g1 unknown x? released stop inferred 10"]);
    assert_eq!(findings(&report), ["reattached-without-open"]);
}

#[test]
fn its_stop_alone_gives_no_holding() {
    let report = LogBuilder::new().ok(1, op_stop("shutdown")).report();
    assert_eq!((lines(&report).len(), findings(&report).len()), (0, 0));
}

#[test]
fn of_a_guest_seen_from_its_start_nothing_is_from_before() {
    let report = LogBuilder::new().boot(1, &tun(), 40).ok(1, detach(mac(3))).report();
    assert_eq!(lines(&report), ["g1 tun x? held - inferred -"]);
    assert_eq!(findings(&report), ["detach-without-grant"]);
}
