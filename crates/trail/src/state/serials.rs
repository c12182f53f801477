use jiff::{SignedDuration, Timestamp};

/// The newest serial number of one host: the kernel counts its events from each boot.
#[derive(Debug, Default)]
pub(crate) struct Serials {
    newest: Option<(u32, Timestamp)>,
}

/// Entries of several sources and processors are out of order by less than this; a boot takes
/// longer.
const SERIAL_REORDER_WINDOW: SignedDuration = SignedDuration::from_secs(5);

/// The highest serial number with which a complete log of a boot may begin: the kernel counts from
/// 1, and the first events are before auditd.
pub const MAX_FIRST_SERIAL: u32 = 64;

/// Whether a serial number that falls, while time passes, shows a boot of the host. If the last
/// boot had few events, the number may as well be another host's.
pub fn shows_boot(newest: u32, next: u32) -> bool {
    const FEW_EVENTS: u32 = 1024;
    next <= MAX_FIRST_SERIAL && newest > FEW_EVENTS
}

/// Whether the host booted between two serial numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// The host need not have booted.
    SameBoot,
    /// The host booted.
    NewBoot,
    /// The host booted and much of the log since is missing, or this is another host's number.
    Unknown,
}

impl Serials {
    /// Takes the serial number of the next entry.
    pub(crate) fn observe(&mut self, serial: u32, time: Timestamp) -> Continuity {
        let Some((newest, at)) = self.newest else {
            self.newest = Some((serial, time));
            return Continuity::SameBoot;
        };
        let wrapped = newest > u32::MAX / 4 * 3 && serial < u32::MAX / 4;
        let later = time.duration_since(at) > SERIAL_REORDER_WINDOW;
        if serial >= newest || wrapped || later {
            self.newest = Some((serial, time));
        }
        match serial < newest && !wrapped && later {
            false => Continuity::SameBoot,
            true if shows_boot(newest, serial) => Continuity::NewBoot,
            true => Continuity::Unknown,
        }
    }

    /// An entry shows that the host booted.
    pub(crate) fn reset(&mut self, serial: Option<u32>, time: Timestamp) {
        self.newest = serial.map(|serial| (serial, time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn continuity_of(entries: &[(u32, i64)]) -> Vec<Continuity> {
        let mut serials = Serials::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        entries.iter().map(|&(serial, seconds)| serials.observe(serial, at(seconds))).collect()
    }

    #[test]
    fn a_serial_that_falls_while_time_passes_is_a_boot() {
        let same = Continuity::SameBoot;
        assert_eq!(
            continuity_of(&[(9000, 0), (9001, 1), (5, 60), (6, 61)]),
            [same, same, Continuity::NewBoot, same]
        );
        assert_eq!(continuity_of(&[(60, 0), (50, 60)]), [same, Continuity::Unknown]);
        assert_eq!(continuity_of(&[(9000, 0), (700, 60), (701, 61)]), [same, Continuity::Unknown, same]);
    }

    #[test]
    fn a_little_disorder_is_none() {
        assert_eq!(
            continuity_of(&[(900, 10), (899, 12), (898, 9), (901, 12), (900, 17)]),
            [Continuity::SameBoot; 5]
        );
    }

    #[test]
    fn a_serial_that_wraps_is_none() {
        assert_eq!(
            continuity_of(&[(u32::MAX - 1, 0), (3, 60), (u32::MAX, 61), (4, 62)]),
            [Continuity::SameBoot; 4]
        );
    }
}
