//! The tables of words.

use taptrail_record::{CloseDoubt, DeviceKind, Outcome, Reason};

use crate::{ActorRole, Certainty, Doubt, EndedBy, GapReason, RunState, Severity, State};

#[test]
fn each_value_has_one_word_in_both_directions() {
    macro_rules! check {
        ($($type:ident),+) => {$(
            for value in $type::ALL {
                let word = value.as_str();
                assert_eq!($type::from_word(word), Some(value), "{word}");
                let json = format!("\"{word}\"");
                assert_eq!(serde_json::to_string(&value).unwrap(), json);
                assert_eq!(serde_json::from_str::<$type>(&json).unwrap(), value);
                let same = $type::ALL.iter().filter(|other| other.as_str() == word).count();
                assert_eq!(same, 1, "{word}");
            }
            for word in ["", "?", "Definitive", "held ", "held\n"] {
                assert_eq!($type::from_word(word), None, "{word}");
            }
        )+};
    }
    check!(State, Certainty, EndedBy, Doubt, RunState, ActorRole, Severity, GapReason);
    check!(CloseDoubt, DeviceKind, Outcome);
    assert_eq!("booted".parse::<Reason>().unwrap().as_str(), "booted");
}
