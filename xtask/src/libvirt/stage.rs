//! One scenario under way: its commands are noted, the witness looks on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::system::uname;

use super::guest::{Guest, Nic};
use super::lab::{self, Lab};
use super::poller::{self, Poller};
use super::programs::{Done, IP, NFT, VIRSH, run, wait_for};
use super::truth::{self, Held, Snapshot, Step, Truth};
use super::window;

/// Looks after each step, so that each state is seen.
const LOOKS: u64 = 5;

#[derive(Debug)]
pub(super) struct Stage<'a> {
    name: &'a str,
    lab: &'a mut Lab,
    poller: &'a Poller,
    t0: f64,
    /// Where libvirtd's log was at the beginning.
    libvirtd_log: usize,
    steps: Vec<Step>,
    snapshots: Vec<Snapshot>,
    notes: Vec<String>,
    files: u32,
}

/// A scenario's files.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) audit_log: String,
    pub(super) libvirtd_log: String,
    pub(super) truth: Truth,
}

impl<'a> Stage<'a> {
    pub(super) fn begin(name: &'a str, lab: &'a mut Lab, poller: &'a Poller) -> Result<Self> {
        lab::mark(&format!("begin-{name}"))?;
        let libvirtd_log = lab::libvirtd_log()?.len();
        poller.take();
        let t0 = poller::now();
        let notes = vec![format!("Linux {}", uname().release().to_string_lossy())];
        let (steps, snapshots) = (Vec::new(), Vec::new());
        Ok(Self { name, lab, poller, t0, libvirtd_log, steps, snapshots, notes, files: 0 })
    }

    /// After a failure: ends all guests, so that the next scenario finds none.
    pub(super) fn clear_away(&mut self) {
        for (process, _) in self.poller.now() {
            let _ = run(VIRSH, &["destroy", &process.uuid]);
        }
    }

    pub(super) fn end(mut self, what: &str) -> Result<Recorded> {
        lab::mark(&format!("end-{}", self.name))?;
        let (begin, end) = (format!("begin-{}", self.name), format!("end-{}", self.name));
        let audit_log = window::between(&lab::audit_log()?, &begin, &end);
        let audit_log = audit_log.context("The audit log lost a mark")?;
        let libvirtd_log = lab::libvirtd_log()?;
        let libvirtd_log = window::audited(libvirtd_log.get(self.libvirtd_log..).unwrap_or_default());
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
        Ok(Recorded { audit_log, libvirtd_log, truth })
    }

    pub(super) fn name(&self) -> &'a str {
        self.name
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

    /// A command of virsh that has to work.
    pub(super) fn works(&mut self, arguments: &[&str]) -> Result<()> {
        self.virsh(arguments, true, None)
    }

    fn virsh(&mut self, arguments: &[&str], works: bool, plugs: Option<(String, String)>) -> Result<()> {
        let done = self.step(VIRSH, arguments, plugs)?;
        let (status, said) = (done.status, done.said);
        let (expected, asked) = (if works { "work" } else { "fail" }, arguments.join(" "));
        ensure!((status == 0) == works, "virsh {asked} was to {expected}: status {status}, {said}");
        Ok(())
    }

    /// Runs a program and notes it.
    fn step(&mut self, program: &str, arguments: &[&str], plugs: Option<(String, String)>) -> Result<Done> {
        let t = poller::now();
        let done = run(program, arguments)?;
        let t_end = poller::now();
        let name = program.rsplit('/').next().unwrap_or(program);
        let cmd = format!("{name} {}", arguments.join(" "));
        self.steps.push(Step { t, t_end, cmd, rc: done.status, out: done.said.clone(), plugs });
        self.look_on();
        Ok(done)
    }

    /// Notes something that is done without a program, and does it.
    pub(super) fn act(&mut self, cmd: &str, act: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
        let t = poller::now();
        act(self.lab)?;
        let t_end = poller::now();
        let step = Step { t, t_end, cmd: cmd.to_owned(), rc: 0, out: String::new(), plugs: None };
        self.steps.push(step);
        self.look_on();
        Ok(())
    }

    /// Notes which links a bridge has.
    pub(super) fn show_ports(&mut self, bridge: &str) -> Result<()> {
        self.step(IP, &["-br", "link", "show", "master", bridge], None).map(drop)
    }

    /// Notes which rules of nftables there are for a bridge's frames.
    pub(super) fn show_rules(&mut self) -> Result<()> {
        self.step(NFT, &["list", "ruleset", "bridge"], None).map(drop)
    }

    /// Lets the witness look, and notes what the guests have.
    fn look_on(&mut self) {
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

    /// Waits until libvirt says this of a guest.
    pub(super) fn wait_for_state(&mut self, guest: &Guest, state: &str) -> Result<()> {
        wait_for("the guest's state", || Ok(run(VIRSH, &["domstate", &guest.uuid])?.said == state))
    }

    pub(super) fn file(&mut self, name: &str, text: &str) -> Result<String> {
        self.files += 1;
        let file = format!("/lab/xml/{}-{name}-{}.xml", self.name, self.files);
        fs::write(&file, text).with_context(|| format!("Can't write {file}"))?;
        Ok(file)
    }
}
