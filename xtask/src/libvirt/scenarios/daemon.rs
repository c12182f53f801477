//! libvirt's daemon is killed, and guests continue or end meanwhile.

use anyhow::Result;

use super::super::lab::Lab;
use super::super::stage::Stage;

fn kill_daemon(stage: &mut Stage<'_>) -> Result<()> {
    stage.act(&format!("kill -9 of {}", stage.daemons().name()), Lab::kill_daemon)
}

fn start_daemon(stage: &mut Stage<'_>) -> Result<()> {
    stage.act(&format!("{} started", stage.daemons().name()), Lab::start_daemon)
}

pub(super) fn daemon_restart(stage: &mut Stage<'_>) -> Result<()> {
    let guest = stage.guest(1, &[stage.on_bridge(1).queues(2), stage.on_macvtap(2)]);
    let nic = stage.on_bridge(3);
    stage.boot_paused(&guest)?;
    kill_daemon(stage)?;
    start_daemon(stage)?;
    stage.attach(&guest, &nic)?;
    kill_daemon(stage)?;
    start_daemon(stage)?;
    stage.detach(&guest, &nic)?;
    stage.destroy(&guest)
}

pub(super) fn killed_unseen(stage: &mut Stage<'_>) -> Result<()> {
    let killed = stage.guest(1, &[stage.on_bridge(1).queues(2)]);
    let defined = stage.guest(2, &[stage.on_macvtap(2)]);
    let third = stage.guest(3, &[stage.on_bridge(3)]);
    stage.boot_paused(&killed)?;
    stage.define(&defined)?;
    stage.works(&["start", &defined.uuid, "--paused"])?;
    stage.boot_paused(&third)?;
    kill_daemon(stage)?;
    stage.kill_qemu(&killed)?;
    stage.kill_qemu(&defined)?;
    start_daemon(stage)?;
    stage.wait_for_state(&defined, "shut off")?;
    stage.works(&["list", "--all"])?;
    stage.destroy(&third)?;
    stage.works(&["undefine", &defined.uuid])
}
