//! Answers that rest on lines of which nobody vouches for who wrote them.

/// The line below a table that has [`MARK`]s.
pub(crate) const FOOTNOTE: &str =
    "* not authenticated: shown by a log's text, which any local user can write\n";

/// Behind what is not authenticated.
pub(crate) const MARK: &str = "*";
