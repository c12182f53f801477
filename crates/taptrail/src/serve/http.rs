//! The two addresses: the page, and the stream of its changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::unfold;
use tokio::sync::watch;

use super::feed::Page;
use super::guard::{Guard, Verdict};

/// Streams of changes at one time: each is a page that is open.
const MAX_STREAMS: usize = 64;

/// Headers of every answer. The page's own policy allows its scripts by their hashes; this one adds
/// what only a header can say.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'")),
];

struct Server {
    guard: Guard,
    page: watch::Receiver<Page>,
    ended: watch::Receiver<bool>,
    streams: AtomicUsize,
}

pub(super) fn router(guard: Guard, page: watch::Receiver<Page>, ended: watch::Receiver<bool>) -> Router {
    let server = Arc::new(Server { guard, page, ended, streams: AtomicUsize::new(0) });
    Router::new()
        .route("/", get(index))
        .route("/events", get(events))
        .layer(from_fn_with_state(Arc::clone(&server), check))
        .with_state(server)
}

async fn check(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let mut response = match server.guard.check(request.uri(), request.headers()) {
        Verdict::Answered => next.run(request).await,
        Verdict::GivesToken => {
            let cookie = server.guard.cookie().and_then(|cookie| HeaderValue::try_from(cookie).ok());
            let there = (header::LOCATION, HeaderValue::from_static("/"));
            match cookie {
                Some(cookie) => {
                    (StatusCode::SEE_OTHER, [there, (header::SET_COOKIE, cookie)]).into_response()
                }
                None => (StatusCode::SEE_OTHER, [there]).into_response(),
            }
        }
        Verdict::WrongHost => {
            (StatusCode::MISDIRECTED_REQUEST, "This server does not answer under that name (--allow-host)\n")
                .into_response()
        }
        Verdict::WrongOrigin => {
            (StatusCode::FORBIDDEN, "Another site's page may not read this\n").into_response()
        }
        Verdict::NoToken => {
            (StatusCode::UNAUTHORIZED, "Open the address with ?token=TOKEN once\n").into_response()
        }
    };
    response.headers_mut().extend(HEADERS);
    response
}

async fn index(State(server): State<Arc<Server>>) -> Response {
    let html = server.page.borrow().html.clone();
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))], html).into_response()
}

/// Counts a stream as long as it lives.
struct Counted(Arc<Server>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The number of the current page, and of each new one. A slow client misses numbers, and holds
/// nobody up.
async fn events(State(server): State<Arc<Server>>) -> Response {
    if server.streams.fetch_add(1, Ordering::Relaxed) >= MAX_STREAMS {
        server.streams.fetch_sub(1, Ordering::Relaxed);
        return (StatusCode::SERVICE_UNAVAILABLE, "Too many pages are open\n").into_response();
    }
    let mut page = server.page.clone();
    page.mark_changed();
    let ended = server.ended.clone();
    let stream = unfold((page, ended, Counted(server)), |(mut page, mut ended, counted)| async move {
        tokio::select! {
            changed = page.changed() => changed.ok()?,
            _ = ended.wait_for(|ended| *ended) => return None,
        }
        let generation = page.borrow_and_update().generation.to_string();
        let event = Event::default().event("page").data(generation);
        Some((Ok::<_, Infallible>(event), (page, ended, counted)))
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}
