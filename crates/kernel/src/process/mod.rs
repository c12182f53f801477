//! Starting programs with exactly the descriptors meant for them, and knowing who calls.

mod background;
mod credentials;
mod inherit;
mod peer;
mod spawn;
#[cfg(test)]
mod testing;

pub use background::{BackgroundRequest, spawn_background, take_inherited};
pub use credentials::{Credentials, CredentialsError};
pub use peer::{Peer, peer_credentials};
pub use spawn::{SpawnRequest, spawn};
