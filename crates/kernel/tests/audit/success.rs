use rustix::thread::{CapabilitySet, UnshareFlags, unshare_unsafe};
use taptrail_kernel::audit::{Audit, LogProof, MAX_TEXT_BYTES, ReadLog, VIRT_CONTROL, VIRT_RESOURCE};

use crate::machine::{Machine, drop_capabilities, may_enable, on_thread, readlog_socket};
use crate::text;

// Shows 3.1.
#[test]
fn records_are_read_back_in_their_order_and_soon() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    let mut audit = Audit::open().unwrap();
    assert!(audit.reads_back());
    for round in 0..50 {
        let records: Vec<_> = [VIRT_RESOURCE, VIRT_RESOURCE, VIRT_CONTROL]
            .into_iter()
            .map(|kind| (kind, text(&format!("round {round}"))))
            .collect();
        let outcomes = audit.log_all(&records);
        let logged: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
        assert!(logged.iter().all(|logged| logged.proof == LogProof::ReadBack), "{logged:?}");
        assert!(logged.is_sorted_by_key(|logged| (logged.time, logged.serial)), "{logged:?}");
    }
}

#[test]
fn twins_are_told_apart_and_the_longest_text_comes_back_whole() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    let twin = text("twin");
    let mut long = text("long");
    long.push_str(&"x".repeat(MAX_TEXT_BYTES - long.len()));
    let mut audit = Audit::open().unwrap();
    let outcomes = audit.log_all(&[(VIRT_RESOURCE, &twin), (VIRT_RESOURCE, &twin), (VIRT_RESOURCE, &long)]);
    let serials: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().unwrap().serial.unwrap()).collect();
    assert!(serials.is_sorted_by(|a, b| a < b), "{serials:?}");
}

#[test]
fn more_records_than_one_datagram_holds_are_all_logged() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    let records: Vec<_> = (0..40).map(|n| (VIRT_RESOURCE, text(&format!("many {n}")))).collect();
    let outcomes = Audit::open().unwrap().log_all(&records);
    assert!(outcomes.iter().all(|o| o.as_ref().is_ok_and(|l| l.proof == LogProof::ReadBack)), "{outcomes:?}");
}

#[test]
fn records_are_read_back_from_another_network_namespace_too() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    on_thread(|| {
        // SAFETY: no file table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let mut audit = Audit::open().unwrap();
        let logged = audit.log(VIRT_RESOURCE, &text("netns")).unwrap();
        assert_eq!(logged.proof, LogProof::ReadBack);
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
    });
}

// Shows 3.1.
#[test]
fn counters_are_the_proof_where_nothing_can_be_read_back() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    let logged = Audit::with_readlog(None).unwrap().log(VIRT_RESOURCE, &text("counters")).unwrap();
    assert_eq!((logged.proof, logged.serial, logged.time), (LogProof::Counters, None, None));
    on_thread(|| {
        drop_capabilities(CapabilitySet::AUDIT_READ);
        let mut audit = Audit::open().unwrap();
        assert!(!audit.reads_back());
        assert_eq!(audit.log(VIRT_RESOURCE, &text("no read")).unwrap().proof, LogProof::Counters);
    });
}

// Shows 3.1.
#[test]
fn an_acknowledgement_alone_is_no_proof() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    on_thread(|| {
        drop_capabilities(CapabilitySet::AUDIT_READ | CapabilitySet::AUDIT_CONTROL);
        let logged = Audit::open().unwrap().log(VIRT_RESOURCE, &text("ack")).unwrap();
        assert_eq!(logged.proof, LogProof::AckOnly);
        assert!(!logged.proof.is_proven());
    });
}

#[test]
fn a_broadcast_that_cannot_be_heard_is_given_up_for_counters() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    // A member of the group in a network namespace that the kernel doesn't multicast to.
    let deaf = on_thread(|| {
        // SAFETY: no file table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        readlog_socket()
    });
    let mut audit = Audit::with_readlog(Some(ReadLog::with_socket(deaf, false))).unwrap();
    for _ in 0..3 {
        let logged = audit.log(VIRT_RESOURCE, &text("deaf")).unwrap();
        assert_eq!(logged.proof, LogProof::Counters);
    }
}

#[test]
fn a_record_that_comes_late_is_not_taken_for_a_filtered_one() {
    if !may_enable() {
        return;
    }
    let machine = Machine::with_auditing(true);
    let _daemon = machine.stuck_daemon();
    let mut audit = Audit::open().unwrap();
    let mut late = 0;
    for n in 0..12 {
        let logged = audit.log(VIRT_RESOURCE, &text(&format!("late {n}"))).unwrap();
        late += usize::from(logged.proof == LogProof::Counters);
    }
    assert!(late > 0, "the kernel did not wait for the daemon");
}
