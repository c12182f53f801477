use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Style;
use crate::style::Clock;
use crate::table::{Plain, cell, good, number, told, warning};
use crate::text::{NONE, shown};

/// A guest of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRow {
    /// What its owner calls it.
    pub name: String,
    /// What identifies it.
    pub uuid: Uuid,
    /// QEMU's process, once there is one.
    pub pid: Option<u32>,
    /// `starting`, `running`, `stopping` …
    pub state: String,
    /// When it came to run.
    #[serde(with = "crate::nics::millis")]
    pub since: Option<Timestamp>,
    /// How many interfaces it has.
    pub nics: u32,
    /// Its supervisor's process, of one that does not answer here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<u32>,
    /// The run directory of that supervisor, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_dir: Option<String>,
}

/// A table of guests.
pub fn guest_table(guests: &[GuestRow], style: &Style) -> String {
    if guests.is_empty() {
        return "No guests\n".to_owned();
    }
    let clock = Clock::new(style);
    let mut table = Plain::new(style, &["GUEST", "UUID", "PID", "STATE", "SINCE", "NICS"]);
    for guest in guests {
        let running = guest.state == "running";
        let state = shown(&guest.state);
        table.row([
            cell(shown(&guest.name)),
            told(guest.uuid),
            guest.pid.map_or(number(NONE), number),
            if running { good(&state) } else { warning(&state) },
            cell(clock.maybe(guest.since)),
            number(guest.nics),
        ]);
    }
    table.folded(style).text()
}
