//! The open parts of one guest's account: interfaces, devices and steps that its supervisor, or one
//! that adopts the guest, has to end.

use jiff::Timestamp;
use rusqlite::Row;
use taptrail_record::{Device, MacAddr};

use crate::read::{StoredRecord, invalid_row, stored, time};
use crate::{DeviceKey, GuestKey, InterfaceKey, Ledger, LedgerError, Step, StepKey};

/// An interface that has not ended: QEMU or the host may still have parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveInterface {
    /// The key of its row in the ledger.
    pub key: InterfaceKey,
    /// Its address, which names it.
    pub mac: MacAddr,
    /// The NIC's id in QEMU.
    pub nic: String,
    /// Its specification, as requested.
    pub spec: String,
    /// The host interface of its latest device, once it had any.
    pub ifname: Option<String>,
    /// The rules of its filter, as they were set.
    pub rules: Option<String>,
}

/// A device that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveDevice {
    /// The key of its row in the ledger.
    pub key: DeviceKey,
    /// The interface it was opened for.
    pub mac: MacAddr,
    /// The device that was opened.
    pub device: Device,
    /// The queue of the interface, from 0.
    pub queue: u32,
    /// Whether it was granted, or kept.
    pub granted: bool,
    /// The descriptor's number in QEMU, if it was seen there.
    pub qemu_fd: Option<i32>,
    /// Where a watcher last saw the interface behind it: the inode of its network namespace, and
    /// its ifindex; for a vhost-user socket of taptrail's own, that of QEMU's connection and its inode;
    /// until that is known the device number of the socket's file system, and the file's inode.
    pub netns_ifindex: Option<(u64, u32)>,
}

/// A step without an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveStep {
    /// The key of its row in the ledger.
    pub key: StepKey,
    /// The intended step.
    pub step: Step,
    /// The interface, if the step is for one.
    pub mac: Option<MacAddr>,
    /// Details of the intent: `unplug`, `revoke` …
    pub detail: String,
}

impl Ledger {
    /// Calls `visit` for each record of a guest, in the order written; invalid rows are skipped.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`] if the query fails.
    pub fn each_record(
        &self,
        guest: GuestKey,
        mut visit: impl FnMut(StoredRecord),
    ) -> Result<(), LedgerError> {
        let sql = format!(
            "SELECT {} FROM record JOIN guest ON guest.id = record.guest WHERE record.guest = ?1 ORDER BY record.id",
            self.record_columns()
        );
        self.rows(&sql, guest, |row, _| {
            if let Ok(stored) = stored(row) {
                visit(stored);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The interfaces of a guest that have not ended, oldest first.
    ///
    /// # Errors
    ///
    /// The query fails, or a row is invalid.
    pub fn live_interfaces(&self, guest: GuestKey) -> Result<Vec<LiveInterface>, LedgerError> {
        let rules = if self.version < 6 { "NULL" } else { "rules" };
        let sql = format!(
            "SELECT id, mac, nic, spec,
                 (SELECT dev FROM device WHERE device.guest = interface.guest
                  AND device.mac = interface.mac AND dev IS NOT NULL ORDER BY device.id DESC LIMIT 1), {rules}
             FROM interface WHERE guest = ?1 AND ended IS NULL ORDER BY id"
        );
        self.rows(&sql, guest, |row, id| {
            Ok(LiveInterface {
                key: InterfaceKey(id),
                mac: mac("interface", id, &text(row, 1)?)?,
                nic: text(row, 2)?,
                spec: text(row, 3)?,
                ifname: row.get(4).map_err(read)?,
                rules: row.get(5).map_err(read)?,
            })
        })
    }

    /// The devices of a guest that are not closed, in the order opened.
    ///
    /// # Errors
    ///
    /// The query fails, or a row is invalid.
    pub fn live_devices(&self, guest: GuestKey) -> Result<Vec<LiveDevice>, LedgerError> {
        let columns = if self.version < 4 { "NULL, NULL" } else { "netns, ifindex" };
        let sql = format!(
            "SELECT id, mac, path, rdev, dev, queue, granted IS NOT NULL, qemu_fd, {columns}
             FROM device WHERE guest = ?1 AND closed IS NULL ORDER BY id"
        );
        self.rows(&sql, guest, |row, id| {
            let netns: Option<i64> = row.get(8).map_err(read)?;
            let ifindex: Option<u32> = row.get(9).map_err(read)?;
            let rdev: Option<String> = row.get(3).map_err(read)?;
            let number =
                |rdev: String| rdev.parse().map_err(|_| invalid_row("device", id, &rdev, "device number"));
            let dev: Option<String> = row.get(4).map_err(read)?;
            Ok(LiveDevice {
                key: DeviceKey(id),
                mac: mac("device", id, &text(row, 1)?)?,
                device: Device::new(text(row, 2)?, rdev.map(number).transpose()?, dev.map(Into::into)),
                queue: row.get(5).map_err(read)?,
                granted: row.get(6).map_err(read)?,
                qemu_fd: row.get(7).map_err(read)?,
                netns_ifindex: netns.map(i64::cast_unsigned).zip(ifindex),
            })
        })
    }

    /// The steps of a guest that have no outcome, oldest first.
    ///
    /// # Errors
    ///
    /// The query fails, or a row is invalid.
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
                    .ok_or_else(|| invalid_row("step", id, &kind, "step"))?,
                mac: of.map(|of| mac("step", id, &of)).transpose()?,
                detail: text(row, 3)?,
            })
        })
    }

    /// The latest time of a guest's records and steps, or at which a watcher saw it: the ledger's
    /// state of it was true then.
    ///
    /// # Errors
    ///
    /// The query fails, or the guest's row is missing or invalid.
    pub fn last_observed(&self, guest: GuestKey) -> Result<Timestamp, LedgerError> {
        let sql = "SELECT max(begun, coalesce(seen, begun), coalesce((SELECT max(time) FROM record WHERE guest = guest.id), begun),
                       coalesce((SELECT max(coalesce(done, intended)) FROM step WHERE guest = guest.id), begun))
                   FROM guest WHERE id = ?1";
        let last = self.connection.query_row(sql, [guest.0], |row| row.get(0)).map_err(read)?;
        time("guest", guest.0, last)
    }

    /// The inode of the network namespace with a guest's links, and whether the user started it
    /// paused. Neither is known in a ledger that an older taptrail wrote.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Read`] if the query fails, or the guest's row is missing.
    pub fn netns_and_paused(&self, guest: GuestKey) -> Result<(Option<u64>, bool), LedgerError> {
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
    text.parse().map_err(|_| invalid_row(table, id, text, "MAC address"))
}
