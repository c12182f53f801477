//! `Monitor`: the events of a guest as a stream of replies to one client.

use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::broadcast::error::RecvError;
use zlink::Reply;

use crate::api::{ApiError, Event, OneEvent};
use crate::events::{EventKind, GuestEvent, Subscription};
use crate::request::Inbox;
use crate::socket::HungUp;
use crate::state::GuestState;

enum StreamState {
    Initial(Inbox),
    Refused(ApiError),
    Following(Subscription),
    Ended,
}

type StreamItem = Result<Reply<OneEvent>, ApiError>;

/// The guest's current state, and with `more` all events until its end.
pub(crate) fn stream(
    inbox: Result<&Inbox, ApiError>,
    more: bool,
    hung_up: Arc<HungUp>,
) -> impl Stream<Item = StreamItem> + Unpin + use<> {
    let first = match inbox {
        Ok(inbox) => StreamState::Initial(inbox.clone()),
        Err(error) => StreamState::Refused(error),
    };
    Box::pin(unfold(first, move |next| step(next, more, Arc::clone(&hung_up))))
}

async fn step(next: StreamState, more: bool, hung_up: Arc<HungUp>) -> Option<(StreamItem, StreamState)> {
    match next {
        StreamState::Initial(inbox) => {
            let (snapshot, last, subscription) = inbox.subscribe();
            let kind = EventKind::Guest { state: snapshot.state, reason: snapshot.reason };
            let now = GuestEvent { sequence: last, time: jiff::Timestamp::now(), kind };
            let next = subscription.filter(|_| more).map_or(StreamState::Ended, StreamState::Following);
            Some((Ok(reply(&now, matches!(next, StreamState::Following(_)))), next))
        }
        StreamState::Refused(error) => Some((Err(error), StreamState::Ended)),
        StreamState::Following(mut subscription) => tokio::select! {
            // Queued events go out before a hang-up is noticed.
            biased;
            received = subscription.recv() => Some(match received {
                Ok(event) if is_last(&event) => (Ok(reply(&event, false)), StreamState::Ended),
                Ok(event) => (Ok(reply(&event, true)), StreamState::Following(subscription)),
                Err(RecvError::Lagged(missed)) => {
                    let missed = i64::try_from(missed).unwrap_or(i64::MAX);
                    (Err(ApiError::Lagged { missed }), StreamState::Ended)
                }
                Err(RecvError::Closed) => (Err(ApiError::Ended), StreamState::Ended),
            }),
            () = hung_up.wait() => None,
        },
        StreamState::Ended => None,
    }
}

fn is_last(event: &Arc<GuestEvent>) -> bool {
    matches!(event.kind, EventKind::Guest { state: GuestState::Stopped, .. })
}

fn reply(event: &GuestEvent, more: bool) -> Reply<OneEvent> {
    Reply::new(Some(OneEvent { event: Event::from(event) })).set_continues(Some(more))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use futures_util::StreamExt;

    use super::*;
    use crate::events::MAX_QUEUED_EVENTS;

    // Shows 5.32.
    #[test]
    fn a_slow_client_gets_an_error_and_then_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_theirs, ours) = UnixStream::pair().unwrap();
            let hung_up = Arc::new(HungUp::of(ours.as_fd()).unwrap());
            let inbox = Inbox::new().unwrap();
            let mut reply = stream(Ok(&inbox), true, hung_up);
            assert!(reply.next().await.unwrap().is_ok());
            for state in
                [GuestState::Running, GuestState::Paused].into_iter().cycle().take(MAX_QUEUED_EVENTS + 2)
            {
                inbox.publish(|snapshot| snapshot.state = state);
            }
            assert_eq!(reply.next().await.unwrap().unwrap_err(), ApiError::Lagged { missed: 2 });
            assert!(reply.next().await.is_none());
        });
    }
}
