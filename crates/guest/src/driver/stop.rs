//! The guest's end: requested, forced, or by itself.

use std::time::{Duration, Instant};

use taptrail_ledger::Step;
use taptrail_qmp::Event as QmpEvent;
use taptrail_record::{Event, Outcome, Reason, Requester};
use tracing::{info, warn};

use super::qemu::Exit;
use super::{
    Driver, Ended, MONITOR_TIMEOUT, Pending, PlugState, QUIT_TIMEOUT, Shutdown, StopWait, UnplugFailure,
    log_error, log_if_client_gone,
};
use crate::account::LedgerBatch;
use crate::handover::OpenFileCounts;
use crate::request::{Failure, OnTimeout, Reply};
use crate::state::GuestState;

impl Driver {
    pub(super) fn stop(
        &mut self,
        patience: Duration,
        then: OnTimeout,
        requester: Option<Requester>,
        reply: Option<Reply<()>>,
    ) {
        let mut waits = match self.pending.take() {
            Some(Pending::Detach { id, requester, reply, .. }) => {
                self.unplug_failed(&id, requester, UnplugFailure::Stopping, reply);
                Vec::new()
            }
            Some(Pending::Stop(waits)) => waits,
            None => Vec::new(),
        };
        self.stopped_by = requester.or(self.stopped_by);
        waits.push(StopWait { deadline: Instant::now() + patience, then, reply });
        if then == OnTimeout::Force && patience.is_zero() {
            // The intent is written afterwards: a forced stop must not wait for a ledger that can't
            // be written.
            self.force(waits);
            return self.intend_to_stop("force");
        }
        self.intend_to_stop("ask");
        crash_point!("stop::intended");
        match self.qemu.monitor.system_powerdown(MONITOR_TIMEOUT) {
            Ok(()) => {
                info!("the guest was asked to shut down");
                self.pending = Some(Pending::Stop(waits));
            }
            Err(error) if waits.iter().any(|wait| wait.then == OnTimeout::Force) => {
                warn!("the guest can't be asked to shut down, so QEMU is ended: {}", crate::chain(&error));
                self.force(waits);
            }
            Err(error) => {
                self.stop_is_over("failed");
                for reply in waits.into_iter().filter_map(|wait| wait.reply) {
                    log_if_client_gone(reply.send(Err(Failure::Failed(crate::chain(&error)))));
                }
            }
        }
    }

    /// Handles waits whose deadline has passed: a forced one ends QEMU; for the others the client
    /// learns that the guest runs on.
    pub(super) fn stop_timed_out(&mut self, waits: Vec<StopWait>, now: Instant) {
        if waits.iter().any(|wait| wait.then == OnTimeout::Force && wait.deadline <= now) {
            return self.force(waits);
        }
        let (over, waits): (Vec<_>, Vec<_>) = waits.into_iter().partition(|wait| wait.deadline <= now);
        for reply in over.into_iter().filter_map(|wait| wait.reply) {
            log_if_client_gone(reply.send(Err(Failure::TimedOut(format!(
                "Guest '{}' did not shut down in time and runs on: try again, or end it with --force",
                self.account.guest().name
            )))));
        }
        if waits.is_empty() {
            self.stop_is_over("timed out");
        } else {
            self.pending = Some(Pending::Stop(waits));
        }
    }

    /// Writes the intent to stop. A stop grants nothing, so it goes on if the ledger can't be
    /// written.
    fn intend_to_stop(&mut self, how: &str) {
        if self.stop.is_none() {
            match self.account.intend(Step::Stop, None, how) {
                Ok(step) => self.stop = Some(step),
                Err(error) => warn!("{}", crate::chain(&error)),
            }
        }
    }

    /// A stop has failed: the guest runs on.
    pub(super) fn stop_is_over(&mut self, outcome: &str) {
        self.stopped_by = None;
        if let Some(step) = self.stop.take() {
            log_error(self.account.post(LedgerBatch::default().complete_steps(&[step], outcome)));
        }
    }

