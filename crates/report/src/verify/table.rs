//! A comparison for people: differences first, then a line for each guest and process.

use std::fmt::Write as _;

use compact_str::{CompactString, format_compact};
use taptrail_record::{MacAddr, socket_path};

use super::{HeldDeviceRow, Verified, VerifiedRow};
use crate::Style;
use crate::findings::location;
use crate::fold::fold;
use crate::sessions::device_name;
use crate::table::{Cell, Table, bad, cell, number, warning};
use crate::text::{NONE, cut, escape_name};
use crate::trail::{count, thousands};

/// The longest sentence shown, in characters: sentences contain names from outside.
const MAX_SENTENCE_CHARS: usize = 600;

/// Differences are shown with their verdict in front, which has this width.
const VERDICT_WIDTH: usize = "held-after-release  ".len();

/// The differences, then what is accounted for with a line for each guest, then other devices.
pub fn verify_table(verified: &Verified, style: &Style) -> String {
    let mut text = String::new();
    if verified.trail.is_none() {
        text.push_str("No trail to compare with: this is what processes hold\n");
    }
    let (differences, others): (Vec<_>, Vec<_>) = verified.devices.iter().partition(|row| row.text.is_some());
    for row in &differences {
        difference(row, style, &mut text);
    }
    let (accounted, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|row| row.verdict == "accounted");
    for (heading, rows) in [("Accounted for", accounted), ("Other devices", others)] {
        if rows.is_empty() {
            continue;
        }
        text.push_str(if text.is_empty() { "" } else { "\n" });
        // Without a trail, all devices are other devices.
        if verified.trail.is_some() {
            text.push_str(heading);
            text.push('\n');
        }
        text.push_str(&holders(&rows, heading == "Other devices", verified, style));
    }
    if verified.devices.is_empty() {
        text.push_str("No devices\n");
    }
    text.push('\n');
    for part in fold(&summary(verified), style.width.map_or(usize::MAX, usize::from)) {
        text.push_str(part);
        text.push('\n');
    }
    text
}

/// A verdict, its sentence, and the record that it contradicts.
fn difference(row: &VerifiedRow, style: &Style, text: &mut String) {
    let sentence = cut(row.text.as_deref().unwrap_or_default(), MAX_SENTENCE_CHARS);
    let width = style.width.map_or(usize::MAX, usize::from).saturating_sub(VERDICT_WIDTH).max(20);
    let mut lines: Vec<_> = fold(&sentence, width).into_iter().map(CompactString::from).collect();
    lines.extend(held_by(row));
    let at = row.holding.as_ref().and_then(|holding| holding.proof.last());
    lines.extend(at.map(|proof| format_compact!("{}", location(proof))));
    let (on, off) = if style.color { ("\x1b[38;5;1m", "\x1b[39m") } else { ("", "") };
    for (number, line) in lines.iter().enumerate() {
        let verdict = if number == 0 { row.verdict } else { "" };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{on}{verdict:VERDICT_WIDTH$}{off}{line}");
    }
}

/// The process and the device, which the sentence names only in part.
fn held_by(row: &VerifiedRow) -> Option<CompactString> {
    let process = row.process.as_ref()?;
    let exe = process.exe.as_deref().map_or(NONE.into(), escape_name);
    let device = row.device.as_ref().map(|device| device_words(device, row.queues)).unwrap_or_default();
    let uid = process.uid.map_or(String::new(), |uid| format!(" uid {uid}"));
    Some(format_compact!("{device}: pid {}{uid} {exe}", process.pid))
}

/// Rows of one verdict and one process are one line.
struct Line<'a> {
    row: &'a VerifiedRow,
    /// The devices, each with the MAC of its interface.
    devices: Vec<(Option<MacAddr>, CompactString)>,
}

impl Line<'_> {
    /// `52:54:00:00:00:01 tap vnet0 ×2 on br0 +vhost ×2, 52:54:00:00:00:02 macvtap0 (/dev/tap7)`
    fn words(&self) -> String {
        let mut text = String::new();
        for (number, (mac, device)) in self.devices.iter().enumerate() {
            let before = number.checked_sub(1).map(|before| self.devices[before].0);
            let same = mac.is_some() && before == Some(*mac);
            let separator = match (number, same) {
                (0, _) => "",
                (_, true) => " +",
                (_, false) => ", ",
            };
            text.push_str(separator);
            if let Some(mac) = mac.filter(|_| !same) {
                // Writing to a String can't fail.
                let _ = write!(text, "{mac} ");
            }
            text.push_str(device);
        }
        text
    }
}

