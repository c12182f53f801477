//! The main job on a real QEMU, without any guest image: iPXE's ROM in the NIC sends DHCP frames.
//!
//! Everything happens in a network namespace of its own and a temporary directory; both are gone at
//! the end. Auditing is switched on for the time of the demo if it is off, with an auditd of its
//! own if none runs, and put back (`stage`).

mod stage;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use self::stage::{GUEST, Stage, print, say, show_links, show_output};
use crate::cli::DemoArguments;
use crate::interrupt;
use crate::programs::{IP, must, output_of};

const AUREPORT: &str = "/sbin/aureport";
const AUSEARCH: &str = "/sbin/ausearch";

/// auditd writes the names that it adds to a record behind this.
const NAMES: char = '\x1d';

const FIRST: &str = "52:54:00:00:00:01";
const MACVTAP: &str = "52:54:00:00:00:02";
const SECOND: &str = "52:54:00:00:00:03";
const REFUSED: &str = "52:54:00:00:00:04";

/// A machine without a disk. Without ACPI's hot-plug, a port releases a NIC without a guest
/// system's help.
const MACHINE: &str = "qemu-system-x86_64 -machine q35,accel=tcg -m 64 -nodefaults -display none -boot n \
    -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off";

/// Shows taptrail at work.
pub(crate) fn run(arguments: &DemoArguments) -> Result<ExitCode> {
    interrupt::catch()?;
    let stage = Stage::set_up(&arguments.taptrail)?;
    start_and_attach(&stage)?;
    take_back(&stage)?;
    look_back(&stage)?;
    if let Some(log) = &stage.audit_log {
        search(log)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn start_and_attach(stage: &Stage) -> Result<()> {
    say("a bridge, and a veth pair for the macvtap to sit on")?;
    for words in [
        "link add br0 type bridge",
        "link set br0 up",
        "link add lower type veth peer name upper",
        "link set lower up",
        "link set upper up",
    ] {
        must(IP, &words.split(' ').collect::<Vec<_>>())?;
    }
    show_links()?;
    say(if Path::new("/dev/vhost-net").exists() {
        "/dev/vhost-net is here: each queue gets its own"
    } else {
        "/dev/vhost-net is not here (no such device in this kernel): vhost=auto goes on without it"
    })?;

    say("start: a guest with a bridged tap; its ROM looks for a DHCP server")?;
    let nic = format!("bridge=br0,mac={FIRST},filter=no-mac-spoofing");
    let mut start = vec!["run", "--background", "--name", GUEST, "--nic", &nic, "--"];
    start.extend(MACHINE.split(' '));
    stage.show(&start)?;

    say("attach: a macvtap with two queues, and a second tap")?;
    stage.show(&["attach", GUEST, "--nic", &format!("macvtap=lower,mac={MACVTAP},queues=2")])?;
    stage.show(&["attach", GUEST, "--nic", &format!("bridge=br0,mac={SECOND},isolated=on")])?;

    say("what the guest has now")?;
    stage.show(&["list"])?;
    stage.show(&["nics", GUEST])?;

    say("verify: who on this host holds what, beside the trail")?;
    let code = stage.try_to_show(&["verify", "--guest", GUEST])?;
    if code != 0 {
        print(&format!("(exit code {code})"))?;
    }
    Ok(())
}

fn take_back(stage: &Stage) -> Result<()> {
    say("detach: an empty guest's port lets go at once; its descriptors are proven gone")?;
    if stage.try_to_show(&["detach", GUEST, MACVTAP, "--timeout", "10s"])? != 0 {
        stage.show(&["detach", GUEST, MACVTAP, "--force"])?;
    }

    say("a failure: nft refuses the filter, so the open that came before it grants nothing")?;
    stage.refuse_filters()?;
    let nic = format!("bridge=br0,mac={REFUSED},filter=no-mac-spoofing");
    let code = stage.try_to_show(&["attach", GUEST, "--nic", &nic])?;
    if code != 0 {
        print(&format!("(exit code {code}: rolled back)"))?;
    }
    stage.allow_filters()?;

    say("frames from the guest on the bridge")?;
    print(&format!("{} from vnet0", frames_of("vnet0")?))?;

    say("revoke: the second tap, whether the guest agrees or not")?;
    stage.show(&["detach", GUEST, SECOND, "--force"])?;

    say("stop")?;
    stage.show(&["stop", GUEST, "--force"])?;
    show_links()
}

/// Waits half a minute for frames. What the tap receives, the guest has sent.
fn frames_of(tap: &str) -> Result<u64> {
    let mut frames = 0;
    for _ in 0..150 {
        let links: Value = serde_json::from_str(&must(IP, &["-json", "-statistics", "link", "show", tap])?)?;
        let packets = &links[0]["stats64"]["rx"]["packets"];
        frames = packets.as_u64().with_context(|| format!("ip knows no frames of {tap}"))?;
        if frames > 0 {
            break;
        }
        interrupt::sleep(Duration::from_millis(200))?;
    }
    Ok(frames)
}

fn look_back(stage: &Stage) -> Result<()> {
    say("the trail: every device opened, granted and released, from the kernel's audit log and the ledger")?;
    stage.show(&["trail"])?;

    say("who held the macvtap, and the lines that prove what became of it")?;
    stage.show(&["who", "macvtap0"])?;
    stage.show(&["explain", MACVTAP])?;

    say("what is worth a look in the trail: the failure above, and what a kernel lacks (exit code 1 says \
         that there is something)")?;
    stage.try_to_show(&["findings"])?;

    say(
        "the same questions to a log that a real libvirt wrote: a guest moved to another bridge, and to one \
         that is not there",
    )?;
    let recording = "../tests/data/libvirt/libvirt-9.0/15-update-bridge";
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join(recording);
    stage.show_in(&recording, &["trail", "--utc", "audit.log"])
}

/// The kernel's records, by the tools of audit.
fn search(log: &Path) -> Result<()> {
    say("the same from the kernel's audit: ausearch --vm-name web1 --raw")?;
    // auditd has written everything by then.
    interrupt::sleep(Duration::from_secs(1))?;
    let mut ausearch = Command::new(AUSEARCH);
    let found = output_of(ausearch.arg("--input").arg(log).args(["--vm-name", GUEST, "--raw"]))?;
    for line in found.lines() {
        print(line.split(NAMES).next().unwrap_or_default())?;
    }
    say("and aureport --virt")?;
    show_output(Command::new(AUREPORT).arg("--input").arg(log).arg("--virt"))?;
    Ok(())
}
