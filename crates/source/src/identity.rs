//! Detects two hosts with one name, by the machine ids and boot ids in a journal.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::sequence::LineLocation;

/// At a boot, a host's clock may be set back by less than this.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(1);

/// Number of boots kept per input.
const MAX_BOOTS: usize = 16;

/// Number of returns to an earlier boot that show two hosts. One may be a line in the wrong place.
const MIN_RETURNS: u32 = 2;

/// The ids of one host.
#[derive(Debug, Default)]
pub(crate) struct HostIdentity {
    machine: Option<Machine>,
    /// The boots in each input, in the order of its lines.
    inputs: HashMap<u32, Boots>,
}

#[derive(Debug)]
struct Machine {
    id: u128,
    boot: Option<u128>,
    at: LineLocation,
}

#[derive(Debug, Default)]
struct Boots {
    /// Each with the time of its first line. The boot of the last line is the last.
    known: VecDeque<(u128, Timestamp, LineLocation)>,
    returns: u32,
}

/// Why two lines can't be from one host, with the earlier line.
#[derive(Debug)]
pub(crate) enum IdentityConflict {
    Machine(LineLocation),
    Boot(LineLocation),
}

impl HostIdentity {
    /// Takes the ids in the next line of an input.
    pub(crate) fn take(
        &mut self,
        machine: Option<u128>,
        boot: Option<u128>,
        time: Timestamp,
        at: &LineLocation,
    ) -> Option<IdentityConflict> {
        if let Some(id) = machine {
            match &mut self.machine {
                // The id may change while the host runs, as at its first boot.
                Some(known) if known.id != id && known.boot != boot => {
                    return Some(IdentityConflict::Machine(known.at.clone()));
                }
                Some(known) => (known.id, known.boot) = (id, boot),
                None => self.machine = Some(Machine { id, boot, at: at.clone() }),
            }
        }
        let before = self.inputs.entry(at.input).or_default().take(boot?, time, at)?;
        Some(IdentityConflict::Boot(before))
    }
}

impl Boots {
    /// Takes a line's boot id. Returns the latest other boot's first line if boots alternate as
    /// time passes: they are of two hosts.
    fn take(&mut self, id: u128, time: Timestamp, at: &LineLocation) -> Option<LineLocation> {
        if self.known.back().is_some_and(|(newest, ..)| *newest == id) {
            return None;
        }
        let Some(known) = self.known.iter().position(|(known, ..)| *known == id) else {
            if self.known.len() == MAX_BOOTS {
                self.known.pop_front();
            }
            self.known.push_back((id, time, at.clone()));
            return None;
        };
        let (_, since, newest) = self.known.back()?;
        if time.duration_since(*since) <= CLOCK_SKEW {
            return None;
        }
        let newest = newest.clone();
        let (_, _, first) = self.known.remove(known)?;
        self.known.push_back((id, time, first));
        self.returns += 1;
        (self.returns >= MIN_RETURNS).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line, from 0, at which another host is detected. Each line has machine id, boot id and
    /// second.
    fn other(lines: &[(u128, u128, i64)]) -> Option<usize> {
        let mut identity = HostIdentity::default();
        lines.iter().position(|&(machine, boot, second)| {
            let at =
                LineLocation { input: 0, is_raw: false, family: "a".into(), source: "a".into(), line: 1 };
            let time = Timestamp::from_second(second).unwrap();
            identity.take(Some(machine), Some(boot), time, &at).is_some()
        })
    }

    // Shows 10.42.
    #[test]
    fn a_host_has_one_machine_id_and_its_boots_one_after_the_other() {
        assert_eq!(
            other(&[(1, 5, 0), (1, 5, 900), (1, 6, 880), (1, 5, 910), (1, 6, 2000), (1, 7, 2001)]),
            None
        );
        assert_eq!(other(&[(1, 5, 0), (2, 6, 900)]), Some(1));
        assert_eq!(other(&[(1, 5, 0), (2, 5, 900), (2, 6, 1000)]), None, "the id was set while it ran");
        assert_eq!(other(&[(1, 5, 0), (1, 6, 100), (1, 5, 200)]), None, "a line in the wrong place");
        assert_eq!(other(&[(1, 5, 0), (1, 6, 100), (1, 5, 200), (1, 6, 300)]), Some(3));
        // The clock is behind at boot, and set later.
        assert_eq!(other(&[(1, 5, 5000), (1, 5, 9000), (1, 6, 100), (1, 6, 110), (1, 6, 9500)]), None);
    }
}
