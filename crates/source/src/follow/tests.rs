//! Real files that are rotated and read at random moments.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec};
use taptrail_trail::{Content, Gap, GapReason};

use super::*;

fn defaults() -> LineDefaults {
    LineDefaults { host: "h1".into(), zone: TimeZone::UTC }
}

/// A guest's record with this serial number.
fn record(serial: u32) -> String {
    let stamp = stamp(serial);
    format!(
        "type=VIRT_CONTROL msg=audit({stamp}): pid=265 uid=0 auid=4294967295 ses=4294967295 msg='virt=kvm op=start \
         reason=booted vm=\"web1\" uuid=f3607ac8-f517-4952-b61c-b19b40f99661 vm-pid={serial} exe=\"/usr/sbin/libvirtd\" \
         hostname=? addr=? terminal=? res=success'\x1dUID=\"root\" AUID=\"unset\"\n"
    )
}

/// A record that is not about a guest.
fn noise(serial: u32) -> String {
    format!("type=USER_ACCT msg=audit({}): pid=1 uid=0 msg='op=x res=success'\n", stamp(serial))
}

/// Time and serial number: a hundred numbers per second.
fn stamp(serial: u32) -> String {
    format!("{}.{:03}:{serial}", 1_795_460_000 + serial / 100, serial % 100 * 10)
}

/// A log with its writer, which also rotates it.
struct Log {
    dir: tempfile::TempDir,
    file: File,
    serial: u32,
    /// Number of rotations kept.
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

    /// Writes lines; every third is a guest's record.
    fn write(&mut self, lines: u32) {
        let text: String = (0..lines).map(|_| self.next()).collect();
        self.file.write_all(text.as_bytes()).unwrap();
    }

    fn next(&mut self) -> String {
        self.serial += 1;
        if self.serial.is_multiple_of(3) { record(self.serial) } else { noise(self.serial) }
    }

    /// Renames each rotation to the next one. `pack`: compresses those from the second on.
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

    /// Rotates like auditd and like logrotate's `create`.
    fn rotate(&mut self, pack: bool) {
        self.shift(pack);
        fs::rename(self.path(), self.rotation(1)).unwrap();
        self.file = File::create(self.path()).unwrap();
    }

    /// The same, but the writer appends some lines to the old file before it opens the new one.
    fn rotate_late(&mut self, lines: u32) {
        self.shift(false);
        fs::rename(self.path(), self.rotation(1)).unwrap();
        let new = File::create(self.path()).unwrap();
        self.write(lines);
        self.file = new;
    }

    /// Rotates like logrotate's `copytruncate`.
    fn copy_and_cut(&mut self) {
        self.shift(false);
        let _ = fs::remove_file(self.rotation(1));
        fs::copy(self.path(), self.rotation(1)).unwrap();
        self.file = OpenOptions::new().append(true).open(self.path()).unwrap();
        self.file.set_len(0).unwrap();
    }
}

/// A follower with a simulated store for its entries and checkpoint.
struct TestReader {
    follower: Follower,
    /// Entries since the last commit, and all before.
    uncommitted: Vec<Entry>,
    committed: Vec<Entry>,
    saved: String,
}

impl TestReader {
    fn new(path: &Path, begin: StartPosition) -> Self {
        let follower = Follower::open(path, defaults(), begin, None).unwrap();
        let saved = follower.checkpoint().to_string();
        Self { follower, uncommitted: Vec::new(), committed: Vec::new(), saved }
    }

    fn poll(&mut self) {
        loop {
            let mut batch = PollBatch::default();
            self.follower.poll(&mut batch).unwrap();
            assert_eq!((batch.unreadable, batch.located.len()), (0, 0), "{:?}", batch.located);
            self.uncommitted.append(&mut batch.entries);
            if !batch.more {
                break;
            }
        }
        assert_eq!(self.follower.backlog_bytes(), 0);
    }

    fn commit(&mut self) {
        self.committed.append(&mut self.uncommitted);
        self.saved = self.follower.checkpoint().to_string();
    }

