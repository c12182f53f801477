//! The scenarios: their guests and steps.
//!
//! Each scenario is an entry in [`ALL`] and a function in one of these files. Each restores the
//! host's state.

mod daemon;
mod failures;
mod plug;
mod rules;

use anyhow::Result;

use super::guest::{Guest, Nic};
use super::stage::Stage;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(super) what: &'static str,
    pub(super) play: fn(&mut Stage<'_>) -> Result<()>,
}

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "01-three-nics",
        what: "one guest with a bridge NIC (2 queues, vhost), a macvtap NIC (vhost) and a bridge NIC with \
               <driver name='qemu'/>; its firmware sends frames; virsh destroy",
        play: plug::three_nics,
    },
    Scenario {
        name: "02-hotplug-queues",
        what: "a bridge NIC with 2 queues and vhost, plugged in and out twice with the same MAC, in a guest that has \
               another; its link set down and up; virsh destroy",
        play: plug::hotplug_queues,
    },
    Scenario {
        name: "03-hotplug-macvtap",
        what: "a macvtap NIC with 2 queues and vhost, plugged in and out twice, then plugged in and destroyed with \
               its guest",
        play: plug::hotplug_macvtap,
    },
    Scenario {
        name: "04-update-bridge",
        what: "a NIC with 2 queues and vhost gets another bridge and goes back; a bridge that is not there, and another \
               backend, are refused",
        play: plug::update_bridge,
    },
    Scenario {
        name: "05-daemon-restart",
        what: "the daemon killed and started again while a guest with vhost runs; then a hot-plug, a hot-unplug of it, \
               destroy",
        play: daemon::daemon_restart,
    },
    Scenario {
        name: "06-killed-unseen",
        what: "three guests with vhost, one of them defined; the daemon killed, the QEMUs of the defined one and of one \
               other killed meanwhile, the daemon started again; the third destroyed",
        play: daemon::killed_unseen,
    },
    Scenario {
        name: "07-two-guests",
        what: "two guests with two vhost NICs each at once, one is destroyed, the first one's name starts anew with \
               another uuid",
        play: plug::two_guests,
    },
    Scenario {
        name: "08-vhost-moved",
        what: "/dev/vhost-net moved away: boot with implicit vhost (2 queues), boot with explicit vhost, hot-plug of \
               both kinds; then back, and a hot-plug that has it",
        play: failures::vhost_moved,
    },
    Scenario {
        name: "09-vhost-no-module",
        what: "the node is there and its module can't be loaded: boot with implicit and with explicit vhost, \
               hot-plug of both kinds",
        play: failures::vhost_no_module,
    },
    Scenario {
        name: "10-boot-fails",
        what: "boots that fail after tap and vhost-net were opened: QEMU finds no ROM file; a filter that is not there",
        play: failures::boot_fails,
    },
    Scenario {
        name: "11-hotplug-fails",
        what: "hot-plugs that fail after tap and vhost-net were opened: device_add finds no ROM file, for a bridge \
               (2 queues) and a macvtap; a filter that is not there; then one that works",
        play: failures::hotplug_fails,
    },
    Scenario {
        name: "12-same-mac",
        what: "two NICs with the same MAC on two bridges in one guest, both with vhost; one more plugged in with that \
               MAC; an unplug that does not say which is refused, one that does works; destroy",
        play: plug::same_mac,
    },
    Scenario {
        name: "13-filter",
        what: "a NIC with vhost and a filter of nwfilter's (ebtables on nftables) at boot, another plugged in and out",
        play: rules::filter,
    },
    Scenario {
        name: "14-save-restore",
        what: "a guest with a vhost NIC of 2 queues and a macvtap saved and restored, then destroyed",
        play: plug::save_restore,
    },
    Scenario {
        name: "15-ethernet",
        what: "type='ethernet' with vhost at boot and plugged in and out",
        play: plug::ethernet,
    },
    Scenario {
        name: "16-kernel-rules",
        what: "with audit rules on open(2): a guest with a bridge NIC (2 queues, vhost) and a macvtap NIC (vhost); a \
               bridge NIC with 2 queues and vhost plugged in and out; destroy",
        play: rules::kernel_rules,
    },
];

impl Stage<'_> {
    /// A guest of this number with these interfaces.
    fn guest(&self, number: u8, nics: &[Nic]) -> Guest {
        let scenario = self.name();
        let digits = &scenario[..2];
        Guest {
            name: format!("p{scenario}-{number}"),
            uuid: format!("7a7a00{digits}-0000-4000-8000-0000000000{number:02}"),
            nics: nics.to_vec(),
        }
    }

    /// The MAC of this number: the scenario's number is part of it.
    fn mac(&self, number: u8) -> String {
        format!("52:54:00:77:{}:{number:02x}", &self.name()[..2])
    }

    fn on_bridge(&self, number: u8) -> Nic {
        Nic::bridge("labbr0", &self.mac(number))
    }

    fn on_macvtap(&self, number: u8) -> Nic {
        Nic::macvtap("labv0", &self.mac(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_two_digits_and_are_there_once() {
        for scenario in ALL {
            let (digits, rest) = scenario.name.split_at(2);
            assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{}", scenario.name);
            assert!(rest.starts_with('-'), "{}", scenario.name);
            assert_eq!(ALL.iter().filter(|other| other.name[..2] == *digits).count(), 1, "{digits}");
        }
    }
}
