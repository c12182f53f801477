//! Samples the descriptors of a QEMU while it lives, and compares a trail with all samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::world::procfs::{Descriptor, descriptors};

/// The kernel stamps its audit records with the time of its last tick, up to 10 ms ago with 100
/// ticks a second.
const TICK: SignedDuration = SignedDuration::from_millis(11);

/// One sample: the descriptors at some time between its begin and its end.
pub(crate) struct Sample {
    begin: Timestamp,
    end: Timestamp,
    held: Vec<Descriptor>,
}

/// A thread that takes samples until [`Sampler::end`].
pub(crate) struct Sampler {
    stop_requested: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    pub(crate) fn begin(pid: u32) -> Self {
        let stop_requested = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stop_requested);
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begin = Timestamp::now();
                let held = descriptors(pid);
                samples.push(Sample { begin, end: Timestamp::now(), held });
                std::thread::sleep(Duration::from_millis(30));
            }
            samples
        });
        Self { stop_requested, thread }
    }

    pub(crate) fn end(self) -> Vec<Sample> {
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

/// Asserts that these successive holdings of one device agree with the samples: no descriptor
/// before the open and none after the release; `queues` descriptors from the grant on, until they
/// are gone for good.
///
/// A release has the time at which taptrail observed it, a moment after QEMU closed the
/// descriptors.
pub(crate) fn compare(
    samples: &[Sample],
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
    let count = |sample: &Sample| sample.held.iter().filter(|descriptor| is_of_device(descriptor)).count();
    for sample in samples {
        let touched =
            spans.iter().any(|span| sample.end >= span.opened && sample.begin <= span.released + TICK);
        assert!(touched || count(sample) == 0, "held at {}, when the trail has no holding", sample.begin);
    }
    for Span { granted, released, .. } in spans {
        let within = samples.iter().filter(|sample| sample.begin >= granted + TICK && sample.end <= released);
        let counts: Vec<usize> = within.map(count).collect();
        assert_eq!(counts.first(), Some(&queues), "between {granted} and {released}: {counts:?}");
        assert!(counts.is_sorted_by(|before, after| before >= after), "{granted}: {counts:?}");
    }
}

/// Tests of [`compare`]: one holding, opened in second 10, granted in 11 and released in 20, with
/// samples.
mod judged {
    use super::*;

    fn compare_with_one_holding(samples: &[(i64, usize)]) {
        let time = |second| Timestamp::from_second(second).unwrap();
        let descriptor = |fd| Descriptor { fd, link: String::new(), rdev: String::new(), iff: None };
        let sample = |&(second, count): &(i64, usize)| Sample {
            begin: time(second),
            end: time(second),
            held: (0..i32::try_from(count).unwrap()).map(descriptor).collect(),
        };
        let samples: Vec<Sample> = samples.iter().map(sample).collect();
        let [opened, granted, released] = [10, 11, 20].map(|second| time(second).to_string());
        let holding = serde_json::json!({"opened": opened, "granted": granted, "released": released});
        compare(&samples, &[&holding], 2, |_| true);
    }

    #[test]
    fn what_was_held_as_the_trail_has_it_passes() {
        compare_with_one_holding(&[(5, 0), (10, 1), (12, 2), (18, 2), (19, 1), (20, 0), (30, 0)]);
    }

    #[test]
    #[should_panic(expected = "when the trail has no holding")]
    fn held_after_its_release_is_noticed() {
        compare_with_one_holding(&[(12, 2), (21, 1)]);
    }

    #[test]
    #[should_panic(expected = "when the trail has no holding")]
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
