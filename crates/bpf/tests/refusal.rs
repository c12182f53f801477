//! Errors of loading the program.

#![allow(clippy::unwrap_used)]

use std::thread;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use taptrail_bpf::{Kernel, LoadError};

/// The error of `load` in a thread without these capabilities.
fn load_without(taken: CapabilitySet) -> LoadError {
    let load = move || {
        let own = capabilities(None).unwrap();
        let (permitted, effective) = (own.permitted - taken, own.effective - taken);
        set_capabilities(None, CapabilitySets { permitted, effective, inheritable: CapabilitySet::empty() })
            .unwrap();
        Kernel::load().unwrap_err()
    };
    thread::spawn(load).join().unwrap()
}

#[test]
fn the_error_names_the_missing_capabilities() {
    let all = CapabilitySet::SYS_ADMIN | CapabilitySet::BPF | CapabilitySet::PERFMON;
    let error = load_without(all);
    assert!(matches!(error, LoadError::NoPermission { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "BPF needs CAP_BPF and CAP_PERFMON, which this process does not have: run it as root, or add both \
         to the unit's CapabilityBoundingSet="
    );
}

/// Either the program is loaded and there are events, or the error has the reason.
#[test]
fn a_kernel_that_is_not_to_be_traced_says_so() {
    let error = match Kernel::load() {
        Ok(mut kernel) => {
            let device = std::fs::File::open("/dev/net/tun").unwrap();
            assert!(
                kernel
                    .poll()
                    .iter()
                    .any(|event| event.by.process.is_some_and(|process| process.pid == std::process::id()))
            );
            drop(device);
            return;
        }
        Err(error) => error,
    };
    let (text, known) =
        (error.to_string(), |text: &str, words: &[&str]| words.iter().all(|word| text.contains(word)));
    let right = match &error {
        LoadError::NoBtf(_) => known(&text, &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"]),
        LoadError::NoPermission { .. } => known(&text, &["CAP_", "run it as root"]),
        LoadError::Refused(_) => known(&text, &["Operation not permitted", "lockdown", "has to allow them"]),
        LoadError::PidNamespace => known(&text, &["run it on the host"]),
        LoadError::NoFunctionTracing { .. } => known(&text, &["CONFIG_FUNCTION_TRACER"]),
        // These are bugs of the program; the tests in virtual machines would find them.
        LoadError::MissingSymbol(_) | LoadError::Rejected(_) => false,
    };
    assert!(right, "{error:?}: {text}");
}
