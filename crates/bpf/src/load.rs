//! Loads the BPF program into the kernel, or returns why it can't be loaded.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use aya::maps::{Array, HashMap, RingBuf};
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use crate::Kernel;

/// `program/witness.bpf.c`, compiled: `make bpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../program/witness.bpf.o");

/// Where the kernel describes its own types and functions.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The program that lists descriptors.
pub(crate) const DESCRIPTORS: &str = "descriptors";

/// Why the BPF program can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No BTF.
    #[error(
        "this kernel does not describe its own types ({BTF}: {0}): BPF needs one with CONFIG_DEBUG_INFO_BTF, as Debian's are"
    )]
    NoBtf(String),
    /// The process lacks a right.
    #[error(
        "BPF needs {missing}, which this process does not have: run it as root, or add both to the unit's CapabilityBoundingSet="
    )]
    NoPermission {
        /// The capabilities.
        missing: &'static str,
    },
    /// The process has the rights, and the kernel refuses.
    #[error(
        "the kernel refuses BPF programs that trace it, in spite of CAP_BPF and CAP_PERFMON ({0}): a security module, lockdown=confidentiality or a seccomp filter forbids them, and has to allow them"
    )]
    Refused(String),
    /// Pids here are not the kernel's.
    #[error(
        "this process is in a pid namespace of its own, where pids are not the kernel's: run it on the host, outside of containers"
    )]
    PidNamespace,
    /// A function of the kernel is not there.
    #[error(
        "this kernel has no '{0}' to trace: it is newer or older than those that are known; please report it, with 'uname -r'"
    )]
    MissingSymbol(String),
    /// Functions can't be traced.
    #[error(
        "this kernel can't trace its function '{function}' ({reason}): BPF needs one with CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, as Debian's are"
    )]
    NoFunctionTracing {
        /// The function.
        function: String,
        /// The kernel's error.
        reason: String,
    },
    /// Anything else: a program that the verifier rejects, no memory.
    #[error("the kernel does not take the BPF program: {0}; please report it, with 'uname -r'")]
    Rejected(String),
}

/// An error with all its causes.
fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}

/// The system's error at the end of a chain of causes.
fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(error);
        }
        next = error.source();
    }
    None
}

/// The reason why a step other than attaching failed.
fn refusal(error: &(dyn Error + 'static)) -> LoadError {
    match errno(error) {
        Some(errno @ (Errno::PERM | Errno::ACCESS)) => LoadError::Refused(io::Error::from(errno).to_string()),
        _ => LoadError::Rejected(error_chain(error)),
    }
}

pub(crate) fn load() -> Result<Kernel, LoadError> {
    check_rights()?;
    let namespace = fs::read_link("/proc/self/ns/pid");
    if !namespace.is_ok_and(|namespace| namespace.as_os_str() == INITIAL_PID_NAMESPACE) {
        return Err(LoadError::PidNamespace);
    }
    let btf = read_btf(Path::new(BTF))?;
    let majors = fs::read_to_string("/proc/devices").unwrap_or_default();
    let (macvtap, ipvtap) = (major(&majors, "macvtap"), major(&majors, "ipvtap"));
    let mut programs = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("macvtap_major", &macvtap, true)
        .override_global("ipvtap_major", &ipvtap, true)
        .load(OBJECT)
        .map_err(|error| refusal(&error))?;
    // The last close first, so that files that are opened meanwhile always get their close event.
    attach(&mut programs, "released", "cdev_put", &btf)?;
    attach(&mut programs, "dropped", "__fput", &btf)?;
    for tracepoint in ["exited", "executed", "forked"].iter().zip(["exit", "exec", "fork"]) {
        attach(&mut programs, tracepoint.0, &format!("sched_process_{}", tracepoint.1), &btf)?;
    }
    match attach(&mut programs, "received_before", "__receive_fd", &btf) {
        Ok(()) => attach(&mut programs, "received_before_short", "receive_fd", &btf)?,
        Err(LoadError::MissingSymbol(_)) => attach(&mut programs, "received", "receive_fd", &btf)?,
        Err(error) => return Err(error),
    }
    attach(&mut programs, "opened", "chrdev_open", &btf)?;
    attach(&mut programs, DESCRIPTORS, "task_file", &btf)?;

    let map = |programs: &mut Ebpf, name| {
        programs.take_map(name).ok_or_else(|| LoadError::Rejected(format!("it has no map {name}")))
    };
    let events = RingBuf::try_from(map(&mut programs, "EVENTS")?).map_err(|error| refusal(&error))?;
    let lost = Array::try_from(map(&mut programs, "LOST")?).map_err(|error| refusal(&error))?;
    let open = HashMap::try_from(map(&mut programs, "OPEN")?).map_err(|error| refusal(&error))?;
    Ok(Kernel { programs, events, lost, open, unreadable: 0 })
}

/// Checks the capabilities first, because the kernel's errors without them are unspecific.
fn check_rights() -> Result<(), LoadError> {
    let effective = capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(());
    }
    let missing = match (effective.contains(CapabilitySet::BPF), effective.contains(CapabilitySet::PERFMON)) {
        (true, true) => return Ok(()),
        (false, true) => "CAP_BPF",
        (true, false) => "CAP_PERFMON",
        (false, false) => "CAP_BPF and CAP_PERFMON",
    };
    Err(LoadError::NoPermission { missing })
}

fn read_btf(path: &Path) -> Result<Btf, LoadError> {
    let bytes = fs::read(path).map_err(|error| LoadError::NoBtf(error.to_string()))?;
    Btf::parse(&bytes, Endianness::default()).map_err(|error| LoadError::NoBtf(error_chain(&error)))
}

/// The number of a driver of character devices in /proc/devices; 0 where there is none.
fn major(devices: &str, name: &str) -> u32 {
    let characters = devices.lines().take_while(|line| !line.starts_with("Block"));
    let number = |line: &str| {
        let (number, driver) = line.trim().split_once(' ')?;
        if driver == name { number.parse().ok() } else { None }
    };
    characters.filter_map(number).next().unwrap_or(0)
}

/// Attaches a program to a function or a tracepoint, or loads it for an iterator.
fn attach(programs: &mut Ebpf, program: &str, to: &str, btf: &Btf) -> Result<(), LoadError> {
    let Some(program) = programs.program_mut(program) else {
        return Err(LoadError::Rejected(format!("it has no program {program}")));
    };
    let traced = |error: ProgramError| LoadError::NoFunctionTracing {
        function: to.to_owned(),
        reason: error_chain(&error),
    };
    let loaded = match program {
        Program::FEntry(program) => program.load(to, btf),
        Program::FExit(program) => program.load(to, btf),
        Program::BtfTracePoint(program) => program.load(to, btf),
        Program::Iter(program) => program.load(to, btf),
        _ => return Err(LoadError::Rejected(format!("its program for {to} is of an unknown type"))),
    };
    loaded.map_err(|error| match error {
        ProgramError::Btf(_) => LoadError::MissingSymbol(to.to_owned()),
        error => refusal(&error),
    })?;
    match program {
        Program::FEntry(program) => program.attach().map(drop).map_err(traced),
        Program::FExit(program) => program.attach().map(drop).map_err(traced),
        Program::BtfTracePoint(program) => program.attach().map(drop).map_err(|error| refusal(&error)),
        // It runs when it is read.
        _ => Ok(()),
    }
}
