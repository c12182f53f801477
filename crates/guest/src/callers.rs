//! The users who may call a guest's API: root, the supervisor's own user, and those given by
//! `--allow`.

use taptrail_kernel::process::{Credentials, CredentialsError};
use taptrail_record::Requester;

use crate::filter::FilterChoice;
use crate::spec::{NicSpec, SpecChange};

/// A user given by `--allow` can't be found.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// The user database does not know the name.
    #[error(transparent)]
    User(#[from] CredentialsError),
    /// 4294967295 stands for no user.
    #[error("There is no user {0}")]
    Unset(u32),
}

/// The uid of a user, given by name or as a number.
///
/// # Errors
/// See [`CallerError`].
pub fn caller(user: &str) -> Result<u32, CallerError> {
    match user.parse() {
        Ok(uid) if uid == Requester::UNSET => Err(CallerError::Unset(uid)),
        Ok(uid) => Ok(uid),
        Err(_) => Ok(Credentials::of_user(user)?.uid),
    }
}

/// The users who may call.
#[derive(Debug, Clone)]
pub(crate) struct Callers {
    own: u32,
    allowed: Vec<u32>,
}

impl Callers {
    /// Root, our own user, and `allowed`.
    pub(crate) fn new(allowed: &[u32]) -> Self {
        Self { own: rustix::process::geteuid().as_raw(), allowed: allowed.to_vec() }
    }

    /// Whether this user may call.
    pub(crate) fn is_allowed(&self, uid: u32) -> bool {
        self.is_owner(uid) || self.allowed.contains(&uid)
    }

    /// Whether others than root and our own user may call: then the socket needs to be open to all.
    pub(crate) fn has_extra(&self) -> bool {
        self.allowed.iter().any(|uid| !self.is_owner(*uid))
    }

    /// Why this user may call, but not attach that interface: we would open or run a path in it with
    /// our own privileges, or QEMU open it with its own, which may be those of root's files; or the
    /// host would send others' packets to the guest.
    pub(crate) fn objection(&self, uid: u32, spec: &NicSpec) -> Option<String> {
        let has_rom = spec.properties.iter().any(|(property, value)| property.is_path(value));
        let has_filter = spec.filter.as_ref().is_some_and(FilterChoice::has_path);
        let host = &spec.host;
        let runs = host.script.is_some() || host.downscript.is_some();
        let routes = !host.addresses.is_empty() || !host.routes.is_empty();
        let opens = spec.tun_path.is_some() || spec.vhost_path.is_some() || has_rom || has_filter;
        // A controller of Open vSwitch knows a guest's port by these.
        let claims = host.ovs.as_ref().is_some_and(|ovs| ovs.interface_id.is_some() || ovs.profile.is_some());
        ((opens || runs || routes || claims) && !self.is_owner(uid)).then(|| {
            "tun-path=, vhost-path=, the files of rom= and filter=, script=, downscript=, host-ip=, host-route=, ovs=UUID and ovs-profile= are for root and the supervisor's own user alone"
                .to_owned()
        })
    }

    /// Why this user may call, but not make that change: we would read a filter's file with our own
    /// privileges.
    pub(crate) fn objection_to(&self, uid: u32, change: &SpecChange) -> Option<String> {
        (change.names_file() && !self.is_owner(uid)).then(|| {
            "the files of filter= are for root and the supervisor's own user alone: name a filter".to_owned()
        })
    }

    fn is_owner(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_or_numbered() {
        assert_eq!(caller("root").unwrap(), 0);
        assert_eq!(caller("1234").unwrap(), 1234);
        assert!(caller("no-such-user").unwrap_err().to_string().contains("no-such-user"));
        assert!(caller("4294967295").is_err());
    }

    #[test]
    fn root_and_the_owner_may_always_and_others_when_allowed() {
        let callers = Callers { own: 1000, allowed: vec![1001] };
        assert!([0, 1000, 1001].into_iter().all(|uid| callers.is_allowed(uid)));
        assert!(!callers.is_allowed(1002));
        assert!(callers.has_extra());
        assert!(!Callers { own: 1000, allowed: vec![1000] }.has_extra());
    }

    // Shows 5.17.
    #[test]
    fn only_the_owner_names_what_is_opened() {
        let callers = Callers { own: 0, allowed: vec![1001] };
        let named: NicSpec = "bridge=br0,tun-path=/dev/other".parse().unwrap();
        assert!(callers.objection(1001, &named).is_some());
        assert!(callers.objection(0, &named).is_none());
        // QEMU reads it, and shows it to its guest.
        assert!(callers.objection(1001, &"bridge=br0,rom=/etc/shadow".parse().unwrap()).is_some());
        let filter = "bridge=br0,filter=/etc/shadow".parse().unwrap();
        assert!(callers.objection(1001, &filter).is_some());
        // Run as root; and packets for others would be the guest's.
        for text in ["script=/tmp/x", "downscript=/tmp/x", "host-ip=192.0.2.1/24", "host-route=0.0.0.0/0"] {
            let spec: NicSpec = format!("new-tap=on,{text}").parse().unwrap();
            assert!(callers.objection(1001, &spec).is_some(), "{text}");
            assert!(callers.objection(0, &spec).is_none(), "{text}");
        }
        // Another guest's port of Open vSwitch.
        for text in ["ovs=09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f", "ovs=on,ovs-profile=web"] {
            let spec: NicSpec = format!("bridge=ovs0,{text}").parse().unwrap();
            assert!(callers.objection(1001, &spec).is_some(), "{text}");
        }
        assert!(callers.objection(1001, &"bridge=ovs0,ovs=on".parse().unwrap()).is_none());
        for harmless in ["bridge=br0", "bridge=br0,rom=off,rom-bar=on,boot=1"] {
            assert!(callers.objection(1001, &harmless.parse().unwrap()).is_none(), "{harmless}");
        }
    }
}
