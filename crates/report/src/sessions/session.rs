//! Interface sessions: what one interface of a guest got in one plug, with all its devices.
//!
//! A trail has a holding for each device. People ask for interfaces: a tap with its vhost-net is one
//! plug, and one row.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{GuestId, MacAddr};
use taptrail_trail::{Certainty, EndedBy, Holding, Input, Proof, State};
use uuid::Uuid;

use crate::span::{Holds, QueryRange, holds_within_coverage};

/// A manager opens an interface's devices one after another. Opens that are further apart are of
/// different attempts.
const MAX_OPEN_DISTANCE: SignedDuration = SignedDuration::from_secs(1);

/// The devices that were opened for one interface in one start or hot-plug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session<'a> {
    /// Its devices, oldest open first.
    pub holdings: Vec<&'a Holding>,
}

impl<'a> Session<'a> {
    /// Groups holdings, which are sorted by time. The sessions are in the order in which they began.
    pub fn group(holdings: &'a [Holding]) -> Vec<Self> {
        let mut sessions: Vec<Self> = Vec::new();
        let mut last: HashMap<(&str, Uuid, MacAddr), Vec<usize>> = HashMap::new();
        for holding in holdings {
            let key = (&*holding.host, holding.guest.uuid, holding.mac);
            let candidates = last.entry(key).or_default();
            let joined = candidates.iter().rev().find(|at| sessions[**at].takes(holding));
            if let Some(at) = joined {
                sessions[*at].holdings.push(holding);
                continue;
            }
            // Only sessions that were opened just before, or that still last, can take more.
            candidates.retain(|at| sessions[*at].may_take_from(begin(holding)));
            candidates.push(sessions.len());
            sessions.push(Self { holdings: vec![holding] });
        }
        sessions
    }

    /// Whether a holding is of this session: its devices were opened and granted together.
    fn takes(&self, holding: &Holding) -> bool {
        let opened = |of: &Holding| of.opened;
        let together = self.holdings.iter().filter_map(|of| opened(of)).max();
        let opened_together = match (together, holding.opened) {
            (Some(last), Some(opened)) => opened.duration_since(last).abs() <= MAX_OPEN_DISTANCE,
            (None, None) => true,
            _ => false,
        };
        match (self.granted(), holding.granted) {
            (Some(granted), Some(other)) => {
                granted == other
                    || (opened_together && other.duration_since(granted).abs() <= MAX_OPEN_DISTANCE)
            }
            // What was opened before the grant, and not granted, is of this attempt.
            (Some(granted), None) => {
                let open = holding.opened;
                open.is_some_and(|open| self.opened().is_some_and(|first| first <= open) && open <= granted)
            }
            (None, Some(other)) => {
                opened_together && self.holdings.iter().all(|of| of.opened.is_none_or(|open| open <= other))
            }
            (None, None) => opened_together,
        }
    }

    fn may_take_from(&self, time: Timestamp) -> bool {
        self.holdings.iter().any(|of| {
            let last = of.granted.or(of.opened).unwrap_or(Timestamp::MIN);
            time.duration_since(last) <= MAX_OPEN_DISTANCE
        })
    }

    /// Its first device. A session has at least one.
    pub fn first(&self) -> &'a Holding {
        self.holdings[0]
    }

    /// The host.
    pub fn host(&self) -> &'a str {
        &self.first().host
    }

    /// The guest.
    pub fn guest(&self) -> &'a GuestId {
        &self.first().guest
    }

    /// The interface's address.
    pub fn mac(&self) -> MacAddr {
        self.first().mac
    }

    /// What became of it: as of the device that QEMU has, or had.
    pub fn state(&self) -> State {
        self.holdings.iter().map(|of| of.state).max_by_key(|state| rank(*state)).unwrap_or(State::Unknown)
    }

    /// The devices with the session's own state: what QEMU has or had, if it got anything.
    pub fn main(&self) -> impl Iterator<Item = &'a Holding> {
        let state = self.state();
        self.holdings.iter().copied().filter(move |of| of.state == state)
    }

    /// When its first device was opened, or the open failed; none if that was before the trail.
    pub fn opened(&self) -> Option<Timestamp> {
        self.holdings.iter().filter_map(|of| of.opened).min()
    }

    /// When QEMU got it; none if it didn't, or if that was before the trail.
    pub fn granted(&self) -> Option<Timestamp> {
        self.holdings.iter().filter_map(|of| of.granted).min()
    }

    /// When its last device was released, if all were.
    pub fn released(&self) -> Option<Timestamp> {
        if self.state() != State::Released {
            return None;
        }
        self.main().map(|of| of.released).try_fold(Timestamp::MIN, |last, at| Some(last.max(at?)))
    }

    /// From the open of its first device to the end of its last; an unknown end is
    /// [`Timestamp::MIN`] or [`Timestamp::MAX`].
    pub(crate) fn range(&self) -> (Timestamp, Timestamp) {
        let ranges = || self.holdings.iter().map(|of| QueryRange::of(of));
        let from = ranges().map(|of| of.from).min().unwrap_or(Timestamp::MIN);
        (from, ranges().map(|of| of.to).max().unwrap_or(Timestamp::MAX))
    }

    /// What ended it.
    pub fn ended_by(&self) -> Option<EndedBy> {
        if self.state() != State::Released {
            return None;
        }
        self.main().max_by_key(|of| of.released).and_then(|of| of.ended_by)
    }

    /// How sure it is: as its least certain device.
    pub fn certainty(&self) -> Certainty {
        self.main().map(|of| of.certainty).max_by_key(|of| doubt(*of)).unwrap_or(Certainty::Incomplete)
    }

    /// Whether QEMU certainly had one of its devices at some moment of a time range, as far as the
    /// logs reach.
    pub(crate) fn is_held_at(&self, at: QueryRange, input: &Input) -> bool {
        self.holdings.iter().any(|of| holds_within_coverage(of, at, input) == Holds::Yes)
    }

    /// Whether QEMU certainly had it at some time.
    pub fn was_held(&self) -> bool {
        matches!(self.state(), State::Held | State::Released)
    }

    /// Whether no record says that QEMU got it, and no record is known to be missing. QEMU may still
    /// have had it until a start or hot-plug failed (see [`Holding::possibly_held`]).
    pub fn was_never_granted(&self) -> bool {
        matches!(self.state(), State::OpenFailed | State::NeverGranted)
    }

    /// Whether one of its records is not authenticated.
    pub fn is_unauthenticated(&self) -> bool {
        self.holdings.iter().any(|of| Proof::any_unauthenticated(&of.proof))
    }
}

