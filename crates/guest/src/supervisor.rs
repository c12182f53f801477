//! A guest's supervisor: locks the guest's run directory, serves its API, drives it, and returns
//! how it ended.

use std::path::Path;
use std::time::Duration;

use taptrail_record::GuestId;
use tracing::warn;
use uuid::Uuid;

use crate::account::process_id;
use crate::callers::Callers;
use crate::driver::{self, AdoptError, AdoptOptions, Driver, Ended, MonitorSocket, StartError, StartOptions};
use crate::request::Inbox;
use crate::run_dir::{RunDirError, RunDirLock};
use crate::server::ApiServer;
use crate::unrecorded::{UnrecordedError, conflicting_guest};

/// A guest could not be supervised.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The guest's run directory can't be locked.
    #[error(transparent)]
    Claim(#[from] RunDirError),
    /// A guest of this name or uuid runs without an open account.
    #[error(
        "Guest '{name}' runs already, as pid {pid}, and is not on record here: `taptrail list` shows what to do about it"
    )]
    Unrecorded {
        /// Its name, or uuid.
        name: String,
        /// The pid of its QEMU, or else of its supervisor.
        pid: u32,
    },
    /// Whether such a guest runs can't be determined.
    #[error("Whether the guest runs already can't be seen")]
    Look(#[from] UnrecordedError),
    /// The log can't be created or forwarded.
    #[error("The guest's log can't be created")]
    Log(#[source] std::io::Error),
    /// The API can't be served.
    #[error("The guest's API can't be served")]
    Api(#[source] std::io::Error),
    /// The guest did not start.
    #[error("Guest '{name}' did not start")]
    Start {
        /// The guest's name.
        name: String,
        /// The error beneath it, which says why.
        source: Box<StartError>,
    },
    /// The guest can't be adopted.
    #[error("Guest '{name}' can't be adopted")]
    Adopt {
        /// The guest's name.
        name: String,
        /// The error beneath it, which says why.
        source: Box<AdoptError>,
    },
}

/// A running guest, as reported to the process that started the supervisor.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// The pid of the guest's QEMU.
    pub pid: u32,
    /// The guest's uuid.
    pub uuid: Uuid,
}

/// The caller of [`supervise`] or [`adopt`], which is notified of the start.
pub trait Observer {
    /// The guest's directory is locked. Nothing was started yet.
    ///
    /// # Errors
    /// Then nothing is started.
    fn claimed(&mut self, directory: &Path) -> std::io::Result<()>;

    /// QEMU runs the guest, and the API is served.
    fn running(&mut self, running: Running);
}

/// Starts the guest and supervises it until it ends; notifies the observer. SIGINT, SIGTERM and
/// SIGHUP ask the guest to shut down, and give it `patience`.
///
/// # Errors
/// When the guest did not start; then nothing of it is left over.
pub fn supervise(
    options: StartOptions,
    patience: Duration,
    observer: &mut dyn Observer,
) -> Result<Ended, SuperviseError> {
    let mut run_dir = RunDirLock::acquire(&options.dirs.run, &options.guest.name)?;
    run_dir.check_monitor_unused(&options.guest.name)?;
    if let Some(other) = conflicting_guest(&options.dirs, &options.guest)? {
        let pid = other.pid().or(other.supervisor).unwrap_or_default();
        let name = other.name.unwrap_or_else(|| other.uuid.to_string());
        return Err(SuperviseError::Unrecorded { name, pid });
    }
    observer.claimed(run_dir.path()).map_err(SuperviseError::Log)?;
    let socket = MonitorSocket { listener: run_dir.listen("monitor")?, path: run_dir.socket("monitor") };
    let (inbox, server) = serve(&run_dir, &options.guest, &options.allow, patience)?;
    let name = options.guest.name.clone();
    let ended = driver::run(options, socket, &inbox, |driver: &Driver| notify_ready(&name, driver, observer));
    if !ended.as_ref().is_ok_and(ended_well) {
        run_dir.keep_log();
    }
    shut_down(run_dir, &inbox, server, ended)
        .map_err(|source| SuperviseError::Start { name: name.into(), source: Box::new(source) })
}

/// Adopts a guest whose supervisor has ended, and supervises it until it ends; otherwise as
/// [`supervise`].
///
/// # Errors
/// When the guest can't be adopted; then it runs on as before.
pub fn adopt(
    options: &AdoptOptions,
    patience: Duration,
    observer: &mut dyn Observer,
) -> Result<Ended, SuperviseError> {
    let failed = |source| SuperviseError::Adopt { name: options.name.clone(), source: Box::new(source) };
    let mut run_dir = RunDirLock::acquire(&options.dirs.run, &options.name)?;
    run_dir.keep_for_adoption(true);
    let Some((guest, qemu)) = driver::orphan(&options.dirs, &options.name).map_err(failed)? else {
        return Err(failed(AdoptError::Unknown(options.name.clone())));
    };
    let supervisor = process_id(guest.supervisor);
    if supervisor.is_alive() {
        // The supervisor serves the guest in another run directory.
        return Err(
            RunDirError::Taken { name: options.name.clone(), supervisor: Some(supervisor.pid) }.into()
        );
    }
    driver::check_callers(options, qemu).map_err(failed)?;
    observer.claimed(run_dir.path()).map_err(SuperviseError::Log)?;
    let (inbox, server) = serve(&run_dir, &guest.id, &options.allow, patience)?;
    let monitor = run_dir.socket("monitor");
    let ended = driver::adopt(options, &monitor, &inbox, |driver: &Driver| {
        notify_ready(&options.name, driver, observer);
    });
    if let Ok(ended) = &ended {
        run_dir.keep_for_adoption(false);
        if !ended_well(ended) {
            run_dir.keep_log();
        }
    }
    shut_down(run_dir, &inbox, server, ended).map_err(failed)
}

/// Serves the guest's API to the allowed users; their requests come into the inbox.
fn serve(
    run_dir: &RunDirLock,
    guest: &GuestId,
    allow: &[u32],
    patience: Duration,
) -> Result<(Inbox, ApiServer), SuperviseError> {
    let inbox = Inbox::new().map_err(SuperviseError::Api)?;
    let callers = Callers::new(allow);
    let listener = run_dir.listen("api")?;
    if callers.has_extra() {
        run_dir.allow_all_users()?;
    }
    let server = ApiServer::start(listener, guest.clone(), inbox.clone(), callers, patience)
        .map_err(SuperviseError::Api)?;
    Ok((inbox, server))
}

fn notify_ready(name: &str, driver: &Driver, observer: &mut dyn Observer) {
    let pid = driver.qemu_pid();
    // Best effort: not every supervisor has a service manager above it.
    let _ = sd_notify::notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&format!("{name} runs, QEMU has pid {pid}")),
    ]);
    observer.running(Running { pid, uuid: driver.uuid() });
}

fn ended_well(ended: &Ended) -> bool {
    // An adopted QEMU has no exit status that we could read: its reason decides.
    let well = ended.status.map_or_else(|| ended.reason.is_orderly(), |status| status.success());
    well && ended.account.is_ok()
}

/// Releases the guest's name, answers the clients that wait for the stop, and ends the server.
fn shut_down<E>(
    run_dir: RunDirLock,
    inbox: &Inbox,
    server: ApiServer,
    mut ended: Result<Ended, E>,
) -> Result<Ended, E> {
    inbox.close();
    if let Ok(Ended { account: Err(error), .. }) = &ended {
        warn!("The account can't be closed: {}", crate::chain(error));
    }
    // The name can be reused before any client gets the answer that the guest has stopped.
    drop(run_dir);
    if let Ok(ended) = &mut ended {
        ended.answer();
    }
    server.end();
    ended
}
