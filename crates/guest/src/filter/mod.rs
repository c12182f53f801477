//! Filters: what the guest of an interface may send and receive, in the terms of libvirt's network
//! filters.
//!
//! ```text
//! shipped.toml, the user's TOML ──┐
//!                                 ├── text ── Definition ── Store ──┐
//! libvirt's <filter> XML ─────────┘                                 ├── compile ── kernel's Rules
//!                      SPEC, <filterref> ── FilterChoice (parameters) ──┘
//! ```
//!
//! A `Definition` has rules on a protocol's attributes, in a chain with a
//! priority, and references to other filters. Variables (`$MAC`, `$IP`) get their values where an
//! interface chooses the filter. The reference for users is `docs/filters.md`.

mod attribute;
mod choice;
mod compile;
mod definition;
mod error;
mod store;
mod text;

#[cfg(test)]
mod tests;

pub use self::choice::FilterChoice;
pub(crate) use self::definition::is_filter_name;
pub use self::error::FilterProblem;
pub use self::store::{FILTERS_DIR, FilterLoadError, Store};
pub use self::text::{FILTER_TEXT_LIMIT, FilterTextError, FilterTextProblem, MalformedText};
