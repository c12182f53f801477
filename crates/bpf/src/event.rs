//! Parses the BPF program's output: `struct event` and `struct held` of `program/witness.bpf.c`, in
//! native byte order.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use taptrail_kernel::proc::ProcessId;
use taptrail_record::{DeviceKind, Rdev};

/// The size of `struct event` in bytes.
pub(crate) const EVENT_SIZE: usize = 80;

/// The size of `struct held` in bytes.
pub(crate) const HELD_SIZE: usize = 40;

/// The id of an open file, from its open(2) to its last close, whichever processes have it
/// meanwhile. Unique while a [`crate::Kernel`] is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(NonZeroU64);

impl From<NonZeroU64> for FileId {
    fn from(number: NonZeroU64) -> Self {
        Self(number)
    }
}

impl FileId {
    /// The number: 1 for the first file.
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

/// A file of a raw network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct File {
    /// None for a file that was opened before the program was loaded, and that no call of
    /// [`crate::Kernel::descriptors`] has found: only in its close event.
    pub id: Option<FileId>,
    /// Tun, macvtap (also for ipvtap) or vhost-net.
    pub kind: DeviceKind,
    /// The device's number. All taps have that of `/dev/net/tun`.
    pub rdev: Rdev,
}

/// The process and thread that caused an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// None for a kernel thread, to which the last holder left the close. The pid is that of the
    /// initial pid namespace.
    pub process: Option<ProcessId>,
    /// The thread id.
    pub thread: u32,
    /// The thread's name, of at most 15 bytes, which the thread may have set to anything.
    pub name: String,
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelEventKind {
    /// open(2) of the device succeeded.
    Opened(File),
    /// The process received the file: by SCM_RIGHTS, pidfd_getfd(2) or a seccomp notification.
    Received {
        /// The file.
        file: File,
        /// The descriptor's number in the process.
        fd: u32,
    },
    /// The last reference is gone, and the driver has released the device. The event's process
    /// dropped the last reference.
    Closed {
        /// The file.
        file: File,
        /// When the last reference was dropped, in nanoseconds since boot. The driver's release,
        /// which follows, ended at the event's time.
        dropped: u64,
    },
    /// A process that has or had such a file forked a child, which has the same descriptors.
    Forked {
        /// The new process.
        child: u32,
    },
    /// A process that has or had such a file executed another program.
    Executed,
    /// A process that has or had such a file has exited, with all of its threads. Its descriptors
    /// are closed after that.
    Exited,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEvent {
    /// Its time in nanoseconds since boot, including suspends (CLOCK_BOOTTIME).
    pub since_boot: u64,
    /// The same time by the real-time clock, as that was set when the event was read.
    pub time: SystemTime,
    /// The process that caused it.
    pub by: Actor,
    /// Its kind, with the file or process.
    pub what: KernelEventKind,
}

/// A descriptor of such a file in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// The file.
    pub file: File,
    /// The process that has it.
    pub process: ProcessId,
    /// The thread whose descriptor table it is in: the main thread, or one with its own table.
    pub thread: u32,
    /// The descriptor's number in that table.
    pub fd: u32,
}

/// The values of the boot-time clock and the real-time clock at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    since_boot: u64,
    time: SystemTime,
}

impl Clock {
    pub(crate) fn now() -> Self {
        let up = clock_gettime(ClockId::Boottime);
        let up = Duration::new(up.tv_sec.try_into().unwrap_or(0), up.tv_nsec.try_into().unwrap_or(0));
        Self { since_boot: up.as_nanos().try_into().unwrap_or(u64::MAX), time: SystemTime::now() }
    }

    /// The real time of an event at `since_boot` nanoseconds after boot.
    fn time_of(self, since_boot: u64) -> SystemTime {
        let apart = Duration::from_nanos(since_boot.abs_diff(self.since_boot));
        let time = if since_boot > self.since_boot {
            self.time.checked_add(apart)
        } else {
            self.time.checked_sub(apart)
        };
        time.unwrap_or(self.time)
    }
}

/// The bytes of a C structure, from its first field on.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_ne_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.bytes().map(i32::from_ne_bytes)
    }
}

/// The file of an event; none if the event has no file.
fn file(id: u64, driver: u32, rdev: u32) -> Option<File> {
    let kind = match driver {
        1 => DeviceKind::Tun,
        2 => DeviceKind::Macvtap,
        3 => DeviceKind::VhostNet,
        4 => DeviceKind::VhostVdpa,
        _ => return None,
    };
    // The kernel's own form of a number: include/linux/kdev_t.h.
    let rdev = Rdev { major: rdev >> 20, minor: rdev & 0xF_FFFF };
    Some(File { id: NonZeroU64::new(id).map(FileId), kind, rdev })
}

