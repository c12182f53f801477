//! A real libvirt's log held against what was really seen in QEMU meanwhile.

use jiff::Timestamp;
use taptrail_record::{DeviceKind, Line, MacAddr};
use taptrail_trail::{Certainty, Content, Entry, FindingKind, Report, State, Trail};

const LOG: &[u8] = include_bytes!("../data/libvirt-hotplug.log");
const TRUTH: &str = include_str!("../data/libvirt-hotplug.truth.json");

fn report() -> Report {
    let mut trail = Trail::new();
    for (number, line) in (1..).zip(LOG.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())) {
        let line = Line::parse(line).unwrap();
        let Some(record) = line.record().unwrap() else { continue };
        let seconds = i64::try_from(line.stamp.seconds).unwrap();
        let time = Timestamp::new(seconds, i32::from(line.stamp.millis) * 1_000_000).unwrap();
        let serial = Some(line.stamp.serial);
        trail.feed(&Entry {
            host: "lab".into(),
            time,
            serial,
            source: "audit.log".into(),
            line: number,
            writer: line.pid,
            content: Content::Record(record),
        });
    }
    trail.finish()
}

#[test]
fn what_is_inferred_is_what_was_seen() {
    #[derive(serde::Deserialize)]
    struct Seen {
        pid: u32,
        guest_mac: MacAddr,
        kind: DeviceKind,
        ifname: String,
        first: f64,
        last: f64,
    }
    let mut truth: Vec<Seen> = serde_json::from_str(TRUTH).unwrap();
    truth.sort_by(|a, b| a.first.total_cmp(&b.first));
    let report = report();
    let held: Vec<_> = report.holdings.iter().filter(|holding| holding.granted.is_some()).collect();
    assert_eq!(held.len(), truth.len());
    for (holding, seen) in held.into_iter().zip(truth) {
        assert_eq!((holding.mac, holding.device.kind), (seen.guest_mac, seen.kind), "{}", seen.ifname);
        assert_eq!(holding.pid, Some(seen.pid));
        assert_eq!((holding.state, holding.certainty), (State::Released, Certainty::Inferred));
        if seen.kind == DeviceKind::Macvtap {
            assert_eq!(holding.device.path, seen.ifname);
        }
        // A boot's record comes up to half a second after QEMU had the device, a stop's up to two
        // seconds after it had not.
        let near = |time: Option<Timestamp>, at: f64, early: f64, late: f64| {
            let off = time.unwrap().as_duration().as_secs_f64() - at;
            assert!((-early..late).contains(&off), "{}: {off} s off", seen.ifname);
        };
        near(holding.granted, seen.first, 0.05, 0.5);
        near(holding.released, seen.last, 0.05, 2.5);
    }
}

#[test]
fn a_vhost_net_that_was_never_there_is_not_held() {
    let report = report();
    let vhost = report.holdings.iter().filter(|holding| holding.device.kind == DeviceKind::VhostNet);
    assert!(vhost.clone().count() > 0);
    assert!(vhost.into_iter().all(|holding| holding.granted.is_none()));
    let kinds = [FindingKind::OpenFailed, FindingKind::ContradictoryOpen];
    assert!(report.findings.iter().all(|finding| kinds.contains(&finding.kind)), "{:?}", report.findings);
}
