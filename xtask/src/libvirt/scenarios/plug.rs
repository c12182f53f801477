//! Hot-plug and hot-unplug of interfaces, and guests with several interfaces.

use anyhow::Result;

use super::super::guest::{Guest, Nic};
use super::super::stage::Stage;

pub(super) fn three_nics(stage: &mut Stage<'_>) -> Result<()> {
    let nics = [stage.on_bridge(1).queues(2), stage.on_macvtap(2), stage.on_bridge(3).backend("qemu")];
    let guest = stage.guest(1, &nics);
    stage.boot(&guest)?;
    stage.wait_for_frames(&guest)?;
    stage.destroy(&guest)
}

pub(super) fn hotplug_queues(stage: &mut Stage<'_>) -> Result<()> {
    let guest = stage.guest(1, &[stage.on_bridge(1)]);
    let nic = stage.on_bridge(2).queues(2);
    stage.boot_paused(&guest)?;
    for _ in 0..2 {
        stage.attach(&guest, &nic)?;
        stage.detach(&guest, &nic)?;
    }
    stage.works(&["domif-setlink", &guest.uuid, &stage.mac(1), "down"])?;
    stage.works(&["domif-setlink", &guest.uuid, &stage.mac(1), "up"])?;
    stage.destroy(&guest)
}

pub(super) fn hotplug_macvtap(stage: &mut Stage<'_>) -> Result<()> {
    let guest = stage.guest(1, &[]);
    let nic = stage.on_macvtap(1).queues(2);
    stage.boot_paused(&guest)?;
    for _ in 0..2 {
        stage.attach(&guest, &nic)?;
        stage.detach(&guest, &nic)?;
    }
    stage.attach(&guest, &nic)?;
    stage.destroy(&guest)
}

pub(super) fn update_bridge(stage: &mut Stage<'_>) -> Result<()> {
    let nic = stage.on_bridge(1).queues(2);
    let on = |bridge| Nic::bridge(bridge, &nic.mac).queues(2);
    let guest = stage.guest(1, std::slice::from_ref(&nic));
    stage.boot_paused(&guest)?;
    stage.update(&guest, &on("labbr1"), true)?;
    stage.show_ports("labbr1")?;
    stage.update(&guest, &on("nosuchbr"), false)?;
    stage.update(&guest, &on("labbr1").backend("qemu"), false)?;
    stage.update(&guest, &on("labbr1").link_down(), true)?;
    stage.update(&guest, &on("labbr0"), true)?;
    stage.destroy(&guest)
}

pub(super) fn two_guests(stage: &mut Stage<'_>) -> Result<()> {
    let first = stage.guest(1, &[stage.on_bridge(1), stage.on_macvtap(2)]);
    let second = stage.guest(2, &[stage.on_bridge(3).queues(2), stage.on_bridge(4)]);
    let again = Guest { name: first.name.clone(), ..stage.guest(3, &[stage.on_bridge(1)]) };
    stage.boot_paused(&first)?;
    stage.boot_paused(&second)?;
    stage.destroy(&first)?;
    stage.boot_paused(&again)?;
    stage.destroy(&second)?;
    stage.destroy(&again)
}

pub(super) fn same_mac(stage: &mut Stage<'_>) -> Result<()> {
    let mac = stage.mac(1);
    let guest = stage.guest(1, &[Nic::bridge("labbr0", &mac), Nic::bridge("labbr1", &mac)]);
    stage.boot_paused(&guest)?;
    let third = Nic::bridge("labbr0", &mac).alias("ua-third");
    stage.attach(&guest, &third)?;
    stage.works(&["domiflist", &guest.uuid])?;
    stage.fails_to_detach(&guest, &Nic::bridge("labbr0", &mac))?;
    stage.detach(&guest, &third)?;
    stage.destroy(&guest)
}

pub(super) fn save_restore(stage: &mut Stage<'_>) -> Result<()> {
    let guest = stage.guest(1, &[stage.on_bridge(1).queues(2), stage.on_macvtap(2)]);
    stage.boot_paused(&guest)?;
    stage.works(&["save", &guest.uuid, "/lab/run/saved", "--paused"])?;
    stage.works(&["restore", "/lab/run/saved", "--paused"])?;
    stage.destroy(&guest)
}

pub(super) fn ethernet(stage: &mut Stage<'_>) -> Result<()> {
    let guest = stage.guest(1, &[Nic::ethernet("labe0", &stage.mac(1)).queues(2)]);
    let nic = Nic::ethernet("labe1", &stage.mac(2));
    stage.boot_paused(&guest)?;
    stage.attach(&guest, &nic)?;
    stage.detach(&guest, &nic)?;
    stage.destroy(&guest)
}
