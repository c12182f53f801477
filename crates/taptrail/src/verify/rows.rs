//! Converts the results for the report.

use std::collections::{BTreeMap, BTreeSet};

use taptrail_kernel::netns::NetNs;
use taptrail_report::{
    HeldDeviceRow, ManagerRow, ProcessGuest, ProcessRow, TrailSummary, UnseenReport, UnseenRow, Verified,
    VerifiedRow,
};
use taptrail_witness::scan::{Holder, Identity, Manager, Scan, ScannedDevice, UnseenProcess};
use taptrail_witness::verify::{ExpectedState, MatchMethod, Row, Verdict};

use crate::cli::Verify;

/// The whole report.
pub(super) fn verified(
    rows: &[&Row<'_>],
    in_motion: usize,
    scan: &Scan,
    arguments: &Verify,
    expected: &ExpectedState,
) -> Verified {
    let trail = TrailSummary {
        begins: expected.begins,
        records: expected.records,
        other_hosts: expected.others.iter().map(ToString::to_string).collect(),
    };
    report(rows.iter().map(|row| shown(row)).collect(), in_motion, scan, arguments, Some(trail))
}

/// What processes hold, with no trail to compare it with: whether any of it is accounted for is not
/// known.
pub(super) fn without_trail(rows: &[&Row<'_>], scan: &Scan, arguments: &Verify) -> Verified {
    let unknown = |row: &&Row<'_>| {
        let verdict = if row.verdict.is_difference() { Verdict::Unknown } else { row.verdict };
        VerifiedRow { verdict: verdict.as_str(), text: None, ..shown(row) }
    };
    report(rows.iter().map(unknown).collect(), 0, scan, arguments, None)
}

fn report(
    devices: Vec<VerifiedRow>,
    in_motion: usize,
    scan: &Scan,
    arguments: &Verify,
    trail: Option<TrailSummary>,
) -> Verified {
    let mut counts: BTreeMap<&'static str, u64> =
        Verdict::ALL.iter().map(|verdict| (verdict.as_str(), 0)).collect();
    for row in &devices {
        *counts.entry(row.verdict).or_default() += 1;
    }
    Verified {
        namespaces: namespaces(&devices),
        devices,
        counts,
        in_motion: in_motion as u64,
        processes: scan.processes as u64,
        unseen: unseen(scan, arguments),
        trail,
    }
}

/// The names of the namespaces in some rows. A namespace may have ended, and its inode be another's
/// by now; names are for people, and match nothing.
fn namespaces(rows: &[VerifiedRow]) -> BTreeMap<u64, String> {
    let of_row = |row: &VerifiedRow| {
        let device = row.device.as_ref().and_then(|device| device.netns);
        [device, row.process.as_ref().and_then(|process| process.netns)]
    };
    let used: BTreeSet<u64> = rows.iter().flat_map(of_row).flatten().collect();
    let own = NetNs::own().ok().map(|own| (own.inode(), "own".to_owned()));
    let named = NetNs::named().map(|(name, inode)| (inode, name));
    named.chain(own).filter(|(inode, _)| used.contains(inode)).collect()
}

/// What could not be seen of the selected processes.
pub(super) fn unseen(scan: &Scan, arguments: &Verify) -> UnseenReport {
    let Verify { pid: pids, ignore_pid: known, .. } = arguments;
    let selected =
        |of: &&UnseenProcess| (pids.is_empty() || pids.contains(&of.pid)) && !known.contains(&of.pid);
    let row = |of: &UnseenProcess| UnseenRow { pid: of.pid, name: of.name.clone(), why: of.why.as_str() };
    UnseenReport {
        processes: scan.unseen.processes.iter().filter(selected).map(row).collect(),
        crowded: scan.unseen.crowded.iter().filter(selected).map(row).collect(),
        places: scan.unseen.places as u64,
        outside: scan.unseen.outside,
        copies: scan.unseen.copies as u64,
    }
}

fn shown(row: &Row<'_>) -> VerifiedRow {
    VerifiedRow {
        verdict: row.verdict.as_str(),
        text: row.text.clone(),
        process: row.holder.map(process),
        guest: row.holder.and_then(|holder| holder.guest.as_ref()).map(guest),
        device: row.held.map(|held| device(held, row)),
        queues: row.queues,
        shared_with: row.shared.clone(),
        matched_by: row.matched.map(MatchMethod::as_str),
        holding: row.holding.cloned(),
    }
}

fn process(holder: &Holder) -> ProcessRow {
    ProcessRow {
        pid: holder.process.pid,
        start_time: holder.process.start_time,
        started: holder.started,
        parent: holder.parent,
        uid: holder.uid,
        exe: holder.exe.as_ref().map(|exe| exe.display().to_string()),
        program: holder.program.as_str(),
        netns: holder.netns,
        manager: holder.manager.as_ref().map(manager),
    }
}

fn manager(manager: &Manager) -> ManagerRow {
    ManagerRow {
        kind: manager.kind.as_str(),
        pid: manager.pid,
        path: manager.path.as_ref().map(|path| path.display().to_string()),
        uid: manager.uid,
        known_by: manager.by.as_str(),
    }
}

fn guest(guest: &Identity) -> ProcessGuest {
    let Identity { name, uuid, by, .. } = guest;
    ProcessGuest { name: name.as_ref().map(ToString::to_string), uuid: *uuid, known_by: by.as_str() }
}

fn device(held: &ScannedDevice, row: &Row<'_>) -> HeldDeviceRow {
    let behind = held.behind.as_ref();
    HeldDeviceRow {
        kind: held.kind.as_str(),
        path: held.path.display().to_string(),
        rdev: held.rdev,
        dev: held.ifname.as_ref().map(ToString::to_string),
        netns: held.netns,
        mac: behind.and_then(|behind| behind.mac),
        bridge: behind.and_then(|behind| behind.master.clone()),
        lower: behind.and_then(|behind| behind.lower.clone()),
        fds: row.descriptors.iter().map(|descriptor| descriptor.fd).collect(),
    }
}