/// A process; none of a pid 0.
fn process(pid: u32, started: u64) -> Option<ProcessId> {
    // As field 22 of /proc/PID/stat counts.
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().clamp(1, 1_000_000_000);
    (pid != 0).then_some(ProcessId { pid, start_time: started / tick })
}

impl KernelEvent {
    /// None for what this crate's program does not write.
    pub(crate) fn parse(bytes: &[u8; EVENT_SIZE], clock: Clock) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (since_boot, dropped, id, started) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        let (kind, driver, rdev, pid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let (thread, child, fd, _padding) = (fields.u32()?, fields.u32()?, fields.i32()?, fields.u32()?);
        let name: [u8; 16] = fields.bytes()?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let file = file(id, driver, rdev);
        let what = match kind {
            1 => KernelEventKind::Opened(file?),
            2 => KernelEventKind::Received { file: file?, fd: fd.try_into().ok()? },
            3 => KernelEventKind::Closed { file: file?, dropped },
            4 => KernelEventKind::Forked { child },
            5 => KernelEventKind::Executed,
            6 => KernelEventKind::Exited,
            _ => return None,
        };
        let name = String::from_utf8_lossy(name).into_owned();
        let by = Actor { process: process(pid, started), thread, name };
        Some(Self { since_boot, time: clock.time_of(since_boot), by, what })
    }
}

impl Held {
    /// None for what this crate's program does not write.
    pub(crate) fn parse(bytes: &[u8; HELD_SIZE]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (id, started, driver, rdev) = (fields.u64()?, fields.u64()?, fields.u32()?, fields.u32()?);
        let (pid, thread, fd) = (fields.u32()?, fields.u32()?, fields.u32()?);
        Some(Self { file: file(id, driver, rdev)?, process: process(pid, started)?, thread, fd })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event of this kind and driver, as C lays it out.
    fn event(kind: u32, driver: u32, fd: i32) -> [u8; EVENT_SIZE] {
        let mut bytes = Vec::new();
        let times: [u64; 4] = [7_000_000_000, 6_999_999_000, 42, 5_129_999_999];
        times.iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
        let numbers = [kind, driver, 10 << 20 | 200, 4711, 4712, 4720];
        numbers.iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
        bytes.extend(fd.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(*b"qemu-system-x86\0");
        bytes.try_into().unwrap()
    }

    fn parse(bytes: [u8; EVENT_SIZE]) -> Option<KernelEvent> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        KernelEvent::parse(&bytes, Clock { since_boot: 8_000_000_001, time })
    }

    #[test]
    fn an_event_is_read_field_by_field() {
        let file = File {
            id: NonZeroU64::new(42).map(FileId),
            kind: DeviceKind::Tun,
            rdev: Rdev { major: 10, minor: 200 },
        };
        let closed = parse(event(3, 1, 0)).unwrap();
        assert_eq!(closed.what, KernelEventKind::Closed { file, dropped: 6_999_999_000 });
        assert_eq!(closed.since_boot, 7_000_000_000);
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(998_999_999_999);
        assert_eq!(closed.time, time);
        let process = Some(ProcessId { pid: 4711, start_time: 512 });
        assert_eq!(closed.by, Actor { process, thread: 4712, name: "qemu-system-x86".to_owned() });
        assert_eq!(parse(event(1, 1, 0)).unwrap().what, KernelEventKind::Opened(file));
        assert_eq!(parse(event(2, 1, 9)).unwrap().what, KernelEventKind::Received { file, fd: 9 });
        assert_eq!(parse(event(4, 0, 0)).unwrap().what, KernelEventKind::Forked { child: 4720 });
        assert_eq!(parse(event(5, 0, 0)).unwrap().what, KernelEventKind::Executed);
        assert_eq!(parse(event(6, 0, 0)).unwrap().what, KernelEventKind::Exited);
    }

    #[test]
    fn what_the_program_does_not_write_is_no_event() {
        for (kind, driver, fd) in [(0, 1, 0), (7, 1, 0), (1, 0, 0), (3, 5, 0), (2, 1, -1)] {
            assert_eq!(parse(event(kind, driver, fd)), None, "{kind} {driver} {fd}");
        }
    }

    #[test]
    fn a_thread_of_the_kernels_is_no_process() {
        let mut bytes = event(3, 2, 0);
        bytes[44..48].fill(0);
        let event = parse(bytes).unwrap();
        assert_eq!((event.by.process, event.by.thread), (None, 4712));
    }
}
