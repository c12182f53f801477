//! What of one guest's account is open: what its supervisor has in hand, or another one must take up.

use jiff::Timestamp;
use rusqlite::Row;
use taptrail_record::{Device, MacAddr};

use crate::read::{StoredRecord, bad, stored, time};
use crate::{DeviceKey, GuestKey, InterfaceKey, Ledger, LedgerError, Step, StepKey};

/// An interface of which something may be left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveInterface {
    /// Its row.
    pub key: InterfaceKey,
    /// What names it.
    pub mac: MacAddr,
    /// The NIC's id in QEMU.
    pub nic: String,
    /// As it was asked for.
    pub spec: String,
    /// The host interface that was behind its devices last, once there were any.
    pub ifname: Option<String>,
}

/// A device without a close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveDevice {
    /// Its row.
    pub key: DeviceKey,
    /// The interface it was opened for.
    pub mac: MacAddr,
    /// What was opened.
    pub device: Device,
    /// Which queue of the interface, from 0.
    pub queue: u32,
    /// It was granted, or kept.
    pub granted: bool,
    /// Its number in QEMU, where that was seen.
    pub qemu_fd: Option<i32>,
    /// Where a watcher saw the interface behind it last: the inode of its network namespace, and its number there.
    pub place: Option<(u64, u32)>,
}

/// A step without an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveStep {
    /// Its row.
    pub key: StepKey,
    /// What was to be done.
    pub step: Step,
    /// For which interface, if for one.
    pub mac: Option<MacAddr>,
    /// What its intent says more: `unplug`, `revoke` …
    pub detail: String,
}

impl Ledger {
    /// Shows each record of a guest, in the order written; rows that hold no record are left out.
    pub fn each_record(&self, guest: GuestKey, mut see: impl FnMut(StoredRecord)) -> Result<(), LedgerError> {
        let sql = format!(
            "SELECT {} FROM record JOIN guest ON guest.id = record.guest WHERE record.guest = ?1 ORDER BY record.id",
            self.record_columns()
        );
        self.rows(&sql, guest, |row, _| {
            if let Ok(stored) = stored(row) {
                see(stored);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The interfaces of a guest of which something may be left, oldest first.
    pub fn live_interfaces(&self, guest: GuestKey) -> Result<Vec<LiveInterface>, LedgerError> {
        let sql = "SELECT id, mac, nic, spec,
                       (SELECT dev FROM device WHERE device.guest = interface.guest
                        AND device.mac = interface.mac AND dev IS NOT NULL ORDER BY device.id DESC LIMIT 1)
                   FROM interface WHERE guest = ?1 AND ended IS NULL ORDER BY id";
        self.rows(sql, guest, |row, id| {
            Ok(LiveInterface {
                key: InterfaceKey(id),
                mac: mac("interface", id, &text(row, 1)?)?,
                nic: text(row, 2)?,
                spec: text(row, 3)?,
                ifname: row.get(4).map_err(read)?,
            })
        })
    }

    /// The devices of a guest that have no close, in the order opened.
    pub fn live_devices(&self, guest: GuestKey) -> Result<Vec<LiveDevice>, LedgerError> {
        let place = if self.version < 4 { "NULL, NULL" } else { "netns, ifindex" };
        let sql = format!(
            "SELECT id, mac, path, rdev, dev, queue, granted IS NOT NULL, qemu_fd, {place}
             FROM device WHERE guest = ?1 AND closed IS NULL ORDER BY id"
        );
        self.rows(&sql, guest, |row, id| {
            let netns: Option<i64> = row.get(8).map_err(read)?;
            let ifindex: Option<u32> = row.get(9).map_err(read)?;
            let rdev: Option<String> = row.get(3).map_err(read)?;
            let number = |rdev: String| rdev.parse().map_err(|_| bad("device", id, &rdev, "device number"));
            let dev: Option<String> = row.get(4).map_err(read)?;
            Ok(LiveDevice {
                key: DeviceKey(id),
                mac: mac("device", id, &text(row, 1)?)?,
                device: Device::new(text(row, 2)?, rdev.map(number).transpose()?, dev.map(Into::into)),
                queue: row.get(5).map_err(read)?,
                granted: row.get(6).map_err(read)?,
                qemu_fd: row.get(7).map_err(read)?,
                place: netns.map(i64::cast_unsigned).zip(ifindex),
            })
        })
    }

    /// The steps of a guest that have no outcome, oldest first.
    pub fn live_steps(&self, guest: GuestKey) -> Result<Vec<LiveStep>, LedgerError> {
        let sql = "SELECT id, kind, mac, detail FROM step WHERE guest = ?1 AND done IS NULL ORDER BY id";
        self.rows(sql, guest, |row, id| {
            let kind = text(row, 1)?;
            let of: Option<String> = row.get(2).map_err(read)?;
            Ok(LiveStep {
                key: StepKey(id),
                step: Step::ALL
                    .into_iter()
                    .find(|step| step.as_str() == kind)
                    .ok_or_else(|| bad("step", id, &kind, "step"))?,
                mac: of.map(|of| mac("step", id, &of)).transpose()?,
                detail: text(row, 3)?,
            })
        })
    }

    /// The latest time at which the ledger heard of a guest, or a watcher saw it: all that is on record of it held
    /// then.
    pub fn last_heard(&self, guest: GuestKey) -> Result<Timestamp, LedgerError> {
        let sql = "SELECT max(begun, coalesce(seen, begun), coalesce((SELECT max(time) FROM record WHERE guest = guest.id), begun),
                       coalesce((SELECT max(coalesce(done, intended)) FROM step WHERE guest = guest.id), begun))
                   FROM guest WHERE id = ?1";
        let last = self.connection.query_row(sql, [guest.0], |row| row.get(0)).map_err(read)?;
        time("guest", guest.0, last)
    }

    /// Where the links of a guest are (the inode of its network namespace), and whether it was not to be let run; of a
    /// ledger that an older taptrail wrote, neither is known.
    pub fn place(&self, guest: GuestKey) -> Result<(Option<u64>, bool), LedgerError> {
        let sql = "SELECT netns, coalesce(paused, false) FROM guest WHERE id = ?1";
        let row = |row: &Row<'_>| Ok((row.get::<_, Option<i64>>(0)?, row.get(1)?));
        let (netns, paused) = self.connection.query_row(sql, [guest.0], row).map_err(read)?;
        Ok((netns.and_then(|netns| u64::try_from(netns).ok()), paused))
    }

    fn rows<T>(
        &self,
        sql: &str,
        guest: GuestKey,
        mut one: impl FnMut(&Row<'_>, i64) -> Result<T, LedgerError>,
    ) -> Result<Vec<T>, LedgerError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(read)?;
        let mut rows = statement.query([guest.0]).map_err(read)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(read)? {
            all.push(one(row, row.get(0).map_err(read)?)?);
        }
        Ok(all)
    }
}

fn read(source: rusqlite::Error) -> LedgerError {
    LedgerError::Read { source }
}

fn text(row: &Row<'_>, column: usize) -> Result<String, LedgerError> {
    row.get(column).map_err(read)
}

fn mac(table: &'static str, id: i64, text: &str) -> Result<MacAddr, LedgerError> {
    text.parse().map_err(|_| bad(table, id, text, "MAC address"))
}
