//! One audit record and its text.
//!
//! This room knows what an audit record of a guest's network device *says*: the words
//! ([`MacAddr`], [`Rdev`], [`DeviceKind`], [`GuestId`]) and the grammar that carries them. It
//! does no I/O, holds no state and has no `unsafe`.

#![forbid(unsafe_code)]

mod device;
mod guest;
mod ifname;
mod mac;

pub use device::{DeviceKind, Rdev, RdevError};
pub use guest::GuestId;
pub use ifname::{IfName, IfNameError};
pub use mac::{MacAddr, MacAddrError};
