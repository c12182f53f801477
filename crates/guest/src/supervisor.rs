//! A guest's supervisor: claims the guest, serves its API, drives it, and tells how it ended.

use std::time::Duration;

use tracing::warn;

use crate::driver::{self, Driver, Ended, Options, Place, StartError};
use crate::request::Inbox;
use crate::run_dir::{Claim, RunDirError};
use crate::server::ApiServer;

/// A guest could not be supervised.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The guest can't be claimed.
    #[error(transparent)]
    Claim(#[from] RunDirError),
    /// The API can't be served.
    #[error("API of the guest can't be served")]
    Api(#[source] std::io::Error),
    /// The guest did not start.
    #[error("Guest '{name}' did not start")]
    Start {
        /// Its name.
        name: String,
        /// Why.
        source: Box<StartError>,
    },
}

/// A guest that runs, as told to who started it.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// QEMU's pid.
    pub pid: u32,
}

/// Starts the guest and supervises it until it ends. `ready` is called once QEMU runs it;
/// SIGINT, SIGTERM and SIGHUP ask the guest to shut down and give it `patience`.
pub fn supervise(
    options: Options,
    patience: Duration,
    ready: impl FnOnce(Running),
) -> Result<Ended, SuperviseError> {
    let mut claim = Claim::take(&options.dirs.run, &options.guest.name)?;
    let place = Place { monitor: claim.listen("monitor")?, monitor_path: claim.socket("monitor") };
    let inbox = Inbox::new().map_err(SuperviseError::Api)?;
    let server = ApiServer::start(claim.listen("api")?, options.guest.clone(), inbox.clone(), patience)
        .map_err(SuperviseError::Api)?;
    let name = options.guest.name.clone();
    let mut ended = driver::run(options, place, &inbox, |driver: &Driver| {
        // Best effort: not every supervisor has a service manager above it.
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Ready,
            sd_notify::NotifyState::Status(&format!("{name} runs, QEMU has pid {}", driver.qemu_pid())),
        ]);
        ready(Running { pid: driver.qemu_pid() });
    });
    inbox.close();
    if let Ok(Ended { account: Err(error), .. }) = &ended {
        warn!("The account can't be closed: {}", crate::chain(error));
    }
    if !ended.as_ref().is_ok_and(|ended| ended.status.success() && ended.account.is_ok()) {
        claim.keep_log();
    }
    // The name is free before anybody hears that the guest has stopped.
    drop(claim);
    if let Ok(ended) = &mut ended {
        ended.answer();
    }
    server.end();
    ended.map_err(|source| SuperviseError::Start { name: name.into(), source: Box::new(source) })
}
