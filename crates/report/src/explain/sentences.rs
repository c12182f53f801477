use taptrail_trail::{Certainty, Doubt, EndedBy, Holding, PossiblyHeld, State};

use crate::style::Clock;

/// What a holding says, in sentences.
pub(super) fn of(holding: &Holding, clock: &Clock) -> Vec<String> {
    let mut told = vec![opened(holding, clock)];
    if holding.state == State::OpenFailed {
        return told;
    }
    told.push(granted(holding, clock));
    told.extend(ended(holding, clock));
    told.extend(holding.possibly_held.iter().map(|stretch| possibly(stretch, holding, clock)));
    told.push(certainty(holding).to_owned());
    told
}

fn opened(holding: &Holding, clock: &Clock) -> String {
    match (holding.state, holding.opened, holding.queues) {
        (State::OpenFailed, at, _) => format!("The open failed at {}: nobody got it.", clock.maybe(at)),
        (_, None, _) => "No open of it is told: the trail begins later, or the record was lost.".to_owned(),
        (_, Some(at), None | Some(0 | 1)) => format!("Opened at {}.", clock.full(at)),
        (_, Some(at), Some(queues)) => {
            format!("Opened {queues} times from {} on, once for each queue.", clock.full(at))
        }
    }
}

fn granted(holding: &Holding, clock: &Clock) -> String {
    let qemu = match holding.pid {
        Some(pid) => format!("QEMU (pid {pid})"),
        None => "QEMU".to_owned(),
    };
    match (holding.state, holding.granted) {
        (State::OpenFailed | State::NeverGranted, _) => format!("{qemu} never got it."),
        (State::Opening, _) => {
            format!("Whether {qemu} gets it was not told yet as the trail was read.")
        }
        (State::Unknown, _) => format!("Whether {qemu} got it is not known."),
        (_, Some(at)) => format!("{qemu} got it at {}.", clock.after(holding.opened, Some(at))),
        (_, None) => format!("{qemu} had it already as the trail begins."),
    }
}

fn ended(holding: &Holding, clock: &Clock) -> Option<String> {
    let by = holding.ended_by.map(|by| match by {
        EndedBy::Detach => "the interface was unplugged",
        EndedBy::Stop => "the guest ended",
        EndedBy::Close => "it was closed, and no record says why",
        EndedBy::Revoke => "it was taken away with the interface still plugged in",
        EndedBy::Restart => "the guest started anew, and no record tells its end before",
        EndedBy::Reboot => "the host started anew, and no record tells the guest's end before",
        EndedBy::PidReused => "its process id is another guest's by then, and no record tells its end",
    });
    let at = holding.released.map(|at| match (holding.certainty, holding.last_seen) {
        (_, Some(last)) => format!(
            "unseen, at some time from {} to {}",
            clock.after(holding.opened, Some(last)),
            clock.after(holding.opened, Some(at))
        ),
        (Certainty::Ambiguous, _) => format!("by {} at the latest", clock.after(holding.opened, Some(at))),
        (_, None) => format!("at {}", clock.after(holding.opened, Some(at))),
    });
    match (holding.state, at, by) {
        (State::Held, ..) => Some("It is held still: no record tells of an end.".to_owned()),
        (State::Released, at, by) => {
            let at = at.unwrap_or_else(|| "at a time that is not told".to_owned());
            let doubt = holding.end_doubt.map_or_else(String::new, |doubt| {
                format!(" That nobody holds it any more is not shown: {}.", doubt.sentence())
            });
            let colon = if by.is_some() { ": " } else { "" };
            Some(format!("Released {at}{colon}{}.{doubt}", by.unwrap_or_default()))
        }
        (_, Some(at), _) => Some(format!("Closed {at}.")),
        (_, None, _) => None,
    }
}

/// When QEMU may have held it, and why that is not certain.
fn possibly(stretch: &PossiblyHeld, holding: &Holding, clock: &Clock) -> String {
    let from = match stretch.from {
        Some(from) => format!("from {}", clock.after(holding.opened, Some(from))),
        None => "from some time before the trail".to_owned(),
    };
    let until = match stretch.until {
        Some(until) => format!(" to {}", clock.after(holding.opened, Some(until))),
        None => " on".to_owned(),
    };
    let why = match stretch.why {
        Doubt::BeforeGrant => "a grant is recorded only after QEMU has the descriptors",
        Doubt::Failed => "the start or hot-plug failed, and QEMU may have had the descriptors until then",
        Doubt::NothingFollowed => "no record tells what followed the open",
        Doubt::NoGrantsRecorded => "its manager has recorded no grant of anything",
        Doubt::TrailEnds => "the trail ends before it tells what followed",
        Doubt::RecordsLost => "records of that time may be missing",
        Doubt::EndUnseen => "it ended unseen in that time",
        Doubt::BeforeTrail => "it was held as the trail began",
        Doubt::Ambiguous => "one of several interfaces with its MAC was unplugged",
        Doubt::Contradicted => "the records of its open contradict each other",
        Doubt::CloseDoubted => "somebody may hold it still, as its close says",
    };
    format!("Possibly held {from}{until}: {why}.")
}

fn certainty(holding: &Holding) -> &'static str {
    match holding.certainty {
        Certainty::Definitive => "Definitive: records name the device at every step.",
        Certainty::Inferred if holding.end_doubt.is_some() => {
            "Inferred: its close is no proof that nobody holds it any more."
        }
        Certainty::Inferred => {
            "Inferred: a record names only the interface or the guest, and looking back shows that it means this \
             device."
        }
        Certainty::Ambiguous => "Ambiguous: another holding fits the same records as well.",
        Certainty::Doubtful => "Doubtful: the records contradict each other.",
        Certainty::Incomplete => "Incomplete: records that would tell more are missing, or may be.",
    }
}
