use compact_str::CompactString;

use crate::Device;

/// An open(2) of a raw network device as the kernel itself logged it: a `SYSCALL` record with the
/// `PATH` record of the same event, which audit rules ask for.
///
/// It tells what no guest manager's record does: a macvtap's true node and number, and the opens
/// that nobody admits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KernelOpen {
    /// The process that opened it.
    pub pid: u32,
    /// Its parent.
    pub ppid: Option<u32>,
    /// Its program.
    pub exe: CompactString,
    /// What was opened: the path as given to the system call, and the true device number.
    pub device: Device,
    /// The descriptor; none when the open failed.
    pub fd: Option<i32>,
    /// Why it failed (`errno(3)`).
    pub errno: Option<i32>,
}
