//! Looks at what a QEMU holds, again and again while it lives, and holds a trail against all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::world::procfs::{Descriptor, descriptors};

/// The kernel stamps its audit records with the time of its last tick: up to 10 ms ago, with 100 ticks a second.
const TICK: SignedDuration = SignedDuration::from_millis(11);

/// One look. What it saw was so at some time between its begin and its end.
pub(crate) struct Look {
    begin: Timestamp,
    end: Timestamp,
    held: Vec<Descriptor>,
}

/// Looks until it is told to end.
pub(crate) struct Watch {
    stop_requested: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Look>>,
}

impl Watch {
    pub(crate) fn begin(pid: u32) -> Self {
        let stop_requested = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stop_requested);
        let thread = std::thread::spawn(move || {
            let mut looks = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begin = Timestamp::now();
                let held = descriptors(pid);
                looks.push(Look { begin, end: Timestamp::now(), held });
                std::thread::sleep(Duration::from_millis(30));
            }
            looks
        });
        Self { stop_requested, thread }
    }

    pub(crate) fn end(self) -> Vec<Look> {
        self.stop_requested.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// When a holding was opened, granted and released.
struct Span {
    opened: Timestamp,
    granted: Timestamp,
    released: Timestamp,
}

/// What these holdings of one device, one after the other, say is what was seen of it: nothing before the open and nothing
/// after the release; `queues` descriptors from the grant on, until they are gone for good.
///
/// Between QEMU's letting go and the release there is a moment: a release is told when it was seen.
pub(crate) fn compare(
    looks: &[Look],
    holdings: &[&Value],
    queues: usize,
    is_of_device: impl Fn(&Descriptor) -> bool,
) {
    let time = |holding: &Value, key: &str| holding[key].as_str().unwrap().parse::<Timestamp>().unwrap();
    let spans = holdings.iter().map(|holding| Span {
        opened: time(holding, "opened"),
        granted: time(holding, "granted"),
        released: time(holding, "released"),
    });
    let spans: Vec<Span> = spans.collect();
    let count = |look: &Look| look.held.iter().filter(|descriptor| is_of_device(descriptor)).count();
    for look in looks {
        let touched = spans.iter().any(|span| look.end >= span.opened && look.begin <= span.released + TICK);
        assert!(touched || count(look) == 0, "held at {}, when the trail knows of nothing", look.begin);
    }
    for Span { granted, released, .. } in spans {
        let within = looks.iter().filter(|look| look.begin >= granted + TICK && look.end <= released);
        let counts: Vec<usize> = within.map(count).collect();
        assert_eq!(counts.first(), Some(&queues), "between {granted} and {released}: {counts:?}");
        assert!(counts.is_sorted_by(|before, after| before >= after), "{granted}: {counts:?}");
    }
}

/// The judge is judged: one holding, opened in second 10, granted in 11 and released in 20, and looks at what was held.
mod judged {
    use super::*;

    fn compare_with_one_holding(looks: &[(i64, usize)]) {
        let time = |second| Timestamp::from_second(second).unwrap();
        let descriptor = |fd| Descriptor { fd, link: String::new(), rdev: String::new(), iff: None };
        let look = |&(second, count): &(i64, usize)| Look {
            begin: time(second),
            end: time(second),
            held: (0..i32::try_from(count).unwrap()).map(descriptor).collect(),
        };
        let looks: Vec<Look> = looks.iter().map(look).collect();
        let [opened, granted, released] = [10, 11, 20].map(|second| time(second).to_string());
        let holding = serde_json::json!({"opened": opened, "granted": granted, "released": released});
        compare(&looks, &[&holding], 2, |_| true);
    }

    #[test]
    fn what_was_held_as_the_trail_has_it_passes() {
        compare_with_one_holding(&[(5, 0), (10, 1), (12, 2), (18, 2), (19, 1), (20, 0), (30, 0)]);
    }

    #[test]
    #[should_panic(expected = "when the trail knows of nothing")]
    fn held_after_its_release_is_noticed() {
        compare_with_one_holding(&[(12, 2), (21, 1)]);
    }

    #[test]
    #[should_panic(expected = "when the trail knows of nothing")]
    fn held_before_its_open_is_noticed() {
        compare_with_one_holding(&[(9, 2), (12, 2)]);
    }

    #[test]
    #[should_panic(expected = "[2, 0, 2]")]
    fn gone_and_back_is_noticed() {
        compare_with_one_holding(&[(12, 2), (15, 0), (18, 2)]);
    }

    #[test]
    #[should_panic(expected = "between")]
    fn never_seen_is_noticed() {
        compare_with_one_holding(&[(5, 0), (30, 0)]);
    }
}
