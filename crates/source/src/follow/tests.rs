//! Real files, rotated and read at random moments.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec};
use taptrail_trail::{Content, Gap, GapReason};

use super::*;

fn about() -> About {
    About { host: "h1".into(), zone: TimeZone::UTC }
}

/// A line that tells something, with this number.
fn record(serial: u32) -> String {
    let stamp = stamp(serial);
    format!(
        "type=VIRT_CONTROL msg=audit({stamp}): pid=265 uid=0 auid=4294967295 ses=4294967295 msg='virt=kvm op=start \
         reason=booted vm=\"web1\" uuid=f3607ac8-f517-4952-b61c-b19b40f99661 vm-pid={serial} exe=\"/usr/sbin/libvirtd\" \
         hostname=? addr=? terminal=? res=success'\x1dUID=\"root\" AUID=\"unset\"\n"
    )
}

/// One that does not.
fn noise(serial: u32) -> String {
    format!("type=USER_ACCT msg=audit({}): pid=1 uid=0 msg='op=x res=success'\n", stamp(serial))
}

/// A hundred numbers a second.
fn stamp(serial: u32) -> String {
    format!("{}.{:03}:{serial}", 1_795_460_000 + serial / 100, serial % 100 * 10)
}

/// A log with whoever writes it and rotates it.
struct Log {
    dir: tempfile::TempDir,
    file: File,
    serial: u32,
    /// How many rotations are kept.
    keep: u32,
}

impl Log {
    fn new(keep: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("audit.log")).unwrap();
        Self { dir, file, serial: 0, keep }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    fn rotation(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("audit.log.{number}"))
    }

    /// Writes so many lines; every third tells something.
    fn write(&mut self, lines: u32) {
        let text: String = (0..lines).map(|_| self.next()).collect();
        self.file.write_all(text.as_bytes()).unwrap();
    }

    fn next(&mut self) -> String {
        self.serial += 1;
        if self.serial.is_multiple_of(3) { record(self.serial) } else { noise(self.serial) }
    }

    /// Names each rotation after the next one, and packs those from the second on when `pack`.
    fn shift(&self, pack: bool) {
        let gz = |number| PathBuf::from(format!("{}.gz", self.rotation(number).display()));
        for number in (1..=self.keep).rev() {
            for (from, to) in
                [(self.rotation(number), self.rotation(number + 1)), (gz(number), gz(number + 1))]
            {
                match from.exists() {
                    true if number == self.keep => fs::remove_file(from).unwrap(),
                    true => fs::rename(from, to).unwrap(),
                    false => {}
                }
            }
        }
        if pack && self.rotation(2).exists() {
            let file = File::create(gz(2)).unwrap();
            let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            packed.write_all(&fs::read(self.rotation(2)).unwrap()).unwrap();
            packed.finish().unwrap();
            fs::remove_file(self.rotation(2)).unwrap();
        }
    }

    /// As auditd and logrotate's `create` do it.
    fn rotate(&mut self, pack: bool) {
        self.shift(pack);
        fs::rename(self.path(), self.rotation(1)).unwrap();
        self.file = File::create(self.path()).unwrap();
    }

    /// The same, with some lines written to the old file before its writer has the new one.
    fn rotate_late(&mut self, lines: u32) {
        self.shift(false);
        fs::rename(self.path(), self.rotation(1)).unwrap();
        let new = File::create(self.path()).unwrap();
        self.write(lines);
        self.file = new;
    }

    /// As logrotate's `copytruncate` does it.
    fn copy_and_cut(&mut self) {
        self.shift(false);
        let _ = fs::remove_file(self.rotation(1));
        fs::copy(self.path(), self.rotation(1)).unwrap();
        self.file = OpenOptions::new().append(true).open(self.path()).unwrap();
        self.file.set_len(0).unwrap();
    }
}