    /// Simulates a crash: entries since the last commit are lost.
    fn restart(&mut self) {
        self.uncommitted.clear();
        let saved = self.saved.parse().unwrap();
        let log = self.follower.log().to_owned();
        self.follower = Follower::open(&log, defaults(), StartPosition::Rotations, Some(&saved)).unwrap();
    }

    /// The serial numbers of the committed records, and the gaps.
    fn numbers(&self) -> (Vec<u32>, Vec<Gap>) {
        let (mut records, mut gaps) = (Vec::new(), Vec::new());
        for entry in &self.committed {
            match &entry.content {
                Content::Gap(gap) => gaps.push(gap.clone()),
                // auditd numbers its own records with its own counter.
                _ => records.extend(entry.serial),
            }
        }
        (records, gaps)
    }
}

/// Every third number up to `last`.
fn all(last: u32) -> Vec<u32> {
    (1..=last).filter(|number| number.is_multiple_of(3)).collect()
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(u32),
    /// Writes a line in two parts, with a poll between them.
    Torn,
    Rotate,
    RotateAndPack,
    RotateLate(u32),
    CopyAndCut,
    Poll,
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
        4 => Just(Step::Poll),
        3 => Just(Step::Commit),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..60)
}

/// Executes the steps and reads to the end.
fn play(log: &mut Log, steps: &[Step]) -> TestReader {
    let mut reader = TestReader::new(&log.path(), StartPosition::Rotations);
    for step in steps {
        match *step {
            Step::Write(lines) => log.write(lines),
            Step::Torn => {
                let line = log.next();
                let (first, second) = line.as_bytes().split_at(line.len() / 2);
                log.file.write_all(first).unwrap();
                reader.poll();
                log.file.write_all(second).unwrap();
            }
            Step::Rotate => log.rotate(false),
            Step::RotateAndPack => log.rotate(true),
            Step::RotateLate(lines) => log.rotate_late(lines),
            Step::CopyAndCut => log.copy_and_cut(),
            Step::Poll => reader.poll(),
            Step::Commit => {
                reader.poll();
                reader.commit();
            }
            Step::Crash => reader.restart(),
        }
    }
    reader.poll();
    reader.commit();
    reader
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    // Shows 13.20.
    #[test]
    fn every_line_is_read_once_and_in_order_however_the_log_is_rotated(steps in steps()) {
        let mut log = Log::new(100);
        let steps = [&[Step::Write(1), Step::Commit], &steps[..]].concat();
        let reader = play(&mut log, &steps);
        prop_assert_eq!(reader.numbers(), (all(log.serial), Vec::new()));
    }

    // Shows 13.21.
    #[test]
    fn lines_rotated_away_unread_are_reported_missing_and_no_others(steps in steps(), keep in 0..3_u32) {
        let mut log = Log::new(keep);
        // What was gone before the first poll can't be known.
        let steps = [&[Step::Write(1), Step::Commit], &steps[..]].concat();
        let mut reader = play(&mut log, &steps);
        // Missing numbers show by those that follow.
        log.write(300);
        reader.poll();
        reader.commit();
        let (records, gaps) = reader.numbers();
        let missing = |number: &u32| gaps.iter().any(|gap| {
            let (first, last) = gap.serials.unwrap();
            (first..=last).contains(number)
        });
        let expected: Vec<u32> = all(log.serial).into_iter().filter(|number| !missing(number)).collect();
        prop_assert_eq!(&records, &expected, "{:?}", &gaps);
        let known: Vec<_> = gaps.iter().filter_map(|gap| gap.serials).collect();
        prop_assert!(known.is_sorted_by(|one, next| one.1 < next.0), "{:?}", &gaps);
    }
}

/// What a follower reads that continues from checkpoint `saved`.
fn resumed(log: &Log, saved: &str) -> (Vec<u32>, Vec<Gap>) {
    let mut reader = TestReader::new(&log.path(), StartPosition::End);
    reader.saved = saved.to_owned();
    reader.restart();
    reader.poll();
    reader.commit();
    reader.numbers()
}

fn recorded(numbers: RangeInclusive<u32>) -> Vec<u32> {
    numbers.filter(|number| number.is_multiple_of(3)).collect()
}

