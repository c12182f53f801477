/// The open(2)s of one device that are not closed.
///
/// Most devices have one, which takes no memory of its own.
#[derive(Debug)]
pub(crate) struct Queues {
    first: Option<OpenQueue>,
    more: Vec<OpenQueue>,
}

/// One open(2) that is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenQueue {
    /// The queue; libvirt's records name none.
    pub(crate) queue: Option<u32>,
    /// The descriptor's number in QEMU, once it was seen there.
    pub(crate) fd: Option<u32>,
}

impl Queues {
    pub(crate) fn one(queue: Option<u32>) -> Self {
        Self { first: Some(OpenQueue { queue, fd: None }), more: Vec::new() }
    }

    pub(crate) fn none() -> Self {
        Self { first: None, more: Vec::new() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &OpenQueue> {
        self.first.iter().chain(&self.more)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    pub(crate) fn contains(&self, queue: Option<u32>) -> bool {
        self.iter().any(|open| open.queue == queue)
    }

    pub(crate) fn has_fd(&self, fd: u32) -> bool {
        self.iter().any(|open| open.fd == Some(fd))
    }

    pub(crate) fn push(&mut self, queue: Option<u32>) {
        self.add(OpenQueue { queue, fd: None });
    }

    fn add(&mut self, open: OpenQueue) {
        match self.first {
            None => self.first = Some(open),
            Some(_) => self.more.push(open),
        }
    }

    /// A descriptor was seen in QEMU: that of a recorded open, as long as some were not seen.
    pub(crate) fn add_seen(&mut self, seen: OpenQueue) {
        let unseen = self.first.iter_mut().chain(&mut self.more).find(|open| open.fd.is_none());
        match unseen {
            Some(open) => *open = seen,
            None => self.add(seen),
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        other.iter().for_each(|open| self.add(*open));
    }

    /// Takes the open of this queue, or any if there is none: records may name queues differently.
    pub(crate) fn take(&mut self, queue: Option<u32>) -> Option<OpenQueue> {
        self.take_by(|open| open.queue == queue)
    }

    /// Takes the open with this descriptor in QEMU, or any.
    pub(crate) fn take_fd(&mut self, fd: u32) -> Option<OpenQueue> {
        self.take_by(|open| open.fd == Some(fd))
    }

    fn take_by(&mut self, is_meant: impl Fn(&OpenQueue) -> bool) -> Option<OpenQueue> {
        if self.first.as_ref().is_some_and(&is_meant) || self.more.is_empty() {
            let taken = self.first.take();
            self.first = self.more.pop();
            return taken;
        }
        match self.more.iter().position(is_meant) {
            Some(at) => Some(self.more.swap_remove(at)),
            None => self.more.pop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_is_taken_once() {
        let mut queues = Queues::one(Some(0));
        [1, 2, 3].into_iter().for_each(|queue| queues.push(Some(queue)));
        assert_eq!(queues.len(), 4);
        assert_eq!(queues.take(Some(0)), Some(OpenQueue { queue: Some(0), fd: None }));
        assert_eq!(queues.take(Some(2)), Some(OpenQueue { queue: Some(2), fd: None }));
        assert!(!queues.contains(Some(0)) && queues.contains(Some(1)) && queues.contains(Some(3)));
        assert!(queues.take(Some(9)).is_some());
        assert!(queues.take(None).is_some());
        assert!(queues.is_empty());
        assert_eq!(queues.take(None), None);
    }

    #[test]
    fn seen_descriptors_fill_recorded_opens_first() {
        let mut queues = Queues::one(None);
        let seen = |number| OpenQueue { queue: Some(number), fd: Some(20 + number) };
        (0..3).for_each(|number| queues.add_seen(seen(number)));
        assert_eq!(queues.iter().copied().collect::<Vec<_>>(), [seen(0), seen(1), seen(2)]);
        assert!(queues.has_fd(22) && !queues.has_fd(2));
        assert_eq!(queues.take_fd(21), Some(seen(1)));
        assert_eq!((queues.take_fd(20), queues.take_fd(22)), (Some(seen(0)), Some(seen(2))));
        assert!(queues.is_empty());
    }
}
