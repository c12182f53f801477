//! `Monitor`: the events of a guest as a stream of answers to one client.

use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::broadcast::error::RecvError;
use zlink::Reply;

use crate::api::{ApiError, Event, OneEvent};
use crate::events::{Happened, Listener, What};
use crate::request::Inbox;
use crate::socket::HungUp;

enum Next {
    First(Inbox),
    Refused(ApiError),
    Told(Listener),
    Over,
}

type Told = Result<Reply<OneEvent>, ApiError>;

/// The guest's state as it is, and with `more` all that happens until its end.
pub(crate) fn stream(
    inbox: Result<&Inbox, ApiError>,
    more: bool,
    hung_up: Arc<HungUp>,
) -> impl Stream<Item = Told> + Unpin + use<> {
    let first = match inbox {
        Ok(inbox) => Next::First(inbox.clone()),
        Err(error) => Next::Refused(error),
    };
    Box::pin(unfold(first, move |next| step(next, more, Arc::clone(&hung_up))))
}

async fn step(next: Next, more: bool, hung_up: Arc<HungUp>) -> Option<(Told, Next)> {
    match next {
        Next::First(inbox) => {
            let (snapshot, last, listener) = inbox.listen();
            let what = What::Guest { state: snapshot.state, reason: snapshot.reason };
            let now = Happened { sequence: last, time: jiff::Timestamp::now(), what };
            let next = listener.filter(|_| more).map_or(Next::Over, Next::Told);
            Some((Ok(told(&now, matches!(next, Next::Told(_)))), next))
        }
        Next::Refused(error) => Some((Err(error), Next::Over)),
        Next::Told(mut listener) => tokio::select! {
            // What is there to be told is told first.
            biased;
            heard = listener.recv() => Some(match heard {
                Ok(happened) if is_last(&happened) => (Ok(told(&happened, false)), Next::Over),
                Ok(happened) => (Ok(told(&happened, true)), Next::Told(listener)),
                Err(RecvError::Lagged(missed)) => {
                    let missed = i64::try_from(missed).unwrap_or(i64::MAX);
                    (Err(ApiError::Lagged { missed }), Next::Over)
                }
                Err(RecvError::Closed) => (Err(ApiError::Ended), Next::Over),
            }),
            () = hung_up.wait() => None,
        },
        Next::Over => None,
    }
}

fn is_last(happened: &Arc<Happened>) -> bool {
    matches!(happened.what, What::Guest { state: "stopped", .. })
}

fn told(happened: &Happened, more: bool) -> Reply<OneEvent> {
    Reply::new(Some(OneEvent { event: Event::from(happened) })).set_continues(Some(more))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use futures_util::StreamExt;

    use super::*;
    use crate::events::WAITING;

    #[test]
    fn who_is_too_slow_is_told_so_and_no_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_theirs, ours) = UnixStream::pair().unwrap();
            let hung_up = Arc::new(HungUp::of(ours.as_fd()).unwrap());
            let inbox = Inbox::new().unwrap();
            let mut told = stream(Ok(&inbox), true, hung_up);
            assert!(told.next().await.unwrap().is_ok());
            for state in ["running", "paused"].iter().cycle().take(WAITING + 2) {
                inbox.publish(|snapshot| snapshot.state = state);
            }
            assert_eq!(told.next().await.unwrap().unwrap_err(), ApiError::Lagged { missed: 2 });
            assert!(told.next().await.is_none());
        });
    }
}
