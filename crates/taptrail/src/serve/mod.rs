//! `taptrail serve`: the page of `report` over HTTP, kept up to date.

mod feed;
mod guard;
mod http;

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use taptrail_guest::Dirs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::feed::Feed;
use self::guard::{Guard, Token};
use crate::CommandResult;
use crate::cli::Serve;
use crate::output::Failure;
use crate::queries::Query;

/// How long clients may take to read what they were sent, after the signal to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The size of a token file at most, in bytes.
const MAX_TOKEN_BYTES: u64 = 4096;

pub(crate) fn serve(arguments: &Serve, dirs: &Dirs) -> CommandResult {
    if !arguments.listen.ip().is_loopback() && arguments.no_token {
        return Err(Failure::input(anyhow::anyhow!(
            "{} is no loopback address: without a token, everybody who can reach it could read the trail",
            arguments.listen
        )));
    }
    // An audit log is root's alone, and every user of a host can reach its loopback addresses.
    let token = match &arguments.token_file {
        _ if arguments.no_token => None,
        Some(file) => Some(token(file)?),
        None => Some(Token::random()),
    };
    let shown = match &token {
        Some(token) if arguments.token_file.is_none() => format!("?token={}", token.text()),
        _ => String::new(),
    };
    let mut query = Query::new(arguments.utc);
    query.about(&arguments.selection);
    query.times(&arguments.times)?;
    // Read before listening: an error is printed as any other.
    let mut feed = Feed::new(arguments, dirs, query.filter);
    let first = feed.next()?.context("The trail could not be read")?;
    let listener = TcpListener::bind(arguments.listen)
        .with_context(|| format!("{} can't be listened on", arguments.listen))?;
    let address = listener.local_addr().context("The address can't be read")?;
    let guard = Guard::new(address, &arguments.allow_host, token);
    announce(&format!("Serving on http://{address}/{shown} until Ctrl-C\n"))?;

    let (pages, page) = watch::channel(first);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| feed.run(&pages, &ended));
        let done = http_server(listener, guard, page);
        ended.store(true, Ordering::Relaxed);
        done
    })?;
    Ok(ExitCode::SUCCESS)
}

fn http_server(
    listener: TcpListener,
    guard: Guard,
    page: watch::Receiver<feed::Page>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("The HTTP server can't start")?.block_on(async {
        listener.set_nonblocking(true).context("The listener can't be used")?;
        let listener = tokio::net::TcpListener::from_std(listener).context("The listener can't be used")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("Signals can't be received")?;
        let mut terminate = signal(SignalKind::terminate()).context("Signals can't be received")?;
        let (end, ended) = watch::channel(false);
        let mut shutdown = ended.clone();
        let router = http::router(guard, page, ended);
        let server = axum::serve(listener, router).with_graceful_shutdown(async move {
            // An error means that the sender is gone, which ends the server as well.
            let _ = shutdown.wait_for(|ended| *ended).await;
        });
        let server = tokio::spawn(server.into_future());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // Fails if nobody listens any more.
        let _ = end.send(true);
        match tokio::time::timeout(SHUTDOWN_TIMEOUT, server).await {
            // A client that does not read is left alone.
            Err(_) => Ok(()),
            Ok(done) => done.context("The HTTP server has failed")?.context("The HTTP server has failed"),
        }
    })?;
    Ok(())
}

/// Reads the token, without the newline at its end.
fn token(file: &Path) -> Result<Token, Failure> {
    let failed = || format!("--token-file {} can't be read", file.display());
    let opened = std::fs::File::open(file).with_context(failed).map_err(Failure::input)?;
    let mut text = String::new();
    opened.take(MAX_TOKEN_BYTES).read_to_string(&mut text).with_context(failed).map_err(Failure::input)?;
    Token::new(text.trim_end_matches(['\r', '\n'])).map_err(Failure::input)
}

/// Prints the address at once: whoever started the server may wait for it.
fn announce(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