/// Who follows it, and what was heard.
struct Hearer {
    follower: Follower,
    /// What was told since the last commit, and all before.
    told: Vec<Entry>,
    heard: Vec<Entry>,
    kept: String,
}

impl Hearer {
    fn new(path: &Path, begin: Begin) -> Self {
        let follower = Follower::open(path, about(), begin, None).unwrap();
        let kept = follower.checkpoint().to_string();
        Self { follower, told: Vec::new(), heard: Vec::new(), kept }
    }

    fn look(&mut self) {
        loop {
            let mut told = Told::default();
            self.follower.look(&mut told).unwrap();
            assert_eq!((told.unreadable, told.located.len()), (0, 0), "{:?}", told.located);
            self.told.append(&mut told.entries);
            if !told.more {
                break;
            }
        }
        assert_eq!(self.follower.behind(), 0);
    }

    fn commit(&mut self) {
        self.heard.append(&mut self.told);
        self.kept = self.follower.checkpoint().to_string();
    }

    /// A crash: what was told since the last commit is forgotten.
    fn restart(&mut self) {
        self.told.clear();
        let kept = self.kept.parse().unwrap();
        let log = self.follower.log().to_owned();
        self.follower = Follower::open(&log, about(), Begin::Rotations, Some(&kept)).unwrap();
    }

    /// The numbers of the records heard, and what was told to be missing.
    fn numbers(&self) -> (Vec<u32>, Vec<Gap>) {
        let (mut records, mut gaps) = (Vec::new(), Vec::new());
        for entry in &self.heard {
            match &entry.content {
                Content::Gap(gap) => gaps.push(gap.clone()),
                // auditd numbers what it says of itself with a counter of its own.
                _ => records.extend(entry.serial),
            }
        }
        (records, gaps)
    }
}

/// Every third number up to this.
fn all(last: u32) -> Vec<u32> {
    (1..=last).filter(|number| number.is_multiple_of(3)).collect()
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(u32),
    /// A line in two parts, with a look between.
    Torn,
    Rotate,
    RotateAndPack,
    RotateLate(u32),
    CopyAndCut,
    Look,
    Commit,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..40_u32).prop_map(Step::Write),
        1 => Just(Step::Torn),
        2 => Just(Step::Rotate),
        1 => Just(Step::RotateAndPack),
        1 => (1..10_u32).prop_map(Step::RotateLate),
        1 => Just(Step::CopyAndCut),
        4 => Just(Step::Look),
        3 => Just(Step::Commit),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..60)
}

/// Goes through the steps and reads to the end.
fn play(log: &mut Log, steps: &[Step]) -> Hearer {
    let mut hearer = Hearer::new(&log.path(), Begin::Rotations);
    for step in steps {
        match *step {
            Step::Write(lines) => log.write(lines),
            Step::Torn => {
                let line = log.next();
                let (first, second) = line.as_bytes().split_at(line.len() / 2);
                log.file.write_all(first).unwrap();
                hearer.look();
                log.file.write_all(second).unwrap();
            }
            Step::Rotate => log.rotate(false),
            Step::RotateAndPack => log.rotate(true),
            Step::RotateLate(lines) => log.rotate_late(lines),
            Step::CopyAndCut => log.copy_and_cut(),
            Step::Look => hearer.look(),
            Step::Commit => {
                hearer.look();
                hearer.commit();
            }
            Step::Crash => hearer.restart(),
        }
    }
    hearer.look();
    hearer.commit();
    hearer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn every_line_is_told_once_and_in_order_however_the_log_is_rotated(steps in steps()) {
        let mut log = Log::new(100);
        let steps = [&[Step::Write(1), Step::Commit], &steps[..]].concat();
        let hearer = play(&mut log, &steps);
        prop_assert_eq!(hearer.numbers(), (all(log.serial), Vec::new()));
    }

    #[test]
    fn what_is_rotated_away_unread_is_told_as_missing_and_nothing_else(steps in steps(), keep in 0..3_u32) {
        let mut log = Log::new(keep);
        // Of what was gone before anything was read, nobody can know.
        let steps = [&[Step::Write(1), Step::Commit], &steps[..]].concat();
        let mut hearer = play(&mut log, &steps);
        // What is missing shows by what follows.
        log.write(300);
        hearer.look();
        hearer.commit();
        let (records, gaps) = hearer.numbers();
        let missing = |number: &u32| gaps.iter().any(|gap| {
            let (first, last) = gap.serials.unwrap();
            (first..=last).contains(number)
        });
        let told: Vec<u32> = all(log.serial).into_iter().filter(|number| !missing(number)).collect();
        prop_assert_eq!(&records, &told, "{:?}", &gaps);
        let known: Vec<_> = gaps.iter().filter_map(|gap| gap.serials).collect();
        prop_assert!(known.is_sorted_by(|one, next| one.1 < next.0), "{:?}", &gaps);
    }
}