fn holders(rows: &[&VerifiedRow], verdicts: bool, verified: &Verified, style: &Style) -> String {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for row in rows {
        let mac = row.holding.as_ref().map(|holding| holding.mac);
        let device = (mac, words(row));
        let same = |line: &&mut Line<'_>| {
            line.row.verdict == row.verdict && pid(line.row) == pid(row) && name(line.row) == name(row)
        };
        match lines.iter_mut().find(same) {
            Some(line) => line.devices.push(device),
            None => lines.push(Line { row, devices: vec![device] }),
        }
    }
    // A scan has a process's devices by their kind.
    lines.iter_mut().for_each(|line| line.devices.sort_by_key(|(mac, _)| (mac.is_none(), *mac)));
    let several = {
        let mut spaces = rows.iter().filter_map(|row| netns(row));
        let first = spaces.next();
        spaces.any(|space| Some(space) != first)
    };
    let mut header = vec!["GUEST", "PID", "UID", "DEVICES", "NETNS", "EXE"];
    header.retain(|column| several || *column != "NETNS");
    if verdicts {
        header.insert(0, "VERDICT");
    }
    let mut table = Table::new(style, &header);
    for line in &lines {
        let process = line.row.process.as_ref();
        let figure = |figure: Option<u64>| figure.map_or_else(|| number(NONE), number);
        let space = netns(line.row).map_or(NONE.into(), |inode| match verified.namespaces.get(&inode) {
            Some(name) => escape_name(name),
            None => format_compact!("{inode}"),
        });
        let cells = [
            verdicts.then(|| verdict(line.row)),
            Some(cell(guest_words(line.row))),
            Some(figure(pid(line.row).map(u64::from))),
            Some(figure(process.and_then(|process| process.uid).map(u64::from))),
            Some(cell(line.words())),
            several.then(|| cell(space)),
            Some(cell(process.and_then(|process| process.exe.as_deref()).map_or(NONE.into(), escape_name))),
        ];
        table.row(cells.into_iter().flatten());
    }
    let dropped = table.drop_columns(style, &header, &["UID", "EXE"], 0);
    header.retain(|column| !dropped.contains(column));
    table.fold_columns(style, &header, &[("DEVICES", 20), ("GUEST", 12), ("DEVICES", 8), ("GUEST", 8)]);
    table.text()
}

fn verdict(row: &VerifiedRow) -> Cell {
    match row.verdict {
        _ if row.text.is_some() => bad(row.verdict),
        "ignored" | "unknown" => warning(row.verdict),
        _ => cell(row.verdict),
    }
}

fn name(row: &VerifiedRow) -> Option<&str> {
    let guest = row.guest.as_ref().and_then(|guest| guest.name.as_deref());
    guest.or_else(|| row.holding.as_ref().map(|holding| holding.guest.name.as_str()))
}

/// The guest's name. A user's QEMU to which the bridge helper passed a tap can claim any: no record
/// names its guest.
fn guest_words(row: &VerifiedRow) -> CompactString {
    let name = name(row).map_or(NONE.into(), escape_name);
    let is_claimed = row.guest.as_ref().is_some_and(|guest| guest.known_by == "command-line");
    if row.verdict == "accounted" && row.holding.is_none() && is_claimed && name != NONE {
        format_compact!("claims {name}")
    } else {
        name
    }
}

fn pid(row: &VerifiedRow) -> Option<u32> {
    let holding = row.holding.as_ref().and_then(|holding| holding.pid);
    row.process.as_ref().map(|process| process.pid).or(holding)
}

fn netns(row: &VerifiedRow) -> Option<u64> {
    let process = row.process.as_ref().and_then(|process| process.netns);
    row.device.as_ref().and_then(|device| device.netns).or(process)
}

/// The device as it is held, or as the trail has it.
fn words(row: &VerifiedRow) -> CompactString {
    let held = row.device.as_ref().map(|device| device_words(device, row.queues));
    let device = held.or_else(|| row.holding.as_ref().map(|holding| device_name(&holding.device)));
    device.unwrap_or(NONE.into())
}

/// `tap vnet0 ×2 on br0`
fn device_words(device: &HeldDeviceRow, queues: u32) -> CompactString {
    let dev = device.dev.as_deref().map(escape_name);
    let mut words = match (device.kind, dev) {
        ("tun", Some(dev)) => format_compact!("tap {dev}"),
        ("tun", None) => "tap".into(),
        ("macvtap", Some(dev)) => format_compact!("{dev} ({})", escape_name(&device.path)),
        ("vhost-net", _) => "vhost".into(),
        ("vhost-vdpa", _) => format_compact!("vdpa {}", escape_name(&device.path)),
        (kind, _) => format_compact!("{kind} {}", escape_name(socket_path(&device.path))),
    };
    if queues > 1 {
        // Writing to a string can't fail.
        let _ = write!(words, " ×{queues}");
    }
    if let Some(on) = device.bridge.as_deref().or(device.lower.as_deref()) {
        let _ = write!(words, " on {}", escape_name(on));
    }
    words
}

fn summary(verified: &Verified) -> String {
    let number = |verdict: &str| verified.counts.get(verdict).copied().unwrap_or_default();
    let mut parts = vec![format!("{} accounted for", count(number("accounted"), "device"))];
    for verdict in [
        "unaccounted",
        "missing",
        "unknown",
        "held-after-release",
        "held-by-another",
        "hidden",
        "opening",
        "unaudited-kind",
        "ignored",
    ] {
        if number(verdict) > 0 {
            parts.push(format!("{} {verdict}", thousands(number(verdict))));
        }
    }
    if verified.in_motion > 0 {
        parts.push(format!("{} in motion", thousands(verified.in_motion)));
    }
    let processes = if verified.processes == 1 { "process" } else { "processes" };
    let read = match &verified.trail {
        Some(trail) => format!("{} read", count(trail.records, "record")),
        None => "no record read".to_owned(),
    };
    format!("{}; {} {processes} seen, {read}", parts.join(", "), thousands(verified.processes))
}