/// A log of 30 lines that are read, and the checkpoint after them.
fn read_log(keep: u32) -> (Log, String) {
    let mut log = Log::new(keep);
    log.write(30);
    let mut reader = TestReader::new(&log.path(), StartPosition::Rotations);
    reader.poll();
    reader.commit();
    (log, reader.saved)
}

// Shows 13.20.
#[test]
fn two_rotations_between_two_polls_are_read_in_order() {
    let mut log = Log::new(5);
    let mut reader = TestReader::new(&log.path(), StartPosition::Rotations);
    for _ in 0..3 {
        log.write(100);
        log.rotate(false);
    }
    log.write(10);
    reader.poll();
    reader.commit();
    assert_eq!(reader.numbers(), (all(310), Vec::new()));
    let places: Vec<_> = reader.committed.iter().map(|entry| (&*entry.source, entry.line)).collect();
    let of = |name: &str| log.dir.path().join(name).display().to_string();
    // The first file keeps the name under which it was opened.
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
    let mut reader = TestReader::new(&log.path(), StartPosition::Rotations);
    log.file.write_all((record(1) + &switch(2, 0, 1)).as_bytes()).unwrap();
    reader.poll();
    log.file.write_all((switch(3, 1, 0) + &record(4)).as_bytes()).unwrap();
    reader.poll();
    reader.commit();
    let since = "2026-11-23T18:53:20.02Z".parse().ok();
    let off = Gap { since, serials: None, why: GapReason::AuditingOff };
    assert_eq!(reader.numbers(), (vec![1, 4], vec![off]));
}