/// What is heard of a log by somebody who was there at `first` and comes back now.
fn resumed(log: &Log, kept: &str) -> (Vec<u32>, Vec<Gap>) {
    let mut hearer = Hearer::new(&log.path(), Begin::End);
    hearer.kept = kept.to_owned();
    hearer.restart();
    hearer.look();
    hearer.commit();
    hearer.numbers()
}

fn told(numbers: RangeInclusive<u32>) -> Vec<u32> {
    numbers.filter(|number| number.is_multiple_of(3)).collect()
}

/// A log of which 30 lines are read, and where they were left.
fn left(keep: u32) -> (Log, String) {
    let mut log = Log::new(keep);
    log.write(30);
    let mut hearer = Hearer::new(&log.path(), Begin::Rotations);
    hearer.look();
    hearer.commit();
    (log, hearer.kept)
}

#[test]
fn two_rotations_between_two_looks_are_read_in_order() {
    let mut log = Log::new(5);
    let mut hearer = Hearer::new(&log.path(), Begin::Rotations);
    for _ in 0..3 {
        log.write(100);
        log.rotate(false);
    }
    log.write(10);
    hearer.look();
    hearer.commit();
    assert_eq!(hearer.numbers(), (all(310), Vec::new()));
    let places: Vec<_> = hearer.heard.iter().map(|entry| (&*entry.source, entry.line)).collect();
    let of = |name: &str| log.dir.path().join(name).display().to_string();
    // The first file was opened under the name that it had.
    assert_eq!(places[0], (of("audit.log").as_str(), 3));
    assert_eq!(places[places.len() - 1], (of("audit.log").as_str(), 9));
    assert!(places.contains(&(of("audit.log.2").as_str(), 2)), "{places:?}");
}

#[test]
fn a_time_without_auditing_is_a_gap_though_no_number_is_missing() {
    let mut log = Log::new(0);
    let switch = |serial, enabled, old| {
        format!(
            "type=CONFIG_CHANGE msg=audit({}): op=set audit_enabled={enabled} old={old} auid=4294967295 \
             ses=4294967295 res=1\n",
            stamp(serial)
        )
    };
    let mut hearer = Hearer::new(&log.path(), Begin::Rotations);
    log.file.write_all((record(1) + &switch(2, 0, 1)).as_bytes()).unwrap();
    hearer.look();
    log.file.write_all((switch(3, 1, 0) + &record(4)).as_bytes()).unwrap();
    hearer.look();
    hearer.commit();
    let since = "2026-11-23T18:53:20.02Z".parse().ok();
    let off = Gap { since, serials: None, why: GapReason::AuditingOff };
    assert_eq!(hearer.numbers(), (vec![1, 4], vec![off]));
}

