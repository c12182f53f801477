//! Runs one scenario: its commands are recorded, and the witness scans after each.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::system::uname;

use super::guest::{Guest, Nic};
use super::lab::{self, Lab};
use super::poller::{self, Poller};
use super::truth::{self, Held, Snapshot, Step, Truth};
use super::window;
use crate::programs::{Done, IP, NFT, run, wait_for};
use crate::suites::Daemons;

/// The number of scans after each step, so that each state is seen.
const LOOKS: u64 = 5;

#[derive(Debug)]
pub(super) struct Stage<'a> {
    name: &'a str,
    lab: &'a mut Lab,
    poller: &'a Poller,
    t0: f64,
    /// The length of libvirt's own log at the beginning.
    daemon_log: usize,
    steps: Vec<Step>,
    snapshots: Vec<Snapshot>,
    notes: Vec<String>,
    files: u32,
}

/// A scenario's files.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) audit_log: String,
    /// libvirt's own log, of its main daemon.
    pub(super) daemon_log: String,
    pub(super) truth: Truth,
}

impl<'a> Stage<'a> {
    pub(super) fn begin(name: &'a str, lab: &'a mut Lab, poller: &'a Poller) -> Result<Self> {
        lab::mark(&format!("begin-{name}"))?;
        let daemon_log = lab::daemon_log()?.len();
        poller.take();
        let t0 = poller::now();
        let linux = format!("Linux {}", uname().release().to_string_lossy());
        let notes = vec![linux, lab.versions().note()];
        let (steps, snapshots) = (Vec::new(), Vec::new());
        Ok(Self { name, lab, poller, t0, daemon_log, steps, snapshots, notes, files: 0 })
    }

    /// After a failure: ends all guests, so that the next scenario finds none.
    pub(super) fn clear_away(&mut self) {
        for (process, _) in self.poller.now() {
            let _ = self.lab.virsh(&["destroy", &process.uuid]);
        }
    }

