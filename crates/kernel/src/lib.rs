//! Linux's side: raw network devices, links, filters, audit, processes.
//!
//! The only room with `unsafe` and ioctls. Everything here is synchronous, acts in the network
//! namespace of the calling thread, and knows nothing of guests: it is asked for one thing, and
//! says what came of it.
//!
//! - [`device`]: opens tun, macvtap and vhost-net, and lets a descriptor out only when its open is
//!   on record.
//! - [`link`](mod@link): rtnetlink.
//! - [`filter`](mod@filter): nftables.
//! - [`audit`]: records to the kernel's audit, and proof that they are logged.
//! - [`process`]: QEMU started with the intended descriptors, and nothing else.
//! - [`proc`]: what processes really hold.
//! - [`netns`]: network namespaces.
//! - [`changes`]: what others change of links and filters.

#![allow(unsafe_code)]

pub mod audit;
pub mod changes;
pub mod device;
pub mod filter;
pub mod link;
mod netlink;
pub mod netns;
pub mod proc;
pub mod process;
mod sysfs;
