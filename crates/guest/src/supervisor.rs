//! A guest's supervisor: claims the guest, serves its API, drives it, and tells how it ended.

use std::path::Path;
use std::time::Duration;

use taptrail_record::GuestId;
use tracing::warn;
use uuid::Uuid;

use crate::callers::Callers;
use crate::driver::{self, AdoptError, AdoptOptions, Driver, Ended, Options, Place, StartError};
use crate::process::process_id;
use crate::request::Inbox;
use crate::run_dir::{Claim, RunDirError};
use crate::server::ApiServer;
use crate::unrecorded::{UnrecordedError, in_the_way};

/// A guest could not be supervised.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The guest can't be claimed.
    #[error(transparent)]
    Claim(#[from] RunDirError),
    /// A guest of this name or uuid runs on no record.
    #[error(
        "Guest '{name}' runs already, as pid {pid}, and is not on record here: `taptrail list` tells what to do with it"
    )]
    Unrecorded {
        /// Its name, or uuid.
        name: String,
        /// Its QEMU's, or its supervisor's.
        pid: u32,
    },
    /// Whether one does can't be seen.
    #[error("Whether the guest runs already can't be seen")]
    Look(#[from] UnrecordedError),
    /// What is said can't be taken where it is to go.
    #[error("The guest's log can't be created")]
    Log(#[source] std::io::Error),
    /// The API can't be served.
    #[error("The guest's API can't be served")]
    Api(#[source] std::io::Error),
    /// The guest did not start.
    #[error("Guest '{name}' did not start")]
    Start {
        /// Its name.
        name: String,
        /// Why.
        source: Box<StartError>,
    },
    /// The guest can't be taken up.
    #[error("Guest '{name}' can't be adopted")]
    Adopt {
        /// Its name.
        name: String,
        /// Why.
        source: Box<AdoptError>,
    },
}

/// A guest that runs, as told to who started it.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// QEMU's pid.
    pub pid: u32,
    /// The guest's uuid.
    pub uuid: Uuid,
}

/// Who has a guest supervised, and hears of it.
pub trait Observer {
    /// The guest's directory is ours. Nothing was started yet.
    ///
    /// # Errors
    /// Nothing is then.
    fn claimed(&mut self, directory: &Path) -> std::io::Result<()>;

    /// QEMU runs the guest.
    fn running(&mut self, running: Running);
}

/// Starts the guest and supervises it until it ends, and lets the observer hear of it.
/// SIGINT, SIGTERM and SIGHUP ask the guest to shut down and give it `patience`.
///
/// # Errors
/// When it did not start; nothing of it is left over then.
pub fn supervise(
    options: Options,
    patience: Duration,
    observer: &mut dyn Observer,
) -> Result<Ended, SuperviseError> {
    let mut claim = Claim::take(&options.dirs.run, &options.guest.name)?;
    claim.check_monitor_unused(&options.guest.name)?;
    if let Some(other) = in_the_way(&options.dirs, &options.guest)? {
        let pid = other.pid().or(other.supervisor).unwrap_or_default();
        let name = other.name.unwrap_or_else(|| other.uuid.to_string());
        return Err(SuperviseError::Unrecorded { name, pid });
    }
    observer.claimed(claim.path()).map_err(SuperviseError::Log)?;
    let place = Place { monitor: claim.listen("monitor")?, monitor_path: claim.socket("monitor") };
    let (inbox, server) = serve(&claim, &options.guest, &options.allow, patience)?;
    let name = options.guest.name.clone();
    let ended = driver::run(options, place, &inbox, |driver: &Driver| say_ready(&name, driver, observer));
    if !ended.as_ref().is_ok_and(ended_well) {
        claim.keep_log();
    }
    farewell(claim, &inbox, server, ended)
        .map_err(|source| SuperviseError::Start { name: name.into(), source: Box::new(source) })
}

/// Takes up a guest whose supervisor ended before it, and supervises it until it ends; else as
/// [`supervise`].
///
/// # Errors
/// When it can't be taken up; it runs on as before then.
pub fn adopt(
    options: &AdoptOptions,
    patience: Duration,
    observer: &mut dyn Observer,
) -> Result<Ended, SuperviseError> {
    let failed = |source| SuperviseError::Adopt { name: options.name.clone(), source: Box::new(source) };
    let mut claim = Claim::take(&options.dirs.run, &options.name)?;
    claim.leave(true);
    let Some((guest, qemu)) = driver::orphan(&options.dirs, &options.name).map_err(failed)? else {
        return Err(failed(AdoptError::Unknown(options.name.clone())));
    };
    let supervisor = process_id(guest.supervisor);
    if supervisor.is_alive() {
        // It has the guest in another run directory.
        return Err(
            RunDirError::Taken { name: options.name.clone(), supervisor: Some(supervisor.pid) }.into()
        );
    }
    driver::check_callers(options, qemu).map_err(failed)?;
    observer.claimed(claim.path()).map_err(SuperviseError::Log)?;
    let (inbox, server) = serve(&claim, &guest.id, &options.allow, patience)?;
    let monitor = claim.socket("monitor");
    let ended = driver::adopt(options, &monitor, &inbox, |driver: &Driver| {
        say_ready(&options.name, driver, observer);
    });
    if let Ok(ended) = &ended {
        claim.leave(false);
        if !ended_well(ended) {
            claim.keep_log();
        }
    }
    farewell(claim, &inbox, server, ended).map_err(failed)
}

/// Serves the guest's API to who is allowed; what is asked comes into the inbox.
fn serve(
    claim: &Claim,
    guest: &GuestId,
    allow: &[u32],
    patience: Duration,
) -> Result<(Inbox, ApiServer), SuperviseError> {
    let inbox = Inbox::new().map_err(SuperviseError::Api)?;
    let callers = Callers::new(allow);
    let listener = claim.listen("api")?;
    if callers.are_more() {
        claim.admit_others()?;
    }
    let server = ApiServer::start(listener, guest.clone(), inbox.clone(), callers, patience)
        .map_err(SuperviseError::Api)?;
    Ok((inbox, server))
}

fn say_ready(name: &str, driver: &Driver, observer: &mut dyn Observer) {
    let pid = driver.qemu_pid();
    // Best effort: not every supervisor has a service manager above it.
    let _ = sd_notify::notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&format!("{name} runs, QEMU has pid {pid}")),
    ]);
    observer.running(Running { pid, uuid: driver.uuid() });
}

fn ended_well(ended: &Ended) -> bool {
    // Of an adopted QEMU there is no status; its reason tells as much.
    let well = ended.status.map_or_else(|| ended.reason.is_orderly(), |status| status.success());
    well && ended.account.is_ok()
}

/// Answers who waits, and is gone.
fn farewell<E>(
    claim: Claim,
    inbox: &Inbox,
    server: ApiServer,
    mut ended: Result<Ended, E>,
) -> Result<Ended, E> {
    inbox.close();
    if let Ok(Ended { account: Err(error), .. }) = &ended {
        warn!("The account can't be closed: {}", crate::chain(error));
    }
    // The name is free before anybody hears that the guest has stopped.
    drop(claim);
    if let Ok(ended) = &mut ended {
        ended.answer();
    }
    server.end();
    ended
}
