//! Rules of nftables and audit.

use anyhow::Result;

use super::super::stage::Stage;
use crate::programs::{AUDITCTL, must};

/// Frames that leave with another MAC than the interface's are dropped.
const FILTER: &str = "<filter name='lab-own-mac' chain='mac'>\
    <rule action='drop' direction='out' priority='500'><mac match='no' srcmacaddr='$MAC'/></rule></filter>\n";

pub(super) fn filter(stage: &mut Stage<'_>) -> Result<()> {
    let guest = stage.guest(1, &[stage.on_bridge(1).filter("lab-own-mac")]);
    let nic = stage.on_bridge(2).queues(2).filter("lab-own-mac");
    let file = stage.file("filter", FILTER)?;
    stage.works(&["nwfilter-define", &file])?;
    stage.boot_paused(&guest)?;
    stage.show_rules()?;
    stage.attach(&guest, &nic)?;
    stage.detach(&guest, &nic)?;
    stage.destroy(&guest)?;
    stage.works(&["nwfilter-undefine", "lab-own-mac"])
}

/// The rules of packaging/taptrail.rules for this libvirt daemon and QEMU.
fn rules(daemon: &str) -> [Vec<String>; 4] {
    let device = |minor: u32| ["devmajor=10".to_owned(), format!("devminor={minor}")];
    let program = |path: &str| ["filetype=character".to_owned(), format!("exe={path}")];
    let rules = [device(200), device(238), program(daemon), program("/usr/bin/qemu-system-x86_64")];
    rules.map(|fields| fields.into_iter().flat_map(|field| ["-F".to_owned(), field]).collect())
}

const OPENS: [&str; 4] = ["-F", "arch=b64", "-S", "open,openat,openat2,creat"];

pub(super) fn kernel_rules(stage: &mut Stage<'_>) -> Result<()> {
    let guest = stage.guest(1, &[stage.on_bridge(1).queues(2), stage.on_macvtap(2)]);
    let nic = stage.on_bridge(3).queues(2);
    let rules = rules(stage.daemons().main);
    stage.act("audit rules on open(2) added", |_| {
        rules.iter().try_for_each(|rule| {
            let rule: Vec<_> = rule.iter().map(String::as_str).collect();
            let words = [&["-a", "always,exit"], &OPENS[..], &rule, &["-F", "key=taptrail"]].concat();
            must(AUDITCTL, &words).map(drop)
        })
    })?;
    let played = (|| {
        stage.boot_paused(&guest)?;
        stage.attach(&guest, &nic)?;
        stage.detach(&guest, &nic)?;
        stage.destroy(&guest)
    })();
    stage.act("audit rules removed", |_| must(AUDITCTL, &["-D"]).map(drop))?;
    played
}