    pub(super) fn end(mut self, what: &str) -> Result<Recorded> {
        lab::mark(&format!("end-{}", self.name))?;
        let (begin, end) = (format!("begin-{}", self.name), format!("end-{}", self.name));
        let audit_log = window::between(&lab::audit_log()?, &begin, &end);
        let audit_log = audit_log.context("The audit log lost a mark")?;
        let daemon_log = lab::daemon_log()?;
        let daemon_log = window::audited(daemon_log.get(self.daemon_log..).unwrap_or_default());
        let t1 = poller::now();
        let seen = self.poller.take();
        self.notes.push(format!(
            "poller: {} looks in {:.1} s, longest gap {:.3} s",
            seen.looks,
            t1 - self.t0,
            seen.longest_gap
        ));
        let truth = Truth {
            scenario: self.name.to_owned(),
            what: what.to_owned(),
            t0: self.t0,
            t1,
            fd_intervals: truth::fd_intervals(&seen, &self.steps),
            steps: self.steps,
            processes: seen.processes,
            snapshots: self.snapshots,
            notes: self.notes,
        };
        Ok(Recorded { audit_log, daemon_log, truth })
    }

    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    pub(super) fn daemons(&self) -> &'static Daemons {
        self.lab.daemons()
    }

    /// Starts a guest; its processors run.
    pub(super) fn boot(&mut self, guest: &Guest) -> Result<()> {
        self.create(guest, &[], true)
    }

    /// Starts a guest whose processors stand still.
    pub(super) fn boot_paused(&mut self, guest: &Guest) -> Result<()> {
        self.create(guest, &["--paused"], true)
    }

    pub(super) fn fails_to_boot(&mut self, guest: &Guest) -> Result<()> {
        self.create(guest, &["--paused"], false)
    }

    fn create(&mut self, guest: &Guest, options: &[&str], works: bool) -> Result<()> {
        let file = self.file(&guest.name, &guest.xml())?;
        self.virsh(&[&["create"], options, &[&file]].concat(), works, None)
    }

    pub(super) fn define(&mut self, guest: &Guest) -> Result<()> {
        let file = self.file(&guest.name, &guest.xml())?;
        self.works(&["define", &file])
    }

    pub(super) fn destroy(&mut self, guest: &Guest) -> Result<()> {
        self.works(&["destroy", &guest.uuid])
    }

    pub(super) fn attach(&mut self, guest: &Guest, nic: &Nic) -> Result<()> {
        self.plug(guest, nic, true)
    }

    pub(super) fn fails_to_attach(&mut self, guest: &Guest, nic: &Nic) -> Result<()> {
        self.plug(guest, nic, false)
    }

    fn plug(&mut self, guest: &Guest, nic: &Nic, works: bool) -> Result<()> {
        let file = self.file("nic", &nic.xml())?;
        let plugs = Some((guest.uuid.clone(), nic.mac.clone()));
        self.virsh(&["attach-device", &guest.uuid, &file, "--live"], works, plugs)
    }

    pub(super) fn detach(&mut self, guest: &Guest, nic: &Nic) -> Result<()> {
        let file = self.file("nic", &nic.xml())?;
        self.works(&["detach-device", &guest.uuid, &file, "--live"])
    }

    pub(super) fn fails_to_detach(&mut self, guest: &Guest, nic: &Nic) -> Result<()> {
        let file = self.file("nic", &nic.xml())?;
        self.virsh(&["detach-device", &guest.uuid, &file, "--live"], false, None)
    }

    pub(super) fn update(&mut self, guest: &Guest, nic: &Nic, works: bool) -> Result<()> {
        let file = self.file("nic", &nic.xml())?;
        self.virsh(&["update-device", &guest.uuid, &file, "--live"], works, None)
    }

    /// Runs a command of virsh that must succeed.
    pub(super) fn works(&mut self, arguments: &[&str]) -> Result<()> {
        self.virsh(arguments, true, None)
    }

    fn virsh(&mut self, arguments: &[&str], works: bool, plugs: Option<(String, String)>) -> Result<()> {
        let t = poller::now();
        let done = self.lab.virsh(arguments)?;
        self.record_step(t, format!("virsh {}", arguments.join(" ")), &done, plugs);
        let (status, said) = (done.status, done.said);
        let (expected, asked) = (if works { "work" } else { "fail" }, arguments.join(" "));
        ensure!((status == 0) == works, "virsh {asked} had to {expected}: status {status}, {said}");
        Ok(())
    }

    /// Runs another program than virsh, and records its output.
    fn show(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let t = poller::now();
        let done = run(program, arguments)?;
        let name = program.rsplit('/').next().unwrap_or(program);
        self.record_step(t, format!("{name} {}", arguments.join(" ")), &done, None);
        Ok(())
    }

    /// Performs an action without a program, and records it.
    pub(super) fn act(&mut self, cmd: &str, act: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
        let t = poller::now();
        act(self.lab)?;
        self.record_step(t, cmd.to_owned(), &Done { status: 0, said: String::new() }, None);
        Ok(())
    }

    fn record_step(&mut self, t: f64, cmd: String, done: &Done, plugs: Option<(String, String)>) {
        let t_end = poller::now();
        self.steps.push(Step { t, t_end, cmd, rc: done.status, out: done.said.clone(), plugs });
        self.take_snapshot();
    }

    /// Records which links a bridge has.
    pub(super) fn show_ports(&mut self, bridge: &str) -> Result<()> {
        self.show(IP, &["-br", "link", "show", "master", bridge])
    }

    /// Records nftables' rules for the frames of bridges.
    pub(super) fn show_rules(&mut self) -> Result<()> {
        self.show(NFT, &["list", "ruleset", "bridge"])
    }

    /// Waits until the witness has scanned, and records the devices that the guests hold.
    fn take_snapshot(&mut self) {
        self.poller.wait_looks(LOOKS);
        let after = self.steps.last().map(|step| step.cmd.clone()).unwrap_or_default();
        let held = |(process, descriptors): (poller::Process, Vec<_>)| {
            let text = |one: super::descriptors::Descriptor| {
                let words = [one.fd.to_string(), one.link, one.interface.unwrap_or_default()];
                words.join(" ").trim_end().to_owned()
            };
            let devfds = descriptors.into_iter().map(text).collect();
            Held { pid: process.pid, uuid: process.uuid, devfds }
        };
        let qemu = self.poller.now().into_iter().map(held).collect();
        self.snapshots.push(Snapshot { t: poller::now(), after, qemu });
    }

    /// Waits until a guest's firmware has sent frames through its first interface that is a tap.
    pub(super) fn wait_for_frames(&mut self, guest: &Guest) -> Result<()> {
        let taps = self.poller.now().into_iter().filter(|(process, _)| process.uuid == guest.uuid);
        let tap = taps.flat_map(|(_, held)| held).find_map(|descriptor| descriptor.interface);
        let tap = tap.context("The guest has no tap")?;
        let count = format!("/sys/class/net/{tap}/statistics/rx_packets");
        wait_for("frames of the guest", || Ok(fs::read_to_string(&count)?.trim() != "0"))?;
        self.notes.push(format!("{tap} had frames from the guest"));
        Ok(())
    }

    /// Ends a guest's QEMU as a crash would.
    pub(super) fn kill_qemu(&mut self, guest: &Guest) -> Result<()> {
        let found = self.poller.now().into_iter().find(|(process, _)| process.uuid == guest.uuid);
        let pid = found.context("The guest does not run")?.0.pid;
        let number = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let number = number.context("No number of a process")?;
        self.act("kill -9 of QEMU", |_| {
            rustix::process::kill_process(number, rustix::process::Signal::KILL)?;
            wait_for("QEMU's end", || Ok(!Path::new(&format!("/proc/{pid}")).exists()))
        })
    }

    /// Waits until libvirt reports this state of a guest.
    pub(super) fn wait_for_state(&mut self, guest: &Guest, state: &str) -> Result<()> {
        let lab = &*self.lab;
        wait_for("the guest's state", || Ok(lab.virsh(&["domstate", &guest.uuid])?.said == state))
    }

    pub(super) fn file(&mut self, name: &str, text: &str) -> Result<String> {
        self.files += 1;
        let file = format!("/lab/xml/{}-{name}-{}.xml", self.name, self.files);
        fs::write(&file, text).with_context(|| format!("Can't write {file}"))?;
        Ok(file)
    }
}
