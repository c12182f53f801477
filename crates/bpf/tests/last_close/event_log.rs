//! The kernel's events, kept in order.

use rustix::event::{PollFd, PollFlags, poll};
use taptrail_bpf::{File, Held, Kernel, KernelEvent, KernelEventKind};
use taptrail_kernel::proc::ProcessId;
use taptrail_record::DeviceKind;

use crate::own;

pub(crate) struct EventLog {
    kernel: Kernel,
    events: Vec<KernelEvent>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { kernel: Kernel::load().unwrap(), events: Vec::new() }
    }

    /// The events so far. A system call's events are available when it returns.
    fn events(&mut self) -> &[KernelEvent] {
        loop {
            let events = self.kernel.poll();
            if events.is_empty() {
                return &self.events;
            }
            self.events.extend(events);
        }
    }

    /// The last event that fulfils a condition.
    fn last(&mut self, is: impl Fn(&KernelEvent) -> bool) -> Option<KernelEvent> {
        self.events().iter().rev().find(|event| is(event)).cloned()
    }

    pub(crate) fn of(
        &mut self,
        process: ProcessId,
        is: impl Fn(&KernelEventKind) -> bool,
    ) -> Option<KernelEvent> {
        self.last(|event| event.by.process == Some(process) && is(&event.what))
    }

    /// This process's last open, which is of this kind.
    pub(crate) fn opened(&mut self, kind: DeviceKind) -> KernelEvent {
        let opened = self
            .of(own(), |what| matches!(what, KernelEventKind::Opened(_)))
            .expect("there is an open event");
        assert!(matches!(opened.what, KernelEventKind::Opened(file) if file.kind == kind), "{opened:?}");
        opened
    }

    pub(crate) fn opened_file(&mut self, kind: DeviceKind) -> File {
        match self.opened(kind).what {
            KernelEventKind::Opened(file) => file,
            _ => unreachable!(),
        }
    }

    /// The last event of a process that received this file, and the descriptor's number there.
    pub(crate) fn received(&mut self, file: File) -> (KernelEvent, u32) {
        let event = self
            .last(|event| matches!(event.what, KernelEventKind::Received { file: of, .. } if of == file))
            .expect("there is a received event");
        let KernelEventKind::Received { fd, .. } = event.what else { unreachable!() };
        (event, fd)
    }

    /// The close event of this file, if there is one; asserts that there are not two.
    pub(crate) fn closed(&mut self, file: File) -> Option<KernelEvent> {
        assert!(file.id.is_some());
        let is = |event: &&KernelEvent| matches!(event.what, KernelEventKind::Closed { file: of, .. } if of == file);
        let mut closes = self.events().iter().filter(is);
        let close = closes.next().cloned();
        assert!(closes.next().is_none(), "two last closes of {file:?}");
        close
    }

    /// Waits until this file is closed.
    pub(crate) fn wait_for_close(&mut self, file: File) {
        while self.closed(file).is_none() {
            poll(&mut [PollFd::new(&self.kernel, PollFlags::IN)], None).unwrap();
        }
    }

    /// The kinds of files that this process closed, and that had no id.
    pub(crate) fn own_closes_without_an_id(&mut self) -> Vec<DeviceKind> {
        let closes = self.events().iter().filter_map(|event| match event.what {
            KernelEventKind::Closed { file, .. } if file.id.is_none() && event.by.process == Some(own()) => {
                Some(file.kind)
            }
            _ => None,
        });
        closes.collect()
    }

    pub(crate) fn descriptors(&mut self) -> Vec<Held> {
        self.kernel.descriptors().unwrap()
    }

    pub(crate) fn holders(&mut self, file: File) -> Vec<Held> {
        self.descriptors().into_iter().filter(|held| held.file == file).collect()
    }

    pub(crate) fn assert_nothing_lost(&self) {
        let lost = self.kernel.lost().unwrap();
        assert!(lost.is_none(), "{lost:?}");
    }
}
