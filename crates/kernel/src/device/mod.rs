//! Opens raw network devices, and keeps their descriptors inaccessible until their open is
//! recorded.
//!
//! ```text
//!   open_tap, open_macvtap, open_vhost_net, open_vhost_vdpa, open_vhost_user
//!        │ one Attempt for each open(2), its descriptor locked inside
//!        ▼
//!      admit(attempts, recorder) ── it refuses ──▶ every descriptor is closed
//!        │ each open is on record
//!        ▼
//!     Admitted: AsFd and pass(), and the only thing that reaches a QEMU
//! ```
//!
//! **A device that is not recorded can't be passed to QEMU: code that tries does not compile.** An
//! [`Attempt`] shows what was opened ([`OpenFacts`]) but not its descriptor; only [`admit`] turns
//! it into an [`Admitted`], after the [`OpenRecorder`] has recorded it.
//!
//! Opening stops at the first failure, and returns the error with all opens until then: even if a
//! step after an open(2) fails, the device was open.
//!
//! ```no_run
//! use taptrail_kernel::device::{OpenRecorder, DEV_NET_TUN, OpenFacts, TapName, TapRequest, open_tap};
//!
//! struct FakeRecorder(Vec<OpenFacts>);
//!
//! impl OpenRecorder for FakeRecorder {
//!     type Error = std::convert::Infallible;
//!     fn record(&mut self, opens: &[OpenFacts]) -> Result<(), Self::Error> {
//!         self.0.extend_from_slice(opens);
//!         Ok(())
//!     }
//! }
//!
//! let one = std::num::NonZeroU16::MIN;
//! let request =
//!     TapRequest { path: DEV_NET_TUN.as_ref(), name: TapName::Pattern("vnet%d"), queues: one, vnet_hdr: true };
//! let (devices, error) = open_tap(&request).admit(&mut FakeRecorder(Vec::new()))?;
//! # Ok::<(), std::convert::Infallible>(())
//! ```

mod error;
mod gate;
mod ifreq;
mod macvtap;
mod node;
mod pass;
mod tun;
mod vdpa;
mod vhost;
mod vhost_user;

pub use error::DeviceError;
pub use gate::{Admitted, Attempt, OpenFacts, OpenRecorder, Opening, admit};
pub use macvtap::{MacvtapRequest, open_macvtap};
pub use node::NodeType;
pub use tun::{DEV_NET_TUN, TapName, TapRequest, open_tap};
pub use vdpa::{VdpaRequest, open_vhost_vdpa};
pub use vhost::{DEV_VHOST_NET, open_vhost_net};
pub use vhost_user::open_vhost_user;