#[test]
fn where_to_begin_is_a_choice() {
    let mut log = Log::new(5);
    log.write(30);
    log.rotate(false);
    log.write(30);
    for (begin, first) in [(Begin::Rotations, 1), (Begin::Log, 31), (Begin::End, 61)] {
        let mut hearer = Hearer::new(&log.path(), begin);
        log.write(30);
        hearer.look();
        hearer.commit();
        let (records, gaps) = hearer.numbers();
        assert_eq!((records, gaps), (told(first..=log.serial), Vec::new()), "{begin:?}");
        // The lines' numbers are the file's.
        assert_eq!(hearer.heard.last().unwrap().line, u64::from(log.serial) - 30);
        log.file.set_len(0).unwrap();
        fs::write(
            log.path(),
            (31..=60)
                .map(|serial| if serial % 3 == 0 { record(serial) } else { noise(serial) })
                .collect::<String>(),
        )
        .unwrap();
        log.serial = 60;
        log.file = OpenOptions::new().append(true).open(log.path()).unwrap();
    }
}

#[test]
fn a_log_that_is_not_there_yet_is_read_from_its_first_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut hearer = Hearer::new(&path, Begin::End);
    hearer.look();
    fs::write(&path, record(3)).unwrap();
    hearer.look();
    hearer.commit();
    assert_eq!(hearer.numbers(), (vec![3], Vec::new()));
    let none = Follower::open(&dir.path().join("no/audit.log"), about(), Begin::End, None);
    assert!(none.is_err_and(|error| error.to_string().contains("Directory")));
}

#[test]
fn what_was_written_while_nobody_looked_is_read_from_the_rotations() {
    for pack in [false, true] {
        let (mut log, kept) = left(5);
        log.write(5);
        for _ in 0..3 {
            log.rotate(pack);
            log.write(20);
        }
        assert_eq!(resumed(&log, &kept), (told(31..=log.serial), Vec::new()), "{pack}");
    }
}

#[test]
fn a_file_with_the_inode_of_another_is_not_taken_for_it() {
    let (mut log, kept) = left(0);
    // The same file, with all that it had gone and more than that written since.
    log.file.set_len(0).unwrap();
    log.file = OpenOptions::new().append(true).open(log.path()).unwrap();
    log.serial = 50;
    log.write(40);
    let gap = |serials| {
        vec![Gap {
            since: "2026-11-23T18:53:20.3Z".parse().ok(),
            serials: Some(serials),
            why: GapReason::PositionLost,
        }]
    };
    assert_eq!(resumed(&log, &kept), (told(51..=90), gap((31, 50))));
    // Nothing is missing when the next number is the next one.
    let (mut log, kept) = left(0);
    log.rotate(false);
    log.write(9);
    assert_eq!(resumed(&log, &kept), (told(31..=39), Vec::new()));
}

#[test]
fn a_log_that_begins_anew_after_a_boot_is_a_gap_of_unknown_size() {
    let (mut log, kept) = left(0);
    log.serial = 900_000;
    log.rotate(false);
    log.write(30);
    let mut hearer = Hearer::new(&log.path(), Begin::End);
    hearer.kept = kept;
    hearer.restart();
    hearer.look();
    hearer.commit();
    let kept = hearer.kept.clone();
    // The clock goes on, the numbers begin with 1.
    log.rotate(false);
    log.rotate(false);
    let anew = record(3).replace("audit(17954600", "audit(17999999");
    log.file.write_all(anew.as_bytes()).unwrap();
    let (records, gaps) = resumed(&log, &kept);
    assert_eq!(records, [3]);
    let gaps: Vec<_> = gaps.iter().map(|gap| (gap.serials, gap.why)).collect();
    // What had not been told yet, and what nobody can know.
    assert_eq!(gaps, [(Some((31, 900_000)), GapReason::NeverWritten), (None, GapReason::PositionLost)]);
}

