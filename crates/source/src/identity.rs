//! Whether a journal's lines that name one host are of one: they tell its machine id and its boots.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use crate::sequence::At;

/// As a host starts anew its clock may be set back by less than this.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// How many boots are remembered.
const REMEMBERED: usize = 16;

/// What was told of one host's identity.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    machine: Option<(u128, At)>,
    boots: VecDeque<Boot>,
}

#[derive(Debug)]
struct Boot {
    id: u128,
    since: Timestamp,
    until: Timestamp,
    at: At,
}

/// Why two lines can't be of one host, with the earlier one.
#[derive(Debug)]
pub(crate) enum Other {
    Machine(At),
    Boot(At),
}

impl Identity {
    /// Takes what the next line tells, at its time.
    pub(crate) fn take(
        &mut self,
        machine: Option<u128>,
        boot: Option<u128>,
        time: Timestamp,
        at: &At,
    ) -> Option<Other> {
        if let Some(machine) = machine {
            match &self.machine {
                Some((known, before)) if *known != machine => return Some(Other::Machine(before.clone())),
                Some(_) => {}
                None => self.machine = Some((machine, at.clone())),
            }
        }
        let id = boot?;
        match self.boots.iter_mut().find(|boot| boot.id == id) {
            Some(known) => (known.since, known.until) = (known.since.min(time), known.until.max(time)),
            None => {
                if self.boots.len() == REMEMBERED {
                    self.boots.pop_front();
                }
                self.boots.push_back(Boot { id, since: time, until: time, at: at.clone() });
            }
        }
        let this = self.boots.iter().find(|boot| boot.id == id)?;
        let both = |boot: &&Boot| {
            boot.id != id && boot.until.min(this.until).duration_since(boot.since.max(this.since)) > SKEW
        };
        self.boots.iter().find(both).map(|boot| Other::Boot(boot.at.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which line, from 0, another host shows: its machine id, boot and second.
    fn other(lines: &[(u128, u128, i64)]) -> Option<usize> {
        let mut identity = Identity::default();
        lines.iter().position(|&(machine, boot, second)| {
            let at = At { input: 0, source: "a".into(), line: 1 };
            let time = Timestamp::from_second(second).unwrap();
            identity.take(Some(machine), Some(boot), time, &at).is_some()
        })
    }

    #[test]
    fn a_host_has_one_machine_id_and_one_boot_at_a_time() {
        assert_eq!(
            other(&[(1, 5, 0), (1, 5, 900), (1, 6, 880), (1, 5, 910), (1, 6, 2000), (1, 7, 2001)]),
            None
        );
        assert_eq!(other(&[(1, 5, 0), (2, 6, 900)]), Some(1));
        assert_eq!(other(&[(1, 5, 0), (1, 6, 100), (1, 5, 200)]), None, "one line tells of no stretch");
        assert_eq!(other(&[(1, 5, 0), (1, 6, 100), (1, 5, 200), (1, 6, 300)]), Some(3));
        // Told in any order.
        assert_eq!(other(&[(1, 6, 1000), (1, 6, 2000), (1, 5, 0), (1, 5, 900)]), None);
        assert_eq!(other(&[(1, 6, 1000), (1, 6, 2000), (1, 5, 0), (1, 5, 1500)]), Some(3));
    }
}
