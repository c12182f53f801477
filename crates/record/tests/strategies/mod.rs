//! Strategies for records of every kind, with hostile names.

#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use proptest::prelude::*;
use taptrail_record::{
    AddressChange, CloseDoubt, Descriptor, Device, Event, FilterAddress, GuestId, MacAddr, Outcome, Rdev,
    Reason, Record, Requester, UpdatePhase,
};

/// Names of every kind: plain, hex-like, imitating pairs and quotes, non-ASCII, with control bytes.
pub(crate) fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,20}",
        "([0-9A-F]{2}){1,8}",
        Just("x'res=failed'".to_owned()),
        Just("v'uuid=0".to_owned()),
        Just("x uuid=00000000-0000-0000-0000-000000000000 res=failed".to_owned()),
        Just("\" res=failed net=00:00:00:00:00:00".to_owned()),
        Just("(null)".to_owned()),
        Just("?".to_owned()),
        "(vm|net|res|uuid|op| |'|\"|=|\u{1d}|\n|é){0,20}",
        any::<String>(),
    ]
}

fn rdev() -> impl Strategy<Value = Option<Rdev>> {
    prop_oneof![
        Just(None),
        Just(Some(Rdev::TUN)),
        Just(Some(Rdev::VHOST_NET)),
        any::<(u32, u32)>().prop_map(|(major, minor)| Some(Rdev { major, minor })),
    ]
}

pub(crate) fn device() -> impl Strategy<Value = Device> {
    let path = prop_oneof![
        Just("/dev/net/tun".to_owned()),
        Just("/dev/vhost-net".to_owned()),
        Just("macvtap0".to_owned()),
        "/dev/tap[0-9]{1,4}",
        name(),
    ];
    (path, rdev(), proptest::option::of(name()))
        .prop_map(|(path, rdev, dev)| Device::new(path, rdev, dev.map(Into::into)))
}

fn event() -> impl Strategy<Value = Event> {
    let mac = any::<[u8; 6]>().prop_map(MacAddr);
    let descriptor = (any::<bool>(), 1..=u32::MAX, any::<u32>());
    let number = proptest::option::of(any::<u32>());
    let pid = proptest::option::of(1..=u32::MAX);
    let reason = "[a-z0-9_-]{1,20}".prop_map(|word| word.parse::<Reason>().unwrap());
    let words = (reason, name(), any::<bool>());
    (0..14, mac, device(), number.clone(), number, pid, words, descriptor).prop_map(
        |(which, mac, device, queue, fds, vm_pid, (reason, settings, forced), (known, qemu, fd))| match which
        {
            0 => Event::Open { mac, device, queue },
            1 => Event::Close { mac, device, queue },
            2 => Event::Keep { mac, device, queue, vm_pid },
            3 => Event::Start { mac, vm_pid, fds },
            4 => Event::Attach { mac, vm_pid, fds },
            5 => Event::Detach { mac, vm_pid, fds, forced },
            6 => Event::GuestStart { reason, vm_pid },
            7 | 8 => {
                let mac = known.then_some(mac);
                let descriptor = Descriptor { mac, device, queue, vm_pid: qemu, fd };
                if which == 7 { Event::Seen(descriptor) } else { Event::Gone(descriptor) }
            }
            10 => {
                let (ip, server) = (Ipv4Addr::from_bits(qemu), Ipv4Addr::from_bits(fd));
                let change = match queue {
                    None => AddressChange::Seen,
                    Some(number) if number % 4 == 0 => AddressChange::Expired,
                    Some(number) if number % 4 == 1 => AddressChange::Released,
                    Some(_) => AddressChange::Leased { server, until: vm_pid.map(u64::from) },
                };
                Event::Filter { mac, device, address: known.then_some(FilterAddress { ip, change }) }
            }
            11 => Event::Mac { mac, device },
            12 => {
                let phase = if forced { UpdatePhase::Begin } else { UpdatePhase::End };
                Event::Update { mac, device, phase, settings: settings.into() }
            }
            9 => Event::GuestGone { vm_pid: qemu },
            _ => Event::GuestStop { reason, vm_pid },
        },
    )
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    let requester = proptest::option::of(any::<(u32, u32, u32)>().prop_map(|(uid, auid, pid)| Requester {
        uid,
        auid,
        pid,
    }));
    let errno = proptest::option::of(0..4096_i32);
    let last_seen = proptest::option::of(any::<u64>());
    let doubt = proptest::option::of(proptest::sample::select(CloseDoubt::ALL.to_vec()));
    (name(), any::<u128>(), event(), any::<bool>(), requester, errno, last_seen, doubt).prop_map(
        |(name, uuid, event, success, requester, errno, last_seen, doubt)| Record {
            guest: GuestId { name: name.into(), uuid: uuid::Uuid::from_u128(uuid) },
            event,
            outcome: if success { Outcome::Success } else { Outcome::Failed },
            requester,
            errno,
            last_seen,
            doubt,
        },
    )
}

pub(crate) const EXE: &str = "/usr/bin/taptrail";
