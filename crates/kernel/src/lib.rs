//! Linux interfaces: raw network devices, links, filters, audit, processes.
//!
//! The only crate with `unsafe` and ioctls. All functions are synchronous and act in the network
//! namespace of the calling thread. The crate knows nothing of guests.
//!
//! - [`device`]: opens tun, macvtap and vhost-net, and releases a descriptor only after its open
//!   was recorded.
//! - [`link`](mod@link): rtnetlink.
//! - [`filter`](mod@filter): nftables.
//! - [`audit`]: sends records to the kernel's audit, and proves that they are logged.
//! - [`process`]: starts QEMU with exactly the intended descriptors.
//! - [`proc`]: the devices that processes hold.
//! - [`netns`]: network namespaces.
//! - [`script`](mod@script): programs of the user's that configure a link.
//! - [`ovs`]: ports of Open vSwitch.
//! - [`clock`]: whether the system's clock is synchronised.
//! - [`packet`]: sockets that see the frames by which addresses are learnt.
//! - [`unix_sockets`]: Unix sockets, and the files to which they are connected.
//! - [`changes`]: notifications of changes of links and filters by other programs.

#![allow(unsafe_code)]

pub mod audit;
pub mod changes;
pub mod clock;
pub mod device;
pub mod filter;
#[doc(hidden)]
pub mod fuzzing;
pub mod link;
mod netlink;
pub mod netns;
pub mod ovs;
pub mod packet;
pub mod proc;
pub mod process;
mod program;
pub mod script;
mod socket_filter;
mod sysfs;
mod timeout;
pub mod unix_sockets;

pub use program::ProgramError;
pub use timeout::poll_timeout;
