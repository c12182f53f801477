//! A process of a test's own.

use std::ops::{Deref, DerefMut};
use std::process::Child;

/// A process that is killed with this value, also when the test fails.
pub(crate) struct OwnedChild(Child);

impl From<Child> for OwnedChild {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Deref for OwnedChild {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for OwnedChild {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // It may have ended, or have been waited for.
        let _ = self.kill();
        let _ = self.wait();
    }
}
