//! A vhost-net that can't be opened, and failures after the opens.

use std::fs;

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, makedev, mknodat};

use super::super::guest::Guest;
use super::super::programs::{MODPROBE, RMMOD};
use super::super::stage::Stage;
use crate::programs::must;

const VHOST: &str = "/dev/vhost-net";
const AWAY: &str = "/dev/vhost-net.away";

/// Boots and hot-plugs without a vhost-net, of interfaces that require it and others.
fn without_vhost(stage: &mut Stage<'_>) -> Result<Guest> {
    let guest = stage.guest(1, &[stage.on_bridge(1).queues(2)]);
    let asks = stage.guest(2, &[stage.on_bridge(2).backend("vhost")]);
    stage.boot_paused(&guest)?;
    stage.fails_to_boot(&asks)?;
    let nic = stage.on_macvtap(3);
    stage.attach(&guest, &nic)?;
    stage.detach(&guest, &nic)?;
    stage.fails_to_attach(&guest, &stage.on_bridge(4).queues(2).backend("vhost"))?;
    Ok(guest)
}

pub(super) fn vhost_moved(stage: &mut Stage<'_>) -> Result<()> {
    stage.act("mv /dev/vhost-net /dev/vhost-net.away", |_| Ok(fs::rename(VHOST, AWAY)?))?;
    let played = without_vhost(stage);
    stage.act("mv /dev/vhost-net.away /dev/vhost-net", |_| Ok(fs::rename(AWAY, VHOST)?))?;
    let guest = played?;
    stage.attach(&guest, &stage.on_bridge(4).queues(2).backend("vhost"))?;
    stage.destroy(&guest)
}

/// modprobe's configuration, by which it does not load the module when the node is opened.
const REFUSAL: &str = "/etc/modprobe.d/no-vhost-net.conf";

pub(super) fn vhost_no_module(stage: &mut Stage<'_>) -> Result<()> {
    // Not `modprobe -r`, which would also remove tun.
    stage.act("rmmod vhost_net; a node is made, and modprobe is told to load nothing", |_| {
        must(RMMOD, &["vhost_net"])?;
        fs::create_dir_all("/etc/modprobe.d")?;
        fs::write(REFUSAL, "install vhost_net /bin/false\n")?;
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(rustix::fs::CWD, VHOST, FileType::CharacterDevice, mode, makedev(10, 238))
            .context("Can't make the node")
    })?;
    let played = without_vhost(stage);
    stage.act("the node is removed; modprobe vhost_net", |_| {
        fs::remove_file(VHOST)?;
        fs::remove_file(REFUSAL)?;
        must(MODPROBE, &["vhost_net"]).map(drop)
    })?;
    stage.destroy(&played?)
}

const NO_ROM: &str = "/lab/no-such.rom";
const NO_FILTER: &str = "no-such-filter";

pub(super) fn boot_fails(stage: &mut Stage<'_>) -> Result<()> {
    let rom = stage.guest(1, &[stage.on_bridge(1).queues(2).rom(NO_ROM), stage.on_macvtap(2)]);
    let filter = stage.guest(2, &[stage.on_macvtap(3), stage.on_bridge(4).queues(2).filter(NO_FILTER)]);
    stage.fails_to_boot(&rom)?;
    stage.fails_to_boot(&filter)
}

pub(super) fn hotplug_fails(stage: &mut Stage<'_>) -> Result<()> {
    let guest = stage.guest(1, &[stage.on_bridge(1)]);
    stage.boot_paused(&guest)?;
    stage.fails_to_attach(&guest, &stage.on_bridge(2).queues(2).rom(NO_ROM))?;
    stage.fails_to_attach(&guest, &stage.on_macvtap(3).rom(NO_ROM))?;
    stage.fails_to_attach(&guest, &stage.on_bridge(4).filter(NO_FILTER))?;
    let nic = stage.on_bridge(2).queues(2);
    stage.attach(&guest, &nic)?;
    stage.detach(&guest, &nic)?;
    stage.destroy(&guest)
}
