//! The mark of holdings and findings that rest on lines whose writer is not authenticated.

/// The line below a table that has [`UNAUTHENTICATED_MARK`]s.
pub(crate) const UNAUTHENTICATED_FOOTNOTE: &str =
    "* not authenticated: shown by a log's text, which any local user can write\n";

/// Stands behind a certainty or a location that is not authenticated.
pub(crate) const UNAUTHENTICATED_MARK: &str = "*";
