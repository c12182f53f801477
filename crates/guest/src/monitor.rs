//! `Monitor`: the events of a guest as a stream of answers to one client.

use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;
use zlink::Reply;

use crate::api::{ApiError, Event, OneEvent};
use crate::events::{Happened, Listener, What};
use crate::request::Inbox;

/// How often a client that has no more to say is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// Whether a client has gone. While answers go to a client nothing is read from it, and without events none would be
/// written: it would hold its place for ever.
#[derive(Debug)]
pub(crate) struct HungUp(UnixStream);

impl HungUp {
    /// Of the client at the other end of this socket.
    pub(crate) fn of(stream: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(UnixStream::from_std(stream.try_clone_to_owned()?.into())?))
    }

    async fn wait(&self) {
        // Of what comes from the client nothing wakes us, only its end.
        while self.0.ready(Interest::PRIORITY).await.is_ok() && !self.is_so() {
            // It has no more to say, and may still listen: of a later end there is no word.
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_so(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_err() || fds[0].revents().contains(PollFlags::HUP)
    }
}

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
    hung_up: Rc<HungUp>,
) -> impl Stream<Item = Told> + Unpin + use<> {
    let first = match inbox {
        Ok(inbox) => Next::First(inbox.clone()),
        Err(error) => Next::Refused(error),
    };
    Box::pin(unfold(first, move |next| step(next, more, Rc::clone(&hung_up))))
}

async fn step(next: Next, more: bool, hung_up: Rc<HungUp>) -> Option<(Told, Next)> {
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
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream as Plain;

    use futures_util::StreamExt;
    use tokio::time::timeout;

    use super::*;
    use crate::events::WAITING;

    const SOON: Duration = Duration::from_millis(100);

    #[test]
    fn a_client_that_has_gone_is_noticed_and_one_that_only_listens_is_not_taken_for_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (theirs, ours) = Plain::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let hung_up = HungUp::of(ours.as_fd()).unwrap();
            assert!(timeout(SOON, hung_up.wait()).await.is_err());
            std::io::Write::write_all(&mut &theirs, b"more").unwrap();
            assert!(timeout(SOON, hung_up.wait()).await.is_err());
            theirs.shutdown(Shutdown::Write).unwrap();
            assert!(timeout(SOON, hung_up.wait()).await.is_err());
            drop(theirs);
            timeout(Duration::from_secs(10), hung_up.wait()).await.unwrap();
        });
    }

    #[test]
    fn who_is_too_slow_is_told_so_and_no_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_theirs, ours) = Plain::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let hung_up = Rc::new(HungUp::of(ours.as_fd()).unwrap());
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
