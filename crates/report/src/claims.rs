//! Answers that rest on lines of which nobody vouches for who wrote them.

use std::collections::HashSet;

use taptrail_trail::{Input, Proof};

/// The line below a table that has [`MARK`]s.
pub(crate) const FOOTNOTE: &str =
    "* not authenticated: shown by a log's text, which any local user can write\n";

/// Behind what is not authenticated.
pub(crate) const MARK: &str = "*";

/// The inputs whose lines only say who wrote them.
#[derive(Debug, Default)]
pub(crate) struct Claims<'a>(HashSet<&'a str>);

impl<'a> Claims<'a> {
    pub(crate) fn of(input: &'a Input) -> Self {
        let files = input.files.iter().filter(|file| file.unauthenticated > 0);
        Self(files.map(|file| &*file.path).collect())
    }

    /// Whether no other input has the event of a proof than such.
    pub(crate) fn has(&self, proof: &Proof) -> bool {
        let is_claim = |source: &str| self.0.contains(source);
        !self.0.is_empty()
            && is_claim(&proof.source)
            && proof.copies.iter().all(|copy| is_claim(&copy.source))
    }

    /// Whether one of some proofs is such.
    pub(crate) fn any(&self, proofs: &[Proof]) -> bool {
        proofs.iter().any(|proof| self.has(proof))
    }
}
