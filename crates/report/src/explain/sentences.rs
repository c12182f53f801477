use taptrail_record::DeviceKind;
use taptrail_trail::{Certainty, Doubt, EndedBy, Holding, PossiblyHeld, State};

use crate::style::Clock;

/// A holding in sentences.
pub(crate) fn describe(holding: &Holding, clock: &impl Clock) -> Vec<String> {
    let mut sentences = vec![opened(holding, clock)];
    if holding.state == State::OpenFailed {
        return sentences;
    }
    sentences.push(granted(holding, clock));
    sentences.extend(ended(holding, clock));
    sentences.extend(holding.possibly_held.iter().map(|stretch| possibly_held(stretch, holding, clock)));
    sentences.push(certainty(holding).to_owned());
    sentences
}

fn opened(holding: &Holding, clock: &impl Clock) -> String {
    match (holding.state, holding.opened, holding.queues) {
        (State::OpenFailed, at, _) => format!("The open failed at {}: nobody got it.", clock.optional(at)),
        (State::Unknown | State::Opening, None, _) if is_unrecorded(holding) => {
            "No record shows an open. Managers other than taptrail write none for vDPA devices, for the \
             host's PCI devices (hostdev), and for interfaces without a device (user, vhostuser)."
                .to_owned()
        }
        (_, None, _) if holding.device.kind == DeviceKind::VhostVdpa => {
            "No record shows its open: managers other than taptrail write none of a vDPA device.".to_owned()
        }
        (_, None, _) => {
            "No record shows its open: the trail begins later, or the record was lost.".to_owned()
        }
        (_, Some(at), None | Some(0 | 1)) => format!("Opened at {}.", clock.full(at)),
        (_, Some(at), Some(queues)) => {
            format!("Opened {queues} times from {} on, once for each queue.", clock.full(at))
        }
    }
}

fn granted(holding: &Holding, clock: &impl Clock) -> String {
    let qemu = match holding.pid {
        Some(pid) => format!("QEMU (pid {})", clock.pid(pid)),
        None => "QEMU".to_owned(),
    };
    match (holding.state, holding.granted) {
        (State::NeverGranted, _) if hand_over_failed(holding) => {
            format!("It was on its way to {qemu}, and the hand-over failed.")
        }
        (State::OpenFailed | State::NeverGranted, _) => format!("{qemu} never got it."),
        (State::Opening, _) => {
            format!("When the trail was read, no record showed yet whether {qemu} gets it.")
        }
        (State::Unknown, _) if is_unrecorded(holding) => {
            format!("{qemu} got the interface; whether this is its device is not known.")
        }
        (State::Unknown, _) => format!("Whether {qemu} got it is not known."),
        (_, Some(at)) => format!("{qemu} got it at {}.", clock.after(holding.opened, Some(at))),
        (_, None) => format!("{qemu} had it already as the trail begins."),
    }
}

/// Whether no record says that it is the device of its interface.
pub(super) fn is_unrecorded(holding: &Holding) -> bool {
    holding.possibly_held.iter().any(|stretch| stretch.why == Doubt::DeviceUnknown)
        || (holding.opened.is_none() && matches!(holding.state, State::Unknown | State::Opening))
}

fn hand_over_failed(holding: &Holding) -> bool {
    holding.possibly_held.iter().any(|stretch| stretch.why == Doubt::Failed)
}

fn ended(holding: &Holding, clock: &impl Clock) -> Option<String> {
    let by = holding.ended_by.map(end);
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
        (State::Held, ..) => Some("It is still held: no record shows an end.".to_owned()),
        (State::Released, at, by) => {
            let at = at.unwrap_or_else(|| "at an unknown time".to_owned());
            let doubt = holding.end_doubt.map_or_else(String::new, |doubt| {
                format!(" It is not proven that nobody holds it any more: {}.", doubt.sentence())
            });
            let colon = if by.is_some() { ": " } else { "" };
            Some(format!("Released {at}{colon}{}.{doubt}", by.unwrap_or_default()))
        }
        (_, Some(at), _) => Some(format!("Closed {at}.")),
        (_, None, _) => None,
    }
}

/// What ended it, as the rest of a sentence.
pub(super) fn end(by: EndedBy) -> &'static str {
    match by {
        EndedBy::Detach => "the interface was unplugged",
        EndedBy::Stop => "the guest ended",
        EndedBy::Close => "it was closed, and no record says why",
        EndedBy::Revoke => "it was taken away with the interface still plugged in",
        EndedBy::Restart => "the guest started again, and no record shows its end before that",
        EndedBy::Reboot => "the host rebooted, and no record shows the guest's end before that",
        EndedBy::PidReused => "its process id had become another guest's, and no record shows its end",
    }
}

/// When QEMU may have held it, and why that is not certain.
pub(super) fn possibly_held(stretch: &PossiblyHeld, holding: &Holding, clock: &impl Clock) -> String {
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
        Doubt::NothingFollowed => "no record shows what followed the open",
        Doubt::NoGrantsRecorded => "its manager has recorded no grant of anything",
        Doubt::TrailEnds => "the trail ends before the outcome",
        Doubt::RecordsLost => "records of that time may be missing",
        Doubt::EndUnseen => "it ended unseen in that time",
        Doubt::BeforeTrail => "it was held as the trail began",
        Doubt::Ambiguous => "one of several interfaces with its MAC was unplugged",
        Doubt::Contradicted => "the records of its open contradict each other",
        Doubt::DeviceUnknown => "QEMU got the interface, and no record says with which device",
        Doubt::CloseDoubted => "somebody may still hold it, as the record of its close says",
    };
    format!("Possibly held {from}{until}: {why}.")
}

pub(super) fn certainty(holding: &Holding) -> &'static str {
    match holding.certainty {
        Certainty::Definitive => "Definitive: records name the device at every step.",
        Certainty::Inferred if holding.end_doubt.is_some() => {
            "Inferred: its close is no proof that nobody holds it any more."
        }
        Certainty::Inferred if holding.state == State::NeverGranted && hand_over_failed(holding) => {
            "Inferred: no record shows whether QEMU had it before the hand-over failed."
        }
        Certainty::Inferred => {
            "Inferred: a record names only the interface or the guest, and looking back shows that it means this \
             device."
        }
        Certainty::Ambiguous => "Ambiguous: another holding fits the same records as well.",
        Certainty::Doubtful => "Doubtful: the records contradict each other.",
        Certainty::Incomplete if is_unrecorded(holding) => {
            "Incomplete: no record shows an open for this interface, and some devices are opened without one."
        }
        Certainty::Incomplete => "Incomplete: further records are missing, or may be.",
    }
}
