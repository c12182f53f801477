//! A trail for people: interface sessions, or their devices, as a table.

mod columns;
mod devices;
mod live;
mod session;
mod table;
mod timeline;

pub use columns::{Column, ColumnError, Columns};
pub(crate) use devices::{name as device_name, real as real_devices};
pub use live::{LiveEvent, LiveRow, live_events, live_rows};
pub use session::Session;
pub(crate) use table::sessions;
pub use timeline::timeline;