    /// Ends QEMU: by its monitor, or else by SIGKILL.
    fn force(&mut self, mut waits: Vec<StopWait>) {
        let again = std::mem::replace(&mut self.forced, true);
        if again || self.qemu.monitor.quit(Duration::from_secs(2)).is_err() {
            self.qemu.kill();
        }
        // From here on all clients wait for QEMU's end.
        for wait in &mut waits {
            wait.deadline = Instant::now() + QUIT_TIMEOUT;
            wait.then = OnTimeout::Force;
        }
        self.pending = Some(Pending::Stop(waits));
    }

    /// SHUTDOWN: the first event has the reason.
    pub(super) fn shutting_down(&mut self, event: &QmpEvent) {
        let why = match (event.data.get("guest").and_then(serde_json::Value::as_bool), event.text("reason")) {
            (_, Some("guest-panic")) => Shutdown::Panic,
            (Some(true), _) => Shutdown::ByGuest,
            _ => Shutdown::ByHost,
        };
        self.shutdown.get_or_insert(why);
        // With the user's own -no-shutdown QEMU would stay.
        if matches!(self.pending, Some(Pending::Stop(_))) {
            let _ = self.qemu.monitor.quit(MONITOR_TIMEOUT);
        }
    }

    /// QEMU has ended: closes the account.
    pub(super) fn end(mut self, exit: Exit) -> Ended {
        // Its last events are still in the stream.
        self.take_events(usize::MAX);
        crash_point!("stop::ended");
        let reason = self.reason(exit);
        let mut devices = Vec::new();
        let mut steps: Vec<_> = self.stop.take().into_iter().collect();
        let mut counts = OpenFileCounts::default();
        for attached in &mut self.interfaces {
            devices.extend(attached.interface.end(&mut self.host, &mut counts));
            if let PlugState::Unplugging { step: Some(step) } = attached.state {
                steps.push(step);
            }
        }
        crash_point!("stop::undone");
        let event = Event::GuestStop { reason: reason.clone(), vm_pid: Some(self.qemu.id.pid) };
        let last = self.account.record(event, Outcome::Success, self.stopped_by);
        let batch = LedgerBatch::default().close_devices(&self.account, &devices).record(last);
        let account = self.account.end(batch.complete_steps(&steps, reason.as_str()).end_guest(&reason));
        self.inbox.publish(|snapshot| {
            snapshot.state = GuestState::Stopped;
            snapshot.interfaces = Vec::new();
            snapshot.reason = Some(reason.clone());
        });
        let stopped = match self.pending.take() {
            Some(Pending::Stop(waits)) => waits.into_iter().filter_map(|wait| wait.reply).collect(),
            Some(Pending::Detach { reply, .. }) => {
                let text = "The guest ended before it let go of the NIC; its devices are released".to_owned();
                log_if_client_gone(reply.send(Err(Failure::Failed(text))));
                Vec::new()
            }
            None => Vec::new(),
        };
        self.inbox.close();
        info!(
            "'{}' has ended ({reason}); {} closed",
            self.account.guest().name,
            crate::descriptors(devices.len())
        );
        Ended { status: exit.status(), reason, account, stopped }
    }

    fn reason(&self, exit: Exit) -> Reason {
        match (self.shutdown, exit) {
            _ if self.forced => Reason::DESTROYED,
            (Some(Shutdown::ByGuest), _) => Reason::SHUTDOWN,
            (Some(Shutdown::ByHost), _) => Reason::DESTROYED,
            (Some(Shutdown::Panic), _) => Reason::CRASHED,
            (None, Exit::Seen(status)) if status.success() => Reason::SHUTDOWN,
            (None, Exit::Seen(_)) => Reason::CRASHED,
            // QEMU emits SHUTDOWN when it ends in order.
            (None, Exit::Unseen) if self.qemu.monitor_worked() => Reason::CRASHED,
            (None, Exit::Unseen) => Reason::UNKNOWN,
        }
    }
}
