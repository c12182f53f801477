use rustix::thread::{CapabilitySet, UnshareFlags, unshare_unsafe};
use taptrail_kernel::audit::{Audit, AuditError, LogProof, NotLogged, VIRT_CONTROL, VIRT_RESOURCE};

use crate::machine::{Machine, drop_capabilities, in_child, may_enable, on_thread};
use crate::text;

// Shows 3.3.
#[test]
fn auditing_that_is_off_is_named_at_once() {
    let _machine = Machine::with_auditing(false);
    let mut audit = Audit::open().unwrap();
    let outcomes = audit.log_all(&[(VIRT_RESOURCE, text("a")), (VIRT_CONTROL, text("b"))]);
    assert!(matches!(outcomes[..], [Err(NotLogged::Disabled), Err(NotLogged::Disabled)]), "{outcomes:?}");
    assert!(!audit.status().unwrap().enabled);
}

// Shows 3.4.
#[test]
fn a_missing_capability_is_named() {
    on_thread(|| {
        drop_capabilities(CapabilitySet::AUDIT_WRITE | CapabilitySet::AUDIT_CONTROL);
        let mut audit = Audit::open().unwrap();
        let outcome = audit.log(VIRT_RESOURCE, &text("no capability"));
        assert!(matches!(outcome, Err(NotLogged::NoCapability)), "{outcome:?}");
        assert!(matches!(audit.status(), Err(AuditError::StatusRefused)));
    });
}

// Shows 3.5.
#[test]
fn a_user_namespace_is_named() {
    let said = in_child(|| {
        // SAFETY: no file table is unshared, and the child has no other thread.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWUSER) } {
            return format!("unshare: {error}");
        }
        match Audit::open() {
            Ok(mut audit) => format!("{:?}", audit.log(VIRT_RESOURCE, &text("user namespace"))),
            Err(error) => format!("open: {error}"),
        }
    });
    assert_eq!(said, "Err(UserNamespace)");
}

#[test]
fn a_pid_namespace_hides_the_status_but_not_the_log() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    let said = in_child(|| {
        // SAFETY: as above. The child's own child is in the new namespace.
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWPID) } {
            return format!("unshare: {error}");
        }
        in_child(|| {
            let mut audit = Audit::open().unwrap();
            let proof = audit.log(VIRT_RESOURCE, &text("pid namespace")).map(|logged| logged.proof);
            format!("{:?} {:?}", audit.status().map_err(|error| error.to_string()), proof)
        })
    });
    assert!(said.starts_with("Err(\"The audit status can't be read"), "{said}");
    assert!(said.ends_with("Ok(ReadBack)"), "{said}");
}

// Shows 3.6.
#[test]
fn a_record_that_a_rule_filters_is_named_and_others_pass() {
    if !may_enable() {
        return;
    }
    let mut machine = Machine::with_auditing(true);
    machine.add_rule(&["exclude,always", "-F", "msgtype=VIRT_RESOURCE"]);
    let mut audit = Audit::open().unwrap();
    let records = [(VIRT_RESOURCE, text("filtered")), (VIRT_CONTROL, text("passes"))];

    let outcomes = audit.log_all(&records);
    assert!(matches!(outcomes[0], Err(NotLogged::Filtered { kind: VIRT_RESOURCE })), "{outcomes:?}");
    assert_eq!(outcomes[1].as_ref().unwrap().proof, LogProof::ReadBack);

    let outcomes = audit.log_all(&records);
    assert!(matches!(outcomes[0], Err(NotLogged::Filtered { .. })), "{outcomes:?}");

    machine.remove_rules();
    let outcomes = audit.log_all(&records);
    assert_eq!(outcomes[0].as_ref().unwrap().proof, LogProof::ReadBack);
}

#[test]
fn a_record_that_never_shows_is_unseen_when_the_cause_cannot_be_told() {
    if !may_enable() {
        return;
    }
    let mut machine = Machine::with_auditing(true);
    machine.add_rule(&["user,never", "-F", "msgtype=VIRT_RESOURCE"]);
    on_thread(|| {
        drop_capabilities(CapabilitySet::AUDIT_CONTROL);
        let outcome = Audit::open().unwrap().log(VIRT_RESOURCE, &text("unseen"));
        assert!(matches!(outcome, Err(NotLogged::Unseen { kind: VIRT_RESOURCE })), "{outcome:?}");
    });
}

// Shows 3.7.
#[test]
fn records_that_the_kernel_loses_are_named() {
    if !may_enable() {
        return;
    }
    let machine = Machine::with_auditing(true);
    machine.set_rate_limit(1);
    let records: Vec<_> = (0..8).map(|n| (VIRT_RESOURCE, text(&format!("rate {n}")))).collect();
    for mut audit in [Audit::open().unwrap(), Audit::with_readlog(None).unwrap()] {
        let outcomes = audit.log_all(&records);
        let lost = outcomes.iter().filter(|o| matches!(o, Err(NotLogged::Backlog { lost: 6.. })));
        assert!(lost.count() >= 6, "{outcomes:?}");
    }
}
