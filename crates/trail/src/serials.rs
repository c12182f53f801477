use jiff::{SignedDuration, Timestamp};

/// The newest serial number of one host: the kernel counts its events from each boot.
#[derive(Debug, Default)]
pub(crate) struct Serials {
    newest: Option<(u32, Timestamp)>,
}

/// Entries of several sources, and of several processors, are out of order by less than this; a boot
/// takes longer.
const DISORDER: SignedDuration = SignedDuration::from_secs(5);

impl Serials {
    /// Takes the next entry's serial; whether the host must have started anew before it.
    pub(crate) fn restarted(&mut self, serial: u32, time: Timestamp) -> bool {
        let Some((newest, at)) = self.newest else {
            self.newest = Some((serial, time));
            return false;
        };
        let wrapped = newest > u32::MAX / 4 * 3 && serial < u32::MAX / 4;
        let later = time.duration_since(at) > DISORDER;
        if serial >= newest || wrapped || later {
            self.newest = Some((serial, time));
        }
        serial < newest && !wrapped && later
    }

    /// The host is told to have started anew.
    pub(crate) fn restart(&mut self, serial: Option<u32>, time: Timestamp) {
        self.newest = serial.map(|serial| (serial, time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restarts(entries: &[(u32, i64)]) -> Vec<bool> {
        let mut serials = Serials::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        entries.iter().map(|&(serial, seconds)| serials.restarted(serial, at(seconds))).collect()
    }

    #[test]
    fn a_serial_that_falls_while_time_passes_is_a_boot() {
        assert_eq!(restarts(&[(900, 0), (901, 1), (5, 60), (6, 61)]), [false, false, true, false]);
    }

    #[test]
    fn a_little_disorder_is_none() {
        assert_eq!(restarts(&[(900, 10), (899, 12), (898, 9), (901, 12), (900, 17)]), [false; 5]);
    }

    #[test]
    fn a_serial_that_wraps_is_none() {
        assert_eq!(restarts(&[(u32::MAX - 1, 0), (3, 60), (u32::MAX, 61), (4, 62)]), [false; 4]);
    }
}
