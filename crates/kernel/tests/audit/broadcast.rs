use rustix::thread::CapabilitySet;
use taptrail_kernel::audit::{Audit, AuditError, Broadcast, BroadcastItem, VIRT_MACHINE_ID, VIRT_RESOURCE};

use crate::machine::{Machine, drop_capabilities, may_enable, on_thread};
use crate::text;

/// The waiting items of a broadcast: the texts of records, and `None` for an overrun.
fn said(broadcast: &mut Broadcast) -> Vec<Option<(u16, String)>> {
    let mut all = Vec::new();
    let more = broadcast.take(usize::MAX, |said| {
        all.push(match said {
            BroadcastItem::Record { kind, text } => Some((kind, String::from_utf8_lossy(text).into_owned())),
            BroadcastItem::Overrun => None,
        });
    });
    assert!(!more.unwrap(), "all is taken");
    all
}

// Shows 13.26.
#[test]
fn what_is_logged_about_guests_is_heard_and_nothing_else() {
    if !may_enable() {
        return;
    }
    let machine = Machine::with_auditing(true);
    let mut broadcast = Broadcast::open().unwrap();
    let (before, other, after) = (text("before"), text("other"), text("after"));
    let mut audit = Audit::open().unwrap();
    let kinds = [VIRT_RESOURCE, VIRT_MACHINE_ID, VIRT_RESOURCE];
    let logged = audit.log_all(&kinds.into_iter().zip([&before, &other, &after]).collect::<Vec<_>>());
    assert!(logged.iter().all(Result::is_ok), "{logged:?}");
    // A change of the configuration is an event of other types.
    machine.set_rate_limit(0);
    let heard: Vec<_> = said(&mut broadcast).into_iter().map(Option::unwrap).collect();
    let ours: Vec<_> = heard.iter().filter(|(_, text)| text.contains("op=test")).collect();
    assert_eq!(ours.len(), 2, "{heard:?}");
    for ((kind, line), text) in ours.into_iter().zip([before, after]) {
        assert_eq!(*kind, VIRT_RESOURCE);
        assert!(line.starts_with("audit(") && line.ends_with(&format!("msg='{text}'")), "{line}");
    }
    let kinds = |kind: &u16| [1127, 1300, 1302, 2500, 2501].contains(kind);
    assert!(heard.iter().all(|(kind, _)| kinds(kind)), "{heard:?}");
}

// Shows 13.26.
#[test]
fn records_that_nobody_takes_in_time_are_an_overrun_that_is_told() {
    if !may_enable() {
        return;
    }
    let _machine = Machine::with_auditing(true);
    let mut broadcast = Broadcast::with_receive_buffer(4096).unwrap();
    let records: Vec<_> = (0..64).map(|number| (VIRT_RESOURCE, text(&format!("many {number}")))).collect();
    assert!(Audit::open().unwrap().log_all(&records).iter().all(Result::is_ok));
    let heard = said(&mut broadcast);
    // First the records before the loss.
    let loss = heard.iter().position(Option::is_none).unwrap();
    // Other programs on this machine write records, too.
    let ours = |said: &Option<(u16, String)>| said.as_ref().is_some_and(|(_, text)| text.contains("many "));
    let before: Vec<_> = heard[..loss].iter().filter(|said| ours(said)).flatten().collect();
    assert!((1..64).contains(&before.len()), "{heard:?}");
    for ((_, said), (_, text)) in before.iter().zip(&records) {
        assert!(said.contains(text), "{said} is not {text}");
    }
    assert!(!heard[loss..].iter().any(ours), "{heard:?}");
    // Later records are received again.
    let last = text("last");
    assert!(Audit::open().unwrap().log(VIRT_RESOURCE, &last).is_ok());
    let heard = said(&mut broadcast);
    assert!(heard.iter().flatten().any(|(_, text)| text.contains(&last)), "{heard:?}");
}

#[test]
fn a_broadcast_that_can_not_be_heard_is_named() {
    on_thread(|| {
        drop_capabilities(CapabilitySet::AUDIT_READ);
        assert!(matches!(Broadcast::open(), Err(AuditError::MulticastUnavailable)));
    });
}
