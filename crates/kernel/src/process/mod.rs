//! Starts programs with exactly the intended descriptors and privileges; drops privileges of this
//! process; identifies the peers of sockets.

mod background;
mod confine;
mod credentials;
mod dev;
mod inherit;
mod landlock;
mod limits;
mod memory;
mod namespace;
mod peer;
mod privileged;
mod privileges;
mod sandbox;
mod spawn;
#[cfg(test)]
mod testing;

pub use background::{BackgroundRequest, spawn_background, spawn_unprivileged, take_inherited};
pub(crate) use confine::confine;
pub use credentials::{Credentials, CredentialsError};
pub use dev::{PrivateDev, PrivateDevError};
pub use landlock::landlock_version;
pub use limits::{Limit, LimitError};
pub use memory::release_text_pages;
pub use peer::{Peer, peer_credentials};
pub use privileged::{become_caller, sanitize_process, take_only_inherited};
pub use sandbox::{AllowedBpf, drop_all_capabilities, sandbox_after_start, sandbox_to_stdio};
pub use spawn::{SpawnRequest, spawn};
