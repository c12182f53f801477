//! What people and programs see: tables and JSON.
//!
//! This room turns what others know into text, and knows nothing itself: no files, no sockets, no
//! terminal. Names come from outside and may hold anything, so a table never shows a control
//! character as it is.
//!
//! - [`trail_table`]: holdings, and the findings below them.
//! - [`guest_table`], [`nic_table`]: the guests of this host, the interfaces of one.
//! - [`json`]: any of them for programs.

#![forbid(unsafe_code)]

mod guests;
mod json;
mod nics;
mod style;
mod table;
mod text;
mod trail;

pub use guests::{GuestRow, guest_table};
pub use json::json;
pub use nics::{DeviceRow, NicRow, nic_table};
pub use style::Style;
pub use trail::trail_table;
