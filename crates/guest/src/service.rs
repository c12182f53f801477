//! The methods of the API, for one client.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use taptrail_record::{GuestId, MacAddr, MacAddrError, Requester};

use crate::api::{self, ApiError, Device, Event, Nic, Nics, OneEvent, OneNic, Status, time};
use crate::callers::Callers;
use crate::filter::FilterChoice;
use crate::monitor;
use crate::request::{Inbox, OnTimeout, Reply, Request};
use crate::socket::HungUp;
use crate::spec::{NicSpec, SpecChange, SpecError};

/// The longest timeout that a client may request.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The API for one client.
#[derive(Debug)]
pub(crate) struct GuestService {
    guest: GuestId,
    inbox: Inbox,
    callers: Callers,
    requester: Requester,
    hung_up: Arc<HungUp>,
}

#[zlink::service(
    interface = "org.taptrail.Guest",
    vendor = "taptrail",
    product = "taptrail",
    version = env!("CARGO_PKG_VERSION"),
    url = env!("CARGO_PKG_REPOSITORY"),
    types = [Nic, Device, Event, api::Requester]
)]
impl GuestService {
    async fn attach(&self, nic: String) -> Result<OneNic, ApiError> {
        self.permit()?;
        let spec: NicSpec = nic.parse().map_err(refused)?;
        if let Some(reason) = self.callers.objection(self.requester.uid, &spec) {
            return Err(ApiError::Refused { reason });
        }
        let requester = Some(self.requester);
        let info = self.ask(|reply| Request::Attach { spec: Box::new(spec), requester, reply }).await?;
        Ok(OneNic { nic: info.into() })
    }

    async fn detach(&self, mac: String, timeout_ms: i64) -> Result<OneNic, ApiError> {
        self.permit()?;
        let mac = address(&mac)?;
        let patience = patience(timeout_ms)?;
        let requester = Some(self.requester);
        let info = self.ask(|reply| Request::Detach { mac, patience, requester, reply }).await?;
        Ok(OneNic { nic: info.into() })
    }

    async fn revoke(&self, mac: String) -> Result<OneNic, ApiError> {
        self.permit()?;
        let mac = address(&mac)?;
        let requester = Some(self.requester);
        let info = self.ask(|reply| Request::Revoke { mac, requester, reply }).await?;
        Ok(OneNic { nic: info.into() })
    }

    async fn set_filter(&self, mac: String, filter: String) -> Result<OneNic, ApiError> {
        self.permit()?;
        let mac = address(&mac)?;
        let settings = match filter.as_str() {
            "none" => "filter=none".to_owned(),
            text => FilterChoice::parse(text).map_err(refused)?.to_string(),
        };
        self.change(mac, settings.parse().map_err(refused)?).await
    }

    async fn update(&self, mac: String, settings: String) -> Result<OneNic, ApiError> {
        self.permit()?;
        self.change(address(&mac)?, settings.parse().map_err(refused)?).await
    }

    async fn stop(&self, timeout_ms: i64, force: bool) -> Result<(), ApiError> {
        self.permit()?;
        let patience = if force { Duration::ZERO } else { patience(timeout_ms)? };
        let then = if force { OnTimeout::Force } else { OnTimeout::GiveUp };
        let requester = Some(self.requester);
        self.ask(|reply| Request::Stop { patience, then, requester, reply: Some(reply) }).await
    }

    async fn status(&self) -> Result<Status, ApiError> {
        self.permit()?;
        let snapshot = self.inbox.snapshot();
        Ok(Status {
            name: self.guest.name.to_string(),
            uuid: self.guest.uuid.to_string(),
            state: snapshot.state.as_str().to_owned(),
            pid: snapshot.pid.map(i64::from),
            supervisor_pid: i64::from(std::process::id()),
            since: snapshot.since.map(time),
            nics: i64::try_from(snapshot.interfaces.len()).unwrap_or(i64::MAX),
        })
    }

    async fn nics(&self) -> Result<Nics, ApiError> {
        self.permit()?;
        Ok(self.inbox.snapshot().into())
    }

    #[zlink(more)]
    async fn monitor(
        &self,
        more: bool,
    ) -> impl Stream<Item = Result<zlink::Reply<OneEvent>, ApiError>> + Unpin + use<> {
        monitor::stream(self.permit().map(|()| &self.inbox), more, Arc::clone(&self.hung_up))
    }
}

impl GuestService {
    /// The API for `requester`, the client at the other end of `stream`.
    pub(crate) fn new(
        guest: GuestId,
        inbox: Inbox,
        callers: Callers,
        requester: Requester,
        stream: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Ok(Self { guest, inbox, callers, requester, hung_up: Arc::new(HungUp::of(stream)?) })
    }

    async fn change(&self, mac: MacAddr, change: SpecChange) -> Result<OneNic, ApiError> {
        if let Some(reason) = self.callers.objection_to(self.requester.uid, &change) {
            return Err(ApiError::Refused { reason });
        }
        let (change, requester) = (Box::new(change), Some(self.requester));
        let info = self.ask(|reply| Request::Update { mac, change, requester, reply }).await?;
        Ok(OneNic { nic: info.into() })
    }

    fn permit(&self) -> Result<(), ApiError> {
        let uid = self.requester.uid;
        if self.callers.is_allowed(uid) { Ok(()) } else { Err(ApiError::Forbidden { uid: i64::from(uid) }) }
    }

    /// Sends a request to the driver and waits for the answer. If the client disconnects, a request
    /// that was not begun is dropped.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, ApiError> {
        let (reply, answer) = Reply::new(Arc::clone(&self.hung_up));
        self.inbox.send(request(reply))?;
        tokio::select! {
            biased;
            answer = answer => match answer {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(ApiError::Ended),
            },
            // The client is gone and does not get this.
            () = self.hung_up.wait() => Err(ApiError::Ended),
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: SpecError) -> ApiError {
    ApiError::Refused { reason: error.to_string() }
}

fn address(mac: &str) -> Result<MacAddr, ApiError> {
    mac.parse().map_err(|error: MacAddrError| ApiError::Refused { reason: error.to_string() })
}

fn patience(timeout_ms: i64) -> Result<Duration, ApiError> {
    let refused =
        || ApiError::Refused { reason: format!("{timeout_ms} ms can't be waited for: 0 to a day can") };
    let patience = u64::try_from(timeout_ms).map(Duration::from_millis).map_err(|_| refused())?;
    if patience > MAX_TIMEOUT { Err(refused()) } else { Ok(patience) }
}