#[test]
fn where_to_begin_is_a_choice() {
    let mut log = Log::new(5);
    log.write(30);
    log.rotate(false);
    log.write(30);
    for (begin, first) in [(StartPosition::Rotations, 1), (StartPosition::Log, 31), (StartPosition::End, 61)]
    {
        let mut reader = TestReader::new(&log.path(), begin);
        log.write(30);
        reader.poll();
        reader.commit();
        let (records, gaps) = reader.numbers();
        assert_eq!((records, gaps), (recorded(first..=log.serial), Vec::new()), "{begin:?}");
        // Line numbers are those of the file.
        assert_eq!(reader.committed.last().unwrap().line, u64::from(log.serial) - 30);
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
    let mut reader = TestReader::new(&path, StartPosition::End);
    reader.poll();
    fs::write(&path, record(3)).unwrap();
    reader.poll();
    reader.commit();
    assert_eq!(reader.numbers(), (vec![3], Vec::new()));
    let none = Follower::open(&dir.path().join("no/audit.log"), defaults(), StartPosition::End, None);
    assert!(none.is_err_and(|error| error.to_string().contains("Directory")));
}

// Shows 13.20.
#[test]
fn lines_written_between_two_runs_are_read_from_the_rotations() {
    for pack in [false, true] {
        let (mut log, saved) = read_log(5);
        log.write(5);
        for _ in 0..3 {
            log.rotate(pack);
            log.write(20);
        }
        assert_eq!(resumed(&log, &saved), (recorded(31..=log.serial), Vec::new()), "{pack}");
    }
}

// Shows 13.22.
#[test]
fn a_file_with_the_inode_of_another_is_not_taken_for_it() {
    let (mut log, saved) = read_log(0);
    // The same file, truncated, with more bytes than before written to it.
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
    assert_eq!(resumed(&log, &saved), (recorded(51..=90), gap((31, 50))));
    // Nothing is missing if the next number follows directly.
    let (mut log, saved) = read_log(0);
    log.rotate(false);
    log.write(9);
    assert_eq!(resumed(&log, &saved), (recorded(31..=39), Vec::new()));
}

#[test]
fn a_log_that_restarts_after_a_boot_has_a_gap_of_unknown_size() {
    let (mut log, saved) = read_log(0);
    log.serial = 900_000;
    log.rotate(false);
    log.write(30);
    let mut reader = TestReader::new(&log.path(), StartPosition::End);
    reader.saved = saved;
    reader.restart();
    reader.poll();
    reader.commit();
    let saved = reader.saved.clone();
    // The clock goes on, the numbers begin at 1.
    log.rotate(false);
    log.rotate(false);
    let anew = record(3).replace("audit(17954600", "audit(17999999");
    log.file.write_all(anew.as_bytes()).unwrap();
    let (records, gaps) = resumed(&log, &saved);
    assert_eq!(records, [3]);
    let gaps: Vec<_> = gaps.iter().map(|gap| (gap.serials, gap.why)).collect();
    // The range not reported yet, and a gap of unknown size.
    assert_eq!(gaps, [(Some((31, 900_000)), GapReason::NeverWritten), (None, GapReason::PositionLost)]);
}

#[test]
fn a_copy_elsewhere_and_a_log_restored_from_it_are_known_by_their_lines() {
    let (mut log, saved) = read_log(5);
    // The same lines after other bytes.
    let mut copy = b"a comment\n".to_vec();
    File::open(log.path()).unwrap().read_to_end(&mut copy).unwrap();
    fs::remove_file(log.path()).unwrap();
    fs::write(log.path(), copy).unwrap();
    log.file = OpenOptions::new().append(true).open(log.path()).unwrap();
    log.write(6);
    assert_eq!(resumed(&log, &saved), (recorded(31..=36), Vec::new()));
}

// Shows 13.21.
#[test]
fn serial_numbers_that_a_log_lacks_are_reported_where_they_are_missing() {
    let mut log = Log::new(1);
    log.write(30);
    log.serial += 5;
    log.write(300);
    let mut reader = TestReader::new(&log.path(), StartPosition::Rotations);
    reader.poll();
    reader.commit();
    let (records, gaps) = reader.numbers();
    assert_eq!(records.len(), recorded(1..=30).len() + recorded(36..=335).len());
    assert_eq!(gaps, [Gap { since: None, serials: Some((31, 35)), why: GapReason::NeverWritten }]);
}

#[test]
fn a_range_missing_at_the_checkpoint_is_reported_later() {
    let mut log = Log::new(1);
    log.write(30);
    log.serial += 5;
    log.write(3);
    let mut reader = TestReader::new(&log.path(), StartPosition::Rotations);
    reader.poll();
    reader.commit();
    assert_eq!(reader.numbers().1, []);
    reader.restart();
    log.write(300);
    reader.poll();
    reader.commit();
    assert_eq!(reader.numbers().1.iter().map(|gap| gap.serials).collect::<Vec<_>>(), [Some((31, 35))]);
}

// Shows 13.25.
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
    let mut whole = PollBatch::default();
    fs::write(&path, &all).unwrap();
    Follower::open(&path, defaults(), StartPosition::Log, None).unwrap().poll(&mut whole).unwrap();
    assert!(opens(&whole.entries) > 0);
    // Rotated between the records.
    fs::write(&path, before).unwrap();
    let mut follower = Follower::open(&path, defaults(), StartPosition::Log, None).unwrap();
    let mut batch = PollBatch::default();
    follower.poll(&mut batch).unwrap();
    fs::rename(&path, dir.path().join("audit.log.1")).unwrap();
    fs::write(&path, after).unwrap();
    follower.poll(&mut batch).unwrap();
    assert_eq!(opens(&batch.entries), opens(&whole.entries));
    // Restarted between the records, in one file.
    fs::write(&path, before).unwrap();
    let mut follower = Follower::open(&path, defaults(), StartPosition::Log, None).unwrap();
    let mut batch = PollBatch::default();
    follower.poll(&mut batch).unwrap();
    File::options().append(true).open(&path).unwrap().write_all(after).unwrap();
    let checkpoint = follower.checkpoint();
    let mut follower = Follower::open(&path, defaults(), StartPosition::Log, Some(&checkpoint)).unwrap();
    follower.poll(&mut batch).unwrap();
    assert_eq!(opens(&batch.entries), opens(&whole.entries));
    assert_eq!(batch.entries.len(), whole.entries.len());
}