#[test]
fn a_copy_elsewhere_and_a_log_restored_from_it_are_known_by_their_lines() {
    let (mut log, kept) = left(5);
    // Other bytes before, the same lines.
    let mut copy = b"a comment\n".to_vec();
    File::open(log.path()).unwrap().read_to_end(&mut copy).unwrap();
    fs::remove_file(log.path()).unwrap();
    fs::write(log.path(), copy).unwrap();
    log.file = OpenOptions::new().append(true).open(log.path()).unwrap();
    log.write(6);
    assert_eq!(resumed(&log, &kept), (told(31..=36), Vec::new()));
}

#[test]
fn numbers_that_a_log_lacks_are_told_where_they_are_missing() {
    let mut log = Log::new(1);
    log.write(30);
    log.serial += 5;
    log.write(300);
    let mut hearer = Hearer::new(&log.path(), Begin::Rotations);
    hearer.look();
    hearer.commit();
    let (records, gaps) = hearer.numbers();
    assert_eq!(records.len(), told(1..=30).len() + told(36..=335).len());
    assert_eq!(gaps, [Gap { since: None, serials: Some((31, 35)), why: GapReason::NeverWritten }]);
}

#[test]
fn what_was_missing_when_it_was_left_is_told_later() {
    let mut log = Log::new(1);
    log.write(30);
    log.serial += 5;
    log.write(3);
    let mut hearer = Hearer::new(&log.path(), Begin::Rotations);
    hearer.look();
    hearer.commit();
    assert_eq!(hearer.numbers().1, []);
    hearer.restart();
    log.write(300);
    hearer.look();
    hearer.commit();
    assert_eq!(hearer.numbers().1.iter().map(|gap| gap.serials).collect::<Vec<_>>(), [Some((31, 35))]);
}

#[test]
fn an_event_whose_records_are_in_two_files_is_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let all = fs::read("../../tests/data/libvirt/libvirt-9.0-kernel-rules/02-macvtap/audit.log").unwrap();
    let at = memchr::memmem::find(&all, b"type=PATH").unwrap();
    let (before, after) = all.split_at(at);
    let opens = |entries: &[Entry]| {
        entries.iter().filter(|entry| matches!(entry.content, Content::KernelOpen(_))).count()
    };
    let mut whole = Told::default();
    fs::write(&path, &all).unwrap();
    Follower::open(&path, about(), Begin::Log, None).unwrap().look(&mut whole).unwrap();
    assert!(opens(&whole.entries) > 0);
    // Rotated between them.
    fs::write(&path, before).unwrap();
    let mut follower = Follower::open(&path, about(), Begin::Log, None).unwrap();
    let mut told = Told::default();
    follower.look(&mut told).unwrap();
    fs::rename(&path, dir.path().join("audit.log.1")).unwrap();
    fs::write(&path, after).unwrap();
    follower.look(&mut told).unwrap();
    assert_eq!(opens(&told.entries), opens(&whole.entries));
    // Left between them, in one file.
    fs::write(&path, before).unwrap();
    let mut follower = Follower::open(&path, about(), Begin::Log, None).unwrap();
    let mut told = Told::default();
    follower.look(&mut told).unwrap();
    File::options().append(true).open(&path).unwrap().write_all(after).unwrap();
    let left = follower.checkpoint();
    let mut follower = Follower::open(&path, about(), Begin::Log, Some(&left)).unwrap();
    follower.look(&mut told).unwrap();
    assert_eq!(opens(&told.entries), opens(&whole.entries));
    assert_eq!(told.entries.len(), whole.entries.len());
}

#[test]
fn a_line_too_long_is_located_and_what_follows_is_read() {
    let mut log = Log::new(2);
    let mut follower = Follower::open(&log.path(), about(), Begin::Log, None).unwrap();
    let mut told = Told::default();
    log.write(3);
    for _ in 0..3 {
        log.file.write_all(&[b'x'; 200_000]).unwrap();
        follower.look(&mut told).unwrap();
    }
    assert_eq!((told.unreadable, told.entries.len()), (0, 1));
    log.file.write_all(b"\n").unwrap();
    log.write(3);
    follower.look(&mut told).unwrap();
    assert_eq!((told.unreadable, told.entries.len(), told.lines), (1, 2, 7));
    assert_eq!((told.located[0].line, told.entries[1].line), (4, 7));
    let left = follower.checkpoint();
    log.write(3);
    let mut again = Told::default();
    Follower::open(&log.path(), about(), Begin::Log, Some(&left)).unwrap().look(&mut again).unwrap();
    assert_eq!((again.unreadable, again.entries.len()), (0, 1));
}

