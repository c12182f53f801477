/// How it was proven that a record is in the kernel's audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogProof {
    /// The kernel multicast the record as logged, with exactly the text that was sent.
    ReadBack,
    /// Auditing is on and the kernel's `lost` counter did not grow. A rule that filters the record
    /// can't be seen this way.
    Counters,
    /// The kernel acknowledged the record, and neither proof is possible here: it may be lost.
    AckOnly,
}

impl LogProof {
    /// False for a record that was only acknowledged.
    pub fn is_proven(self) -> bool {
        self != Self::AckOnly
    }
}
