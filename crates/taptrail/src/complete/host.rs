//! What this host has at the moment: guests, MACs, links. All of it may be unreadable for the user,
//! or gone in the next moment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use taptrail_guest::spec::VdpaNode;
use taptrail_guest::{Dirs, read_mark};
use taptrail_kernel::link::{Link, Links};
use taptrail_ledger::{Guest, Ledger};
use taptrail_record::MacAddr;

/// The host, as a command line that is being written says where to look.
#[derive(Debug)]
pub(super) struct Host {
    dirs: Dirs,
    words: Vec<String>,
}

/// Words and what they mean, in order.
pub(super) type Found = BTreeMap<String, String>;

impl Host {
    /// The host of a command with these words.
    pub(super) fn of(words: &[OsString]) -> Self {
        let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let dirs = Dirs {
            state: directory(&words, "--state-dir", "TAPTRAIL_STATE_DIR", "/var/lib/taptrail"),
            run: directory(&words, "--run-dir", "TAPTRAIL_RUN_DIR", "/run/taptrail"),
        };
        Self { dirs, words }
    }

    fn ledger(&self) -> Option<Ledger> {
        Ledger::open_at_once(&self.dirs.state).ok().flatten()
    }

    fn live_guests(&self) -> Vec<Guest> {
        self.ledger().and_then(|ledger| ledger.live_guests().ok()).unwrap_or_default()
    }

    /// taptrail's own guests.
    pub(super) fn own_guests(&self) -> Found {
        let mut found: Found = taptrail_guest::guests(&self.dirs.run)
            .unwrap_or_default()
            .into_iter()
            .filter(|name| taptrail_guest::api_socket(&self.dirs.run, name).exists())
            .map(|name| (name, "guest".to_owned()))
            .collect();
        found.extend(self.live_guests().iter().filter(|guest| !guest.watched).map(named));
        found
    }

    /// All guests that run, those of other managers too, as far as a watcher knows them.
    pub(super) fn guests(&self) -> Found {
        let mut found = self.own_guests();
        found.extend(self.live_guests().iter().map(named));
        found
    }

    /// Guests that run, and those that did last; with `uuids` by their UUIDs, too.
    pub(super) fn guests_on_record(&self, uuids: bool) -> Found {
        let recent = self.ledger().and_then(|ledger| ledger.recent_guests().ok()).unwrap_or_default();
        let mut found: Found = recent.iter().map(named).collect();
        if uuids {
            found.extend(recent.iter().map(|guest| (guest.id.uuid.to_string(), guest.id.name.to_string())));
        }
        found.extend(self.guests());
        found
    }

    /// The MACs of interfaces that guests have now: of one guest, if the words name it.
    pub(super) fn macs(&self) -> Found {
        let mut found = Found::new();
        if let Some(ledger) = self.ledger() {
            let guests = ledger.live_guests().unwrap_or_default();
            let is_named = |guest: &&Guest| self.words.contains(&guest.id.name.to_string());
            let named: Vec<&Guest> = guests.iter().filter(is_named).collect();
            for guest in if named.is_empty() { guests.iter().collect() } else { named } {
                for interface in ledger.live_interfaces(guest.key).unwrap_or_default() {
                    let of = interface.ifname.map(|ifname| format!(", {ifname}")).unwrap_or_default();
                    found.insert(interface.mac.to_string(), format!("{}{of}", guest.id.name));
                }
            }
        }
        // Users without the ledger see the links.
        if found.is_empty() {
            let marked = self.links().into_iter().filter_map(|link| {
                let (_, mac): (_, MacAddr) = read_mark(link.alias.as_deref()?)?;
                Some((mac.to_string(), link.name))
            });
            found.extend(marked);
        }
        found
    }

    /// As [`macs`](Self::macs), and those that guests had last.
    pub(super) fn macs_on_record(&self) -> Found {
        let recent = self.ledger().and_then(|ledger| ledger.recent_macs().ok()).unwrap_or_default();
        let mut found: Found = recent.into_iter().map(|mac| (mac.to_string(), String::new())).collect();
        found.extend(self.macs());
        found
    }

    /// The devices and host interfaces that a guest may hold.
    pub(super) fn devices(&self) -> Found {
        let mut found = Found::new();
        for link in self.links() {
            if let Some(kind @ ("macvtap" | "ipvtap")) = link.kind.as_deref() {
                found.insert(format!("/dev/tap{}", link.index), link.name.clone());
                found.insert(link.name, kind.to_owned());
            } else if link.tun.is_some_and(|tun| tun.tap) {
                found.insert(link.name, "tap".to_owned());
            }
        }
        found
    }

    /// The nodes of vDPA devices.
    pub(super) fn vdpa_nodes(&self) -> Found {
        let nodes = std::fs::read_dir("/dev").into_iter().flatten();
        let path = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.ok()?.path().into_os_string().into_string().ok()
        };
        let vdpa = nodes.filter_map(path).filter(|path| VdpaNode::new(path).is_some());
        vdpa.map(|path| (path, "vDPA device".to_owned())).collect()
    }

    /// The links of this network namespace.
    pub(super) fn links(&self) -> Vec<Link> {
        Links::open().and_then(|mut links| links.all()).unwrap_or_default()
    }

    /// The processes of guests.
    pub(super) fn pids(&self) -> Found {
        let guests = self.live_guests();
        let pid = |guest: &Guest| Some((guest.qemu?.pid.to_string(), guest.id.name.to_string()));
        guests.iter().filter_map(pid).collect()
    }
}

fn named(guest: &Guest) -> (String, String) {
    let state = match &guest.ended {
        None if guest.watched => "watched".to_owned(),
        None => "guest".to_owned(),
        Some((_, reason)) => format!("ended: {reason}"),
    };
    (guest.id.name.to_string(), state)
}

/// The value of an option that stands before the cursor, of its variable, or its default.
fn directory(words: &[String], option: &str, variable: &str, default: &str) -> PathBuf {
    let before = &words[..words.len().saturating_sub(1)];
    let given = before.iter().enumerate().rev().find_map(|(at, word)| match word.strip_prefix(option) {
        Some("") => before.get(at + 1).map(PathBuf::from),
        Some(value) => value.strip_prefix('=').map(PathBuf::from),
        None => None,
    });
    let variable = || std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    given.or_else(variable).unwrap_or_else(|| PathBuf::from(default))
}
