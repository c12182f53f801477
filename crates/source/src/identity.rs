//! Whether a journal's lines that name one host are of one: they tell its machine id and its boots.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::sequence::At;

/// As a host starts anew its clock may be set back by less than this.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// How many boots of an input are remembered.
const BOOTS: usize = 16;

/// How many returns to a boot that was over show two hosts: a line may be in the wrong place.
const RETURNS: u32 = 2;

/// What was told of one host's identity.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    machine: Option<Machine>,
    /// The boots of each input, in the order of its lines.
    inputs: HashMap<u32, Boots>,
}

#[derive(Debug)]
struct Machine {
    id: u128,
    boot: Option<u128>,
    at: At,
}

#[derive(Debug, Default)]
struct Boots {
    /// Each with the time of its first line; the one that the last line was of is the last.
    known: VecDeque<(u128, Timestamp, At)>,
    returns: u32,
}

/// Why two lines can't be of one host, with the earlier one.
#[derive(Debug)]
pub(crate) enum Other {
    Machine(At),
    Boot(At),
}

impl Identity {
    /// Takes what the next line of an input tells, at its time.
    pub(crate) fn take(
        &mut self,
        machine: Option<u128>,
        boot: Option<u128>,
        time: Timestamp,
        at: &At,
    ) -> Option<Other> {
        if let Some(id) = machine {
            match &mut self.machine {
                // It may be given another id while it runs, as at its first boot.
                Some(known) if known.id != id && known.boot != boot => {
                    return Some(Other::Machine(known.at.clone()));
                }
                Some(known) => (known.id, known.boot) = (id, boot),
                None => self.machine = Some(Machine { id, boot, at: at.clone() }),
            }
        }
        let before = self.inputs.entry(at.input).or_default().take(boot?, time, at)?;
        Some(Other::Boot(before))
    }
}

impl Boots {
    /// A line of a boot that was over, though time has passed: the boots of two hosts alternate.
    fn take(&mut self, id: u128, time: Timestamp, at: &At) -> Option<At> {
        if self.known.back().is_some_and(|(newest, ..)| *newest == id) {
            return None;
        }
        let Some(known) = self.known.iter().position(|(known, ..)| *known == id) else {
            if self.known.len() == BOOTS {
                self.known.pop_front();
            }
            self.known.push_back((id, time, at.clone()));
            return None;
        };
        let (_, since, newest) = self.known.back()?;
        if time.duration_since(*since) <= SKEW {
            return None;
        }
        let newest = newest.clone();
        let (_, _, first) = self.known.remove(known)?;
        self.known.push_back((id, time, first));
        self.returns += 1;
        (self.returns >= RETURNS).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which line, from 0, another host shows: its machine id, boot and second.
    fn other(lines: &[(u128, u128, i64)]) -> Option<usize> {
        let mut identity = Identity::default();
        lines.iter().position(|&(machine, boot, second)| {
            let at = At { input: 0, is_raw: false, family: "a".into(), source: "a".into(), line: 1 };
            let time = Timestamp::from_second(second).unwrap();
            identity.take(Some(machine), Some(boot), time, &at).is_some()
        })
    }

    #[test]
    fn a_host_has_one_machine_id_and_its_boots_one_after_the_other() {
        assert_eq!(
            other(&[(1, 5, 0), (1, 5, 900), (1, 6, 880), (1, 5, 910), (1, 6, 2000), (1, 7, 2001)]),
            None
        );
        assert_eq!(other(&[(1, 5, 0), (2, 6, 900)]), Some(1));
        assert_eq!(other(&[(1, 5, 0), (2, 5, 900), (2, 6, 1000)]), None, "it was given an id");
        assert_eq!(other(&[(1, 5, 0), (1, 6, 100), (1, 5, 200)]), None, "a line in the wrong place");
        assert_eq!(other(&[(1, 5, 0), (1, 6, 100), (1, 5, 200), (1, 6, 300)]), Some(3));
        // Its clock is behind at boot, and set later.
        assert_eq!(other(&[(1, 5, 5000), (1, 5, 9000), (1, 6, 100), (1, 6, 110), (1, 6, 9500)]), None);
    }
}