/// The time of a holding in the order of time.
fn begin(holding: &Holding) -> Timestamp {
    QueryRange::of(holding).from
}

/// A session is what the device with the highest rank is.
fn rank(state: State) -> u8 {
    match state {
        State::OpenFailed => 0,
        State::NeverGranted => 1,
        State::Released => 2,
        State::Unknown => 3,
        State::Opening => 4,
        State::Held => 5,
    }
}

fn doubt(certainty: Certainty) -> u8 {
    match certainty {
        Certainty::Definitive => 0,
        Certainty::Inferred => 1,
        Certainty::Ambiguous => 2,
        Certainty::Incomplete => 3,
        Certainty::Doubtful => 4,
    }
}

#[cfg(test)]
mod tests {
    use taptrail_record::Device;

    use super::*;
    use crate::sample::{at, holding};

    fn vhost(of: Holding, state: State) -> Holding {
        let granted = of.granted.filter(|_| matches!(state, State::Held | State::Released));
        let released = of.released.filter(|_| state == State::Released);
        Holding { device: Device::new("/dev/vhost-net", None, None), state, granted, released, ..of }
    }

    fn states(holdings: &[Holding]) -> Vec<(usize, State)> {
        Session::group(holdings).iter().map(|of| (of.holdings.len(), of.state())).collect()
    }

    #[test]
    fn a_tap_and_its_vhost_net_are_one_session() {
        let tap = holding("web1", 1, 10, Some(30));
        let with = vhost(tap.clone(), State::Released);
        let failed = vhost(tap.clone(), State::OpenFailed);
        assert_eq!(states(&[tap.clone(), with]), [(2, State::Released)]);
        assert_eq!(states(&[failed.clone(), tap.clone(), failed.clone()]), [(3, State::Released)]);
        assert_eq!(states(&[failed.clone(), failed]), [(2, State::OpenFailed)]);
    }

    #[test]
    fn another_plug_interface_guest_or_host_is_another_session() {
        let tap = holding("web1", 1, 10, Some(12));
        let again = holding("web1", 1, 20, None);
        let nic = holding("web1", 2, 10, Some(12));
        let guest = holding("web2", 1, 10, Some(12));
        let host = Holding { host: "h2".into(), ..tap.clone() };
        assert_eq!(states(&[tap, nic, guest, host, again]).len(), 5);
    }

    #[test]
    fn a_failed_attempt_is_no_part_of_the_next() {
        let tap = holding("web1", 1, 10, Some(30));
        let failed = vhost(holding("web1", 1, 7, None), State::OpenFailed);
        let slow = vhost(Holding { opened: Some(at(11)), ..tap.clone() }, State::OpenFailed);
        let later = vhost(holding("web1", 1, 14, None), State::OpenFailed);
        assert_eq!(
            states(&[failed, tap, slow, later]),
            [(1, State::OpenFailed), (2, State::Released), (1, State::OpenFailed)]
        );
    }

    #[test]
    fn a_session_is_held_while_one_of_its_devices_is() {
        let tap = holding("web1", 1, 10, None);
        let revoked = vhost(holding("web1", 1, 10, Some(20)), State::Released);
        let all = [tap, revoked];
        let session = &Session::group(&all)[0];
        assert_eq!((session.state(), session.released(), session.ended_by()), (State::Held, None, None));
        assert_eq!(session.granted(), Some(at(11)));
    }

    #[test]
    fn a_session_is_as_sure_as_its_least_sure_device() {
        let tap = holding("web1", 1, 10, Some(30));
        let doubtful = Holding { certainty: Certainty::Doubtful, ..vhost(tap.clone(), State::Released) };
        let failed = Holding { certainty: Certainty::Doubtful, ..vhost(tap.clone(), State::NeverGranted) };
        assert_eq!(Session::group(&[tap.clone(), doubtful])[0].certainty(), Certainty::Doubtful);
        assert_eq!(Session::group(&[tap, failed])[0].certainty(), Certainty::Inferred);
    }

    #[test]
    fn devices_held_since_before_the_trail_are_one_session() {
        let before = |of: Holding| Holding { opened: None, granted: None, ..of };
        let tap = before(holding("web1", 1, 10, Some(30)));
        let with = before(vhost(holding("web1", 1, 10, Some(30)), State::Released));
        assert_eq!(states(&[tap, with]), [(2, State::Released)]);
    }
}