#[test]
fn growth_and_rotation_are_told_by_a_descriptor() {
    let mut log = Log::new(2);
    let mut follower = Follower::open(&log.path(), about(), Begin::Log, None).unwrap();
    assert_eq!(follower.look_within(), None);
    let is_told = |follower: &Follower| {
        let mut polled = [PollFd::from_borrowed_fd(follower.awaited().unwrap(), PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap() > 0
    };
    let look = |follower: &mut Follower| {
        let mut told = Told::default();
        follower.look(&mut told).unwrap();
        told.lines
    };
    look(&mut follower);
    assert!(!is_told(&follower), "nothing happened");
    log.write(1);
    assert!(is_told(&follower));
    assert_eq!(look(&mut follower), 1);
    assert!(!is_told(&follower), "all is seen");
    log.rotate(false);
    assert!(is_told(&follower), "a new name");
    assert_eq!(look(&mut follower), 0);
    log.write(1);
    assert!(is_told(&follower), "in the new file, while the old one is read still");
    assert_eq!(look(&mut follower), 1);
    log.write(1);
    assert!(is_told(&follower), "in the new file");
    look(&mut follower);
    log.copy_and_cut();
    assert!(is_told(&follower), "cut");
}

/// Lines through a pipe, from behind this checkpoint.
fn piped(text: &str, kept: Option<&str>) -> (Vec<u32>, Vec<Gap>, String) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let kept = kept.map(|kept| kept.parse().unwrap());
    let mut piped = Piped::new(read, about(), "auditd".into(), kept.as_ref(), false);
    let mut told = Told::default();
    piped.look(&mut told).unwrap();
    assert!(!told.ended, "nobody waits for what is not there");
    File::from(write).write_all(text.as_bytes()).unwrap();
    while !told.ended {
        piped.look(&mut told).unwrap();
    }
    assert!(piped.awaited().is_none());
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    for entry in told.entries {
        match entry.content {
            Content::Gap(gap) => gaps.push(gap),
            // auditd numbers what it says of itself with a counter of its own.
            _ => records.extend(entry.serial),
        }
    }
    (records, gaps, piped.checkpoint().to_string())
}

#[test]
fn a_pipe_gives_its_lines_and_its_end_and_a_pause_is_a_gap() {
    let lines = |numbers: RangeInclusive<u32>| numbers.map(record).collect::<String>();
    let (records, gaps, kept) = piped(&lines(1..=5), None);
    assert_eq!((records, gaps), ((1..=5).collect(), Vec::new()));
    // What comes again is not told again; what comes next lacks nothing.
    let (records, gaps, _) = piped(&lines(3..=8), Some(&kept));
    assert_eq!((records, gaps), ((6..=8).collect(), Vec::new()));
    let (records, gaps, _) = piped(&lines(9..=9), Some(&kept));
    let since = "2026-11-23T18:53:20.05Z".parse().ok();
    assert_eq!(
        (records, gaps),
        (vec![9], vec![Gap { since, serials: Some((6, 8)), why: GapReason::NotListening }])
    );
}

#[test]
fn a_daemon_that_ended_before_a_boot_had_told_all() {
    let boot = |serial: u32| record(serial).replace("audit(17954600", "audit(17999999");
    let end = "type=DAEMON_END msg=audit(1795460001.000:77): op=terminate auid=0 res=success\n";
    let (_, _, cut) = piped(&record(90_000), None);
    assert_eq!(piped(&boot(1), Some(&cut)).1.len(), 1);
    let (_, _, whole) = piped(&format!("{}{end}", record(90_000)), None);
    assert_eq!(piped(&boot(1), Some(&whole)).1, []);
    // Whatever it said, the same boot tells by its numbers.
    assert_eq!(piped(&record(90_005), Some(&whole)).1.len(), 1);
}

#[test]
fn what_the_kernel_sends_is_read_like_lines_and_an_overrun_is_a_gap() {
    let take = |messages: &mut Messages, numbers: &[u32]| {
        let mut told = Told::default();
        for &number in numbers {
            let line = record(number);
            let text = line.strip_prefix("type=VIRT_CONTROL msg=").unwrap();
            let text = text.split_once('\x1d').unwrap().0;
            messages.take(2500, format!("{text}\n\0").as_bytes(), &mut told);
        }
        let is_gap = |entry: &Entry| match &entry.content {
            Content::Gap(gap) => Err((gap.serials, gap.why)),
            _ => Ok(entry.serial.unwrap()),
        };
        told.entries.iter().map(is_gap).collect::<Vec<_>>()
    };
    let mut messages = Messages::new(about(), "kernel".into(), None, false);
    assert_eq!(take(&mut messages, &[5, 9]), [Ok(5), Ok(9)], "others are not given");
    messages.overrun();
    assert_eq!(take(&mut messages, &[20]), [Err((Some((10, 19)), GapReason::Overrun)), Ok(20)]);
    let left = messages.checkpoint();
    let mut messages = Messages::new(about(), "kernel".into(), Some(&left), false);
    assert_eq!(take(&mut messages, &[25]), [Err((Some((21, 24)), GapReason::NotListening)), Ok(25)]);
    let mut messages = Messages::new(about(), "kernel".into(), Some(&left), true);
    assert_eq!(take(&mut messages, &[20, 25]), [Ok(25)], "caught up by another source");
}

/// Cuts a file to half its bytes: its packer was ended, or its disk was full.
fn halve(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn a_damaged_rotation_is_read_as_far_as_it_goes_and_the_rest_is_a_gap() {
    let mut log = Log::new(5);
    log.write(6000);
    log.rotate(true);
    log.write(30);
    log.rotate(true);
    log.write(30);
    halve(&log.dir.path().join("audit.log.2.gz"));
    let mut follower = Follower::open(&log.path(), about(), Begin::Rotations, None).unwrap();
    let mut told = Told { more: true, ..Told::default() };
    while told.more {
        follower.look(&mut told).unwrap();
    }
    let of = |entry: &Entry| match &entry.content {
        Content::Gap(gap) => Err(gap.clone()),
        _ => Ok(entry.serial.unwrap()),
    };
    let all: Vec<_> = told.entries.iter().map(of).collect();
    let last = all.iter().map_while(|one| one.as_ref().ok()).last().copied().unwrap();
    assert!((300..5900).contains(&last), "{last}");
    let at = all.iter().position(Result::is_err).unwrap();
    assert_eq!(all[at + 1..], self::told(6001..=6060).into_iter().map(Ok).collect::<Vec<_>>());
    let Err(Gap { serials: Some((first, 6000)), why: GapReason::Damaged, .. }) = all[at] else {
        panic!("{:?}", all[at])
    };
    assert!((last + 1..last + 4).contains(&first), "{first}");
    assert_eq!(told.located.len(), 1);
    assert!(told.located[0].source.ends_with("audit.log.2.gz"), "{:?}", told.located);
}

#[test]
fn a_damaged_rotation_hides_no_place_that_is_elsewhere() {
    const JUNK: [&[u8]; 3] = [b"\x1F\x8B\x08\x00junk", b"\x28\xB5\x2F\xFDjunk", b"\xFD7zXZ\x00junk"];
    let (mut log, kept) = left(5);
    log.rotate(false);
    log.write(30);
    for (number, junk) in (2..).zip(JUNK) {
        fs::write(log.dir.path().join(format!("audit.log.{number}.gz")), junk).unwrap();
    }
    // Restored from a copy: it has another inode.
    let restored = fs::read(log.rotation(1)).unwrap();
    fs::write(log.rotation(5), restored).unwrap();
    fs::rename(log.rotation(5), log.rotation(1)).unwrap();
    assert_eq!(resumed(&log, &kept), (told(31..=60), Vec::new()));
    // It is gone, and nobody knows what the damaged ones had.
    fs::remove_file(log.rotation(1)).unwrap();
    let mut follower =
        Follower::open(&log.path(), about(), Begin::Rotations, Some(&kept.parse().unwrap())).unwrap();
    let mut heard = Told::default();
    follower.look(&mut heard).unwrap();
    assert_eq!((heard.unreadable, heard.lines), (3, 30));
    follower.look(&mut heard).unwrap();
    assert_eq!((heard.unreadable, heard.lines), (3, 30), "told once");
}

#[test]
fn what_is_no_file_is_no_rotation() {
    let (mut log, kept) = left(5);
    fs::create_dir(log.rotation(3)).unwrap();
    std::os::unix::fs::symlink("/nowhere", log.rotation(2)).unwrap();
    log.write(30);
    assert_eq!(resumed(&log, &kept), (told(31..=60), Vec::new()));
}

#[test]
fn a_clock_that_was_set_back_hides_nothing_that_comes() {
    // What was told last is of a time that has not come yet.
    let ahead = |serial: u32| record(serial).replace("audit(17954600", "audit(39954600");
    let (records, _, kept) = piped(&ahead(5), None);
    assert_eq!(records, [5]);
    let (records, gaps, _) = piped(&(6..=9).map(record).collect::<String>(), Some(&kept));
    assert_eq!((records, gaps), ((6..=9).collect(), Vec::new()));
    let mut messages = Messages::new(about(), "kernel".into(), Some(&kept.parse().unwrap()), true);
    let mut told = Told::default();
    messages.take(2500, record(6).split_once("msg=").unwrap().1.as_bytes(), &mut told);
    assert_eq!(told.entries.len(), 1);
    // Of a log the file where it was left is gone.
    let mut log = Log::new(1);
    log.file.write_all(ahead(30).as_bytes()).unwrap();
    let mut hearer = Hearer::new(&log.path(), Begin::Rotations);
    hearer.look();
    hearer.commit();
    log.rotate(false);
    log.rotate(false);
    log.serial = 30;
    log.write(30);
    assert_eq!(resumed(&log, &hearer.kept), (self::told(31..=60), Vec::new()));
}

#[test]
fn a_log_may_be_named_without_its_directory() {
    // Tests run in the directory of their package.
    let mut follower = Follower::open(Path::new("Cargo.toml"), about(), Begin::Log, None).unwrap();
    let mut told = Told::default();
    follower.look(&mut told).unwrap();
    assert_eq!(told.bytes, fs::metadata("Cargo.toml").unwrap().len());
}

#[test]
fn a_log_behind_a_link_is_followed_across_its_rotations() {
    let mut log = Log::new(2);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("audit.log");
    std::os::unix::fs::symlink(log.path(), &link).unwrap();
    let mut follower = Follower::open(&link, about(), Begin::Log, None).unwrap();
    log.write(3);
    let mut told = Told::default();
    follower.look(&mut told).unwrap();
    log.rotate(false);
    log.write(3);
    let mut polled = [PollFd::from_borrowed_fd(follower.awaited().unwrap(), PollFlags::IN)];
    let is_told = rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap() > 0;
    assert!(is_told || follower.look_within().is_some(), "nobody would look");
    follower.look(&mut told).unwrap();
    assert_eq!((told.lines, told.entries.len()), (6, 2), "{:?}", told.entries);
}
