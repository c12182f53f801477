use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Style;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Table, cell, display, good, number, warning};
use crate::text::{NONE, escape_name};

/// A guest of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRow {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: Uuid,
    /// QEMU's process id, once QEMU runs.
    pub pid: Option<u32>,
    /// `starting`, `running`, `stopping` …
    pub state: String,
    /// When it started to run.
    #[serde(with = "crate::nics::millis")]
    pub since: Option<Timestamp>,
    /// How many interfaces it has.
    pub nics: u32,
    /// The process id of a supervisor that does not answer here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<u32>,
    /// That supervisor's run directory, where it is not this one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_dir: Option<String>,
}

/// A table of guests.
pub fn guest_table(guests: &[GuestRow], style: &Style) -> String {
    if guests.is_empty() {
        return "No guests\n".to_owned();
    }
    let clock = TimeFormat::new(style);
    let mut table = Table::new(style, &["GUEST", "UUID", "PID", "STATE", "SINCE", "NICS"]);
    for guest in guests {
        let running = guest.state == "running";
        let state = escape_name(&guest.state);
        table.row([
            cell(escape_name(&guest.name)),
            display(guest.uuid),
            guest.pid.map_or(number(NONE), number),
            if running { good(&state) } else { warning(&state) },
            cell(clock.optional(guest.since)),
            number(guest.nics),
        ]);
    }
    table.folded(style).text()
}
