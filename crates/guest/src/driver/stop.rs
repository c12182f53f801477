//! The guest's end: asked for, forced, or come by itself.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use taptrail_ledger::Step;
use taptrail_qmp::Event as QmpEvent;
use taptrail_record::{Event, Outcome, Reason, Requester};
use tracing::{info, warn};

use super::{ANSWER, Driver, Ended, Pending, PlugState, QUIT, Shutdown, Unanswered, answered, said};
use crate::request::{Failure, OnTimeout, Reply};

impl Driver {
    pub(super) fn stop(
        &mut self,
        patience: Duration,
        then: OnTimeout,
        requester: Option<Requester>,
        reply: Option<Reply<()>>,
    ) {
        let mut replies: Vec<_> = reply.into_iter().collect();
        let mut deadline = Instant::now() + patience;
        let mut then = then;
        match self.pending.take() {
            Some(Pending::Detach { mac, requester, reply, .. }) => {
                self.unplug_failed(mac, requester, Unanswered::Stopping, reply);
            }
            // One stop at a time: the less patient one counts, and force once asked for stays.
            Some(Pending::Stop { deadline: earlier, then: before, replies: waiting }) => {
                replies.extend(waiting);
                deadline = deadline.min(earlier);
                if before == OnTimeout::Force {
                    then = OnTimeout::Force;
                }
            }
            None => {}
        }
        self.stopped_by = requester.or(self.stopped_by);
        if self.stop.is_none() {
            // A stop takes nothing new, so it goes on without a ledger, too.
            match self.account.intend(
                Step::Stop,
                None,
                if then == OnTimeout::Force { "force" } else { "ask" },
            ) {
                Ok(step) => self.stop = Some(step),
                Err(error) => warn!("{}", crate::chain(&error)),
            }
        }
        if then == OnTimeout::Force && patience.is_zero() {
            return self.force(replies);
        }
        if let Err(error) = self.qemu.monitor.system_powerdown(ANSWER) {
            if then == OnTimeout::Force {
                warn!("the guest can't be asked to shut down, so QEMU is ended: {}", crate::chain(&error));
                return self.force(replies);
            }
            let text = crate::chain(&error);
            self.stop_is_over("failed");
            for reply in replies {
                answered(reply.send(Err(Failure::Failed(text.clone()))));
            }
            return;
        }
        info!("the guest was asked to shut down");
        self.pending = Some(Pending::Stop { deadline, then, replies });
    }

    /// An asked-for stop will not happen: the guest runs on.
    pub(super) fn stop_is_over(&mut self, outcome: &str) {
        self.stopped_by = None;
        if let Some(step) = self.stop.take() {
            said(self.account.note(|tx, _| tx.done(step, outcome)));
        }
    }

    /// Ends QEMU: by its monitor, and if that does not end it, by SIGKILL.
    pub(super) fn force(&mut self, replies: Vec<Reply<()>>) {
        let again = std::mem::replace(&mut self.forced, true);
        if again || self.qemu.monitor.quit(Duration::from_secs(2)).is_err() {
            self.qemu.kill();
        }
        self.pending =
            Some(Pending::Stop { deadline: Instant::now() + QUIT, then: OnTimeout::Force, replies });
    }

    /// SHUTDOWN: the first one says why.
    pub(super) fn shutting_down(&mut self, event: &QmpEvent) {
        let why = match (event.data.get("guest").and_then(serde_json::Value::as_bool), event.text("reason")) {
            (_, Some("guest-panic")) => Shutdown::Panic,
            (Some(true), _) => Shutdown::ByGuest,
            _ => Shutdown::ByHost,
        };
        self.shutdown.get_or_insert(why);
        // With the user's own -no-shutdown QEMU would stay.
        if matches!(self.pending, Some(Pending::Stop { .. })) {
            let _ = self.qemu.monitor.quit(ANSWER);
        }
    }

    /// QEMU has ended: every account is closed.
    pub(super) fn end(mut self, status: ExitStatus) -> Ended {
        // What it said last is still in the stream.
        self.take_events();
        let reason = self.reason(status);
        let mut devices = std::mem::take(&mut self.owed);
        let mut steps: Vec<_> = self.stop.take().into_iter().collect();
        for plugged in &mut self.interfaces {
            self.host.undo(plugged.interface.mac, &mut plugged.interface.lasting);
            devices.append(&mut plugged.interface.devices);
            if let PlugState::Unplugging { step } = plugged.state {
                steps.push(step);
            }
        }
        let event = Event::GuestStop { reason: reason.clone(), vm_pid: Some(self.qemu.id.pid) };
        let last = self.account.record(event, Outcome::Success, self.stopped_by);
        let account = self.account.end(&devices, last, &reason, &steps);
        self.inbox.publish(|snapshot| {
            snapshot.state = "stopped";
            snapshot.interfaces = Vec::new();
        });
        let stopped = match self.pending.take() {
            Some(Pending::Stop { replies, .. }) => replies,
            Some(Pending::Detach { mac, reply, .. }) => {
                let text = format!("The guest ended before it let go of {mac}; its devices are released");
                answered(reply.send(Err(Failure::Failed(text))));
                Vec::new()
            }
            None => Vec::new(),
        };
        self.inbox.close();
        info!("'{}' has ended ({reason}); {} devices closed", self.account.guest().name, devices.len());
        Ended { status, reason, account, stopped }
    }

    fn reason(&self, status: ExitStatus) -> Reason {
        match (self.shutdown, status.signal()) {
            _ if self.forced => Reason::DESTROYED,
            (Some(Shutdown::ByGuest), _) => Reason::SHUTDOWN,
            (Some(Shutdown::ByHost), _) => Reason::DESTROYED,
            (Some(Shutdown::Panic), _) | (None, Some(_)) => Reason::CRASHED,
            (None, None) if status.success() => Reason::SHUTDOWN,
            (None, None) => Reason::CRASHED,
        }
    }
}