#[test]
fn a_line_too_long_is_located_and_what_follows_is_read() {
    let mut log = Log::new(2);
    let mut follower = Follower::open(&log.path(), defaults(), StartPosition::Log, None).unwrap();
    let mut batch = PollBatch::default();
    log.write(3);
    for _ in 0..3 {
        log.file.write_all(&[b'x'; 200_000]).unwrap();
        follower.poll(&mut batch).unwrap();
    }
    assert_eq!((batch.unreadable, batch.entries.len()), (0, 1));
    log.file.write_all(b"\n").unwrap();
    log.write(3);
    follower.poll(&mut batch).unwrap();
    assert_eq!((batch.unreadable, batch.entries.len(), batch.lines), (1, 2, 7));
    assert_eq!((batch.located[0].line, batch.entries[1].line), (4, 7));
    let checkpoint = follower.checkpoint();
    log.write(3);
    let mut again = PollBatch::default();
    Follower::open(&log.path(), defaults(), StartPosition::Log, Some(&checkpoint))
        .unwrap()
        .poll(&mut again)
        .unwrap();
    assert_eq!((again.unreadable, again.entries.len()), (0, 1));
}

#[test]
fn growth_and_rotation_make_the_descriptor_readable() {
    let mut log = Log::new(2);
    let mut follower = Follower::open(&log.path(), defaults(), StartPosition::Log, None).unwrap();
    assert_eq!(follower.poll_interval(), None);
    let is_readable = |follower: &Follower| {
        let mut polled = [PollFd::from_borrowed_fd(follower.poll_fd().unwrap(), PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap() > 0
    };
    let poll = |follower: &mut Follower| {
        let mut batch = PollBatch::default();
        follower.poll(&mut batch).unwrap();
        batch.lines
    };
    poll(&mut follower);
    assert!(!is_readable(&follower), "nothing happened");
    log.write(1);
    assert!(is_readable(&follower));
    assert_eq!(poll(&mut follower), 1);
    assert!(!is_readable(&follower), "everything is read");
    log.rotate(false);
    assert!(is_readable(&follower), "a new name");
    assert_eq!(poll(&mut follower), 0);
    log.write(1);
    assert!(is_readable(&follower), "in the new file, while the old one is still being read");
    assert_eq!(poll(&mut follower), 1);
    log.write(1);
    assert!(is_readable(&follower), "in the new file");
    poll(&mut follower);
    log.copy_and_cut();
    assert!(is_readable(&follower), "truncated");
}

/// Reads lines from a pipe, from after this checkpoint.
fn piped(text: &str, saved: Option<&str>) -> (Vec<u32>, Vec<Gap>, String) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let saved = saved.map(|saved| saved.parse().unwrap());
    let mut piped = PipeSource::new(read, defaults(), "auditd".into(), saved.as_ref(), false);
    let mut batch = PollBatch::default();
    piped.poll(&mut batch).unwrap();
    assert!(!batch.ended, "an empty pipe does not block");
    File::from(write).write_all(text.as_bytes()).unwrap();
    while !batch.ended {
        piped.poll(&mut batch).unwrap();
    }
    assert!(piped.poll_fd().is_none());
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    for entry in batch.entries {
        match entry.content {
            Content::Gap(gap) => gaps.push(gap),
            // auditd numbers its own records with its own counter.
            _ => records.extend(entry.serial),
        }
    }
    (records, gaps, piped.checkpoint().to_string())
}

#[test]
fn a_pipe_gives_its_lines_and_its_end_and_a_pause_is_a_gap() {
    let lines = |numbers: RangeInclusive<u32>| numbers.map(record).collect::<String>();
    let (records, gaps, saved) = piped(&lines(1..=5), None);
    assert_eq!((records, gaps), ((1..=5).collect(), Vec::new()));
    // Repeated lines are not reported again, and the next one shows no gap.
    let (records, gaps, _) = piped(&lines(3..=8), Some(&saved));
    assert_eq!((records, gaps), ((6..=8).collect(), Vec::new()));
    let (records, gaps, _) = piped(&lines(9..=9), Some(&saved));
    let since = "2026-11-23T18:53:20.05Z".parse().ok();
    assert_eq!(
        (records, gaps),
        (vec![9], vec![Gap { since, serials: Some((6, 8)), why: GapReason::NotListening }])
    );
}

#[test]
fn an_auditd_that_ended_before_a_boot_lost_nothing() {
    let boot = |serial: u32| record(serial).replace("audit(17954600", "audit(17999999");
    let end = "type=DAEMON_END msg=audit(1795460001.000:77): op=terminate auid=0 res=success\n";
    let (_, _, cut) = piped(&record(90_000), None);
    assert_eq!(piped(&boot(1), Some(&cut)).1.len(), 1);
    let (_, _, whole) = piped(&format!("{}{end}", record(90_000)), None);
    assert_eq!(piped(&boot(1), Some(&whole)).1, []);
    // Within one boot the numbers decide, whether auditd ended or not.
    assert_eq!(piped(&record(90_005), Some(&whole)).1.len(), 1);
}

#[test]
fn what_the_kernel_sends_is_read_like_lines_and_an_overrun_is_a_gap() {
    let take = |messages: &mut BroadcastSource, numbers: &[u32]| {
        let mut batch = PollBatch::default();
        for &number in numbers {
            let line = record(number);
            let text = line.strip_prefix("type=VIRT_CONTROL msg=").unwrap();
            let text = text.split_once('\x1d').unwrap().0;
            messages.take(2500, format!("{text}\n\0").as_bytes(), &mut batch);
        }
        let is_gap = |entry: &Entry| match &entry.content {
            Content::Gap(gap) => Err((gap.serials, gap.why)),
            _ => Ok(entry.serial.unwrap()),
        };
        batch.entries.iter().map(is_gap).collect::<Vec<_>>()
    };
    let mut messages = BroadcastSource::new(defaults(), "kernel".into(), None, false);
    assert_eq!(take(&mut messages, &[5, 9]), [Ok(5), Ok(9)], "the caller leaves out other records");
    messages.overrun();
    assert_eq!(take(&mut messages, &[20]), [Err((Some((10, 19)), GapReason::Overrun)), Ok(20)]);
    let checkpoint = messages.checkpoint();
    let mut messages = BroadcastSource::new(defaults(), "kernel".into(), Some(&checkpoint), false);
    assert_eq!(take(&mut messages, &[25]), [Err((Some((21, 24)), GapReason::NotListening)), Ok(25)]);
    let mut messages = BroadcastSource::new(defaults(), "kernel".into(), Some(&checkpoint), true);
    assert_eq!(take(&mut messages, &[20, 25]), [Ok(25)], "caught up by another source");
}

/// Cuts a file to half its size, as if its compressor was killed or the disk was full.
fn halve(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

// Shows 13.38.
#[test]
fn a_damaged_rotation_is_read_as_far_as_it_goes_and_the_rest_is_a_gap() {
    let mut log = Log::new(5);
    log.write(6000);
    log.rotate(true);
    log.write(30);
    log.rotate(true);
    log.write(30);
    halve(&log.dir.path().join("audit.log.2.gz"));
    let mut follower = Follower::open(&log.path(), defaults(), StartPosition::Rotations, None).unwrap();
    let mut batch = PollBatch { more: true, ..PollBatch::default() };
    while batch.more {
        follower.poll(&mut batch).unwrap();
    }
    let of = |entry: &Entry| match &entry.content {
        Content::Gap(gap) => Err(gap.clone()),
        _ => Ok(entry.serial.unwrap()),
    };
    let all: Vec<_> = batch.entries.iter().map(of).collect();
    let last = all.iter().map_while(|one| one.as_ref().ok()).last().copied().unwrap();
    assert!((300..5900).contains(&last), "{last}");
    let at = all.iter().position(Result::is_err).unwrap();
    assert_eq!(all[at + 1..], recorded(6001..=6060).into_iter().map(Ok).collect::<Vec<_>>());
    let Err(Gap { serials: Some((first, 6000)), why: GapReason::Damaged, .. }) = all[at] else {
        panic!("{:?}", all[at])
    };
    assert!((last + 1..last + 4).contains(&first), "{first}");
    assert_eq!(batch.located.len(), 1);
    assert!(batch.located[0].source.ends_with("audit.log.2.gz"), "{:?}", batch.located);
}

// Shows 13.38.
#[test]
fn a_damaged_rotation_hides_no_place_that_is_elsewhere() {
    const JUNK: [&[u8]; 3] = [b"\x1F\x8B\x08\x00junk", b"\x28\xB5\x2F\xFDjunk", b"\xFD7zXZ\x00junk"];
    let (mut log, saved) = read_log(5);
    log.rotate(false);
    log.write(30);
    for (number, junk) in (2..).zip(JUNK) {
        fs::write(log.dir.path().join(format!("audit.log.{number}.gz")), junk).unwrap();
    }
    // Restored from a copy: it has another inode.
    let restored = fs::read(log.rotation(1)).unwrap();
    fs::write(log.rotation(5), restored).unwrap();
    fs::rename(log.rotation(5), log.rotation(1)).unwrap();
    assert_eq!(resumed(&log, &saved), (recorded(31..=60), Vec::new()));
    // It is gone, and the content of the damaged files is unknown.
    fs::remove_file(log.rotation(1)).unwrap();
    let mut follower =
        Follower::open(&log.path(), defaults(), StartPosition::Rotations, Some(&saved.parse().unwrap()))
            .unwrap();
    let mut batch = PollBatch::default();
    follower.poll(&mut batch).unwrap();
    assert_eq!((batch.unreadable, batch.lines), (3, 30));
    follower.poll(&mut batch).unwrap();
    assert_eq!((batch.unreadable, batch.lines), (3, 30), "reported once");
}

// Shows 13.38.
#[test]
fn only_regular_files_are_rotations() {
    let (mut log, saved) = read_log(5);
    fs::create_dir(log.rotation(3)).unwrap();
    std::os::unix::fs::symlink("/nowhere", log.rotation(2)).unwrap();
    log.write(30);
    assert_eq!(resumed(&log, &saved), (recorded(31..=60), Vec::new()));
}

// Shows 13.39.
#[test]
fn a_clock_that_was_set_back_hides_nothing_that_comes() {
    // The last reported line has a time in the future.
    let ahead = |serial: u32| record(serial).replace("audit(17954600", "audit(39954600");
    let (records, _, saved) = piped(&ahead(5), None);
    assert_eq!(records, [5]);
    let (records, gaps, _) = piped(&(6..=9).map(record).collect::<String>(), Some(&saved));
    assert_eq!((records, gaps), ((6..=9).collect(), Vec::new()));
    let mut messages = BroadcastSource::new(defaults(), "kernel".into(), Some(&saved.parse().unwrap()), true);
    let mut batch = PollBatch::default();
    messages.take(2500, record(6).split_once("msg=").unwrap().1.as_bytes(), &mut batch);
    assert_eq!(batch.entries.len(), 1);
    // The file of the checkpoint is gone.
    let mut log = Log::new(1);
    log.file.write_all(ahead(30).as_bytes()).unwrap();
    let mut reader = TestReader::new(&log.path(), StartPosition::Rotations);
    reader.poll();
    reader.commit();
    log.rotate(false);
    log.rotate(false);
    log.serial = 30;
    log.write(30);
    assert_eq!(resumed(&log, &reader.saved), (recorded(31..=60), Vec::new()));
}

// Shows 13.41.
#[test]
fn a_log_may_be_named_without_its_directory() {
    // Tests run in their package's directory.
    let mut follower = Follower::open(Path::new("Cargo.toml"), defaults(), StartPosition::Log, None).unwrap();
    let mut batch = PollBatch::default();
    follower.poll(&mut batch).unwrap();
    assert_eq!(batch.bytes, fs::metadata("Cargo.toml").unwrap().len());
}

// Shows 13.41.
#[test]
fn a_log_behind_a_link_is_followed_across_its_rotations() {
    let mut log = Log::new(2);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("audit.log");
    std::os::unix::fs::symlink(log.path(), &link).unwrap();
    let mut follower = Follower::open(&link, defaults(), StartPosition::Log, None).unwrap();
    log.write(3);
    let mut batch = PollBatch::default();
    follower.poll(&mut batch).unwrap();
    log.rotate(false);
    log.write(3);
    let mut polled = [PollFd::from_borrowed_fd(follower.poll_fd().unwrap(), PollFlags::IN)];
    let is_readable = rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap() > 0;
    assert!(is_readable || follower.poll_interval().is_some(), "nothing would trigger a poll");
    follower.poll(&mut batch).unwrap();
    assert_eq!((batch.lines, batch.entries.len()), (6, 2), "{:?}", batch.entries);
}
