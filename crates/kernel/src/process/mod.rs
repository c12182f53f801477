//! Starting programs with exactly the descriptors and rights meant for them, and knowing who calls.

mod background;
mod credentials;
mod dev;
mod inherit;
mod landlock;
mod limits;
mod lower;
mod memory;
mod namespace;
mod peer;
mod restrain;
mod spawn;
#[cfg(test)]
mod testing;

pub use background::{BackgroundRequest, spawn_background, take_inherited};
pub use credentials::{Credentials, CredentialsError};
pub use dev::{PrivateDev, PrivateDevError};
pub use limits::{Limit, LimitError};
pub use memory::shed_code;
pub use peer::{Peer, peer_credentials};
pub use restrain::{BpfLeft, renounce, restrain};
pub use spawn::{SpawnRequest, spawn};
