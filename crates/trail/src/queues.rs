/// The open(2)s of one device that are not closed, each by its queue; libvirt's records know none.
///
/// Most devices have one, which takes no memory of its own.
#[derive(Debug)]
pub(crate) struct Queues {
    first: Option<Option<u32>>,
    more: Vec<Option<u32>>,
}

impl Queues {
    pub(crate) fn one(queue: Option<u32>) -> Self {
        Self { first: Some(queue), more: Vec::new() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<u32>> {
        self.first.into_iter().chain(self.more.iter().copied())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    pub(crate) fn contains(&self, queue: Option<u32>) -> bool {
        self.iter().any(|open| open == queue)
    }

    pub(crate) fn push(&mut self, queue: Option<u32>) {
        match self.first {
            None => self.first = Some(queue),
            Some(_) => self.more.push(queue),
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        other.iter().for_each(|queue| self.push(queue));
    }

    /// Takes this queue, or any where it is not there: a record then names it otherwise.
    pub(crate) fn take(&mut self, queue: Option<u32>) -> Option<u32> {
        if self.first == Some(queue) || self.more.is_empty() {
            let taken = self.first.take();
            self.first = self.more.pop();
            return taken.flatten();
        }
        match self.more.iter().position(|open| *open == queue) {
            Some(at) => self.more.swap_remove(at),
            None => self.more.pop().flatten(),
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
        assert_eq!(queues.take(Some(0)), Some(0));
        assert_eq!(queues.take(Some(2)), Some(2));
        assert!(!queues.contains(Some(0)) && queues.contains(Some(1)) && queues.contains(Some(3)));
        assert!(queues.take(Some(9)).is_some());
        assert!(queues.take(None).is_some());
        assert!(queues.is_empty());
        assert_eq!(queues.take(None), None);
    }
}
