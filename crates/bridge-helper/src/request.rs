//! One request, from the arguments to the answer.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, sockopt};
use rustix::thread::CapabilitySet;
use taptrail_kernel::device::{OpenFacts, OpenRecorder};
use taptrail_kernel::link::Links;
use taptrail_kernel::proc::network_namespace;
use taptrail_kernel::process::{become_caller, sanitize_process, take_only_inherited};
use taptrail_record::{BridgeOpen, Device, IfName, Outcome};

use crate::acl::{ACL_FILE, Acl};
use crate::arguments::Arguments;
use crate::broker::announce;
use crate::caller::Caller;
use crate::record::{AuditLog, RecordError};
use crate::tap;

/// The capabilities that the helper keeps, if it has them: for taps and links; for records; for the
/// audit's status, and reading records back.
const KEPT_CAPABILITIES: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::AUDIT_CONTROL)
    .union(CapabilitySet::AUDIT_READ);

/// How much of a bridge's name is recorded, in bytes: more than any bridge has.
const MAX_RECORDED_NAME_BYTES: usize = 64;

type AnyError = Box<dyn Error>;

/// A request that is refused: why, and the word for it in the record.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("'{0}' can't be a bridge's name")]
    Name(String),
    #[error("The ACL can't be used")]
    AclFile(#[source] crate::acl::AclError),
    #[error("The ACL {ACL_FILE} does not allow bridge '{0}'")]
    Acl(IfName),
    #[error("The process that started the helper has ended")]
    CallerGone,
    #[error("Bridge can't be used")]
    Bridge(#[source] tap::BridgeError),
    #[error("No tap can be opened")]
    Device(#[source] taptrail_kernel::device::DeviceError),
    #[error("No tap can be put on the bridge")]
    Port(#[source] tap::PortError),
    #[error("The tap can't be passed over the socket")]
    HandOver(#[source] Errno),
}

impl Refusal {
    /// The word in the record (docs/bridge-helper.md).
    fn word(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::AclFile(_) => "acl-file",
            Self::Acl(_) => "acl",
            Self::CallerGone => "caller-gone",
            Self::Bridge(_) => "bridge",
            Self::Device(_) => "device",
            Self::Port(_) => "port",
            Self::HandOver(_) => "hand-over",
        }
    }

    /// The error number behind it.
    fn errno(&self) -> Option<i32> {
        let mut error: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(this) = error {
            let of_io = this.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if let Some(errno) =
                of_io.or_else(|| this.downcast_ref::<Errno>().map(|errno| errno.raw_os_error()))
            {
                return Some(errno);
            }
            error = this.source();
        }
        None
    }
}

/// Does all that the program does. `Ok` if a descriptor was passed.
pub(crate) fn run() -> Result<(), AnyError> {
    // A change of user makes the process traceable again, so it comes first.
    let capabilities = become_caller(KEPT_CAPABILITIES).map_err(Unprepared)?;
    sanitize_process().map_err(Unprepared)?;
    let arguments = Arguments::parse(std::env::args_os().skip(1))?;
    let socket = connected_socket(arguments.fd)?;
    let mut log = AuditLog::open(capabilities).map_err(RecordError::from)?;
    let caller = Caller::find().map_err(UnknownCaller)?;
    let mut request = Request { record: unanswered(&arguments, &caller), log: &mut log };
    request.answer(&arguments, &caller, &socket)
}

/// The process can't be made safe.
#[derive(Debug, thiserror::Error)]
#[error("The helper can't drop its privileges")]
struct Unprepared(#[source] io::Error);

/// Who asks can't be recorded.
#[derive(Debug, thiserror::Error)]
#[error("The process that started the helper can't be looked at")]
struct UnknownCaller(#[source] io::Error);

/// The descriptor of the arguments can't be answered over.
#[derive(Debug, thiserror::Error)]
#[error("--fd={fd} is no connected Unix socket that the caller has passed on")]
struct NoSocket {
    fd: i32,
    source: io::Error,
}

/// Takes the socket, and closes all other descriptors that were inherited.
fn connected_socket(fd: i32) -> Result<OwnedFd, NoSocket> {
    let socket = take_only_inherited(fd).and_then(|socket| {
        if sockopt::socket_domain(&socket)? != AddressFamily::UNIX {
            return Err(Errno::AFNOSUPPORT.into());
        }
        rustix::net::getpeername(&socket)?;
        Ok(socket)
    });
    socket.map_err(|source| NoSocket { fd, source })
}

/// The record of a request before it is answered.
fn unanswered(arguments: &Arguments, caller: &Caller) -> BridgeOpen {
    let name = arguments.bridge();
    let name = &name[..name.len().min(MAX_RECORDED_NAME_BYTES)];
    BridgeOpen {
        bridge: String::from_utf8_lossy(name).into(),
        device: None,
        refusal: None,
        errno: None,
        requester: caller.requester,
        start_time: caller.start_time,
        claimed_name: caller.claims.name.clone(),
        claimed_uuid: caller.claims.uuid,
        netns: network_namespace().ok(),
        ifindex: None,
        outcome: Outcome::Failed,
    }
}

struct Request<'a> {
    record: BridgeOpen,
    log: &'a mut AuditLog,
}

impl Request<'_> {
    fn answer(&mut self, arguments: &Arguments, caller: &Caller, socket: &OwnedFd) -> Result<(), AnyError> {
        let (mut links, bridge) = match self.check(arguments, caller) {
            Ok(allowed) => allowed,
            Err(refusal) => return self.refuse(refusal),
        };
        let mut opening = tap::open(arguments.vnet_hdr);
        let tap = opening.attempts.last().and_then(|attempt| attempt.facts().dev.clone());
        let refusal = match (opening.error.take(), tap) {
            (Some(error), _) => Some(Refusal::Device(error)),
            (None, None) => None,
            (None, Some(tap)) => tap::connect(&mut links, &tap, &bridge).err().map(Refusal::Port),
        };
        if opening.attempts.is_empty() {
            // Nothing was opened, so admit() records nothing.
            if let Some(refusal) = refusal {
                return self.refuse(refusal);
            }
        }
        if let Some(refusal) = &refusal {
            (self.record.refusal, self.record.errno) = (Some(refusal.word().into()), refusal.errno());
        }
        let (devices, _) = opening.admit(self)?;
        if let Some(refusal) = refusal {
            return Err(refusal.into());
        }
        if let Err(error) = announce() {
            crate::report(&error);
        }
        let passed = devices.first().ok_or(Errno::BADF).and_then(|device| device.pass(socket.as_fd()));
        passed.or_else(|errno| {
            self.record.outcome = Outcome::Failed;
            self.refuse(Refusal::HandOver(errno))
        })
    }

    /// Whether the request is allowed, and the bridge exists.
    fn check(
        &self,
        arguments: &Arguments,
        caller: &Caller,
    ) -> Result<(Links, taptrail_kernel::link::Link), Refusal> {
        let name = arguments.bridge.to_str().and_then(|name| name.parse::<IfName>().ok());
        let name = name.ok_or_else(|| Refusal::Name(self.record.bridge.to_string()))?;
        let acl = Acl::read(Path::new(ACL_FILE)).map_err(Refusal::AclFile)?;
        if !acl.allows(arguments.bridge()) {
            return Err(Refusal::Acl(name));
        }
        if caller.is_gone {
            return Err(Refusal::CallerGone);
        }
        let mut links = Links::open().map_err(|error| Refusal::Bridge(error.into()))?;
        let bridge = tap::find_bridge(&mut links, &name).map_err(Refusal::Bridge)?;
        Ok((links, bridge))
    }

    /// Records that no tap was passed, and why.
    fn refuse(&mut self, refusal: Refusal) -> Result<(), AnyError> {
        (self.record.refusal, self.record.errno) = (Some(refusal.word().into()), refusal.errno());
        if let Err(error) = self.log.write(&self.record) {
            // The refusal is the answer; that it is not on record must be seen, too.
            crate::report(&error);
        }
        Err(refusal.into())
    }
}

impl OpenRecorder for Request<'_> {
    type Error = RecordError;

    /// Called with the one open(2) of the tap. It is a success if nothing refused the request.
    fn record(&mut self, opens: &[OpenFacts]) -> Result<(), RecordError> {
        for facts in opens {
            self.record.device = Some(Device {
                kind: facts.kind,
                path: facts.path.to_string_lossy().into(),
                rdev: facts.rdev,
                dev: facts.dev.as_ref().map(|dev| dev.as_str().into()),
            });
            let success = facts.outcome.is_ok() && self.record.refusal.is_none();
            self.record.outcome = if success { Outcome::Success } else { Outcome::Failed };
            self.log.write(&self.record)?;
        }
        Ok(())
    }
}
