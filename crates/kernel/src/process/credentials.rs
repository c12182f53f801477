use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// The longest entry of the user database that is read, in bytes.
const MAX_ENTRY_BYTES: usize = 1 << 20;
/// The largest number of groups of one user (`NGROUPS_MAX`, linux/limits.h).
const MAX_GROUPS: usize = 65_536;

/// The user and groups of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user id.
    pub uid: u32,
    /// The id of the user's primary group.
    pub gid: u32,
    /// The ids of all groups, including the primary one.
    pub groups: Vec<u32>,
}

/// A user's credentials can't be looked up.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The user database has no such name.
    #[error("There is no user '{name}'")]
    NoSuchUser {
        /// The name looked for.
        name: String,
    },
    /// The user database can't be queried.
    #[error("User '{name}' can't be looked up")]
    Lookup {
        /// The name looked for.
        name: String,
        /// The system's error, which says why.
        #[source]
        source: io::Error,
    },
}

impl Credentials {
    /// The user of this name with all groups, from the user database (getpwnam_r(3),
    /// getgrouplist(3)).
    ///
    /// # Errors
    ///
    /// There is no such user, or the database can't be queried.
    pub fn of_user(name: &str) -> Result<Self, CredentialsError> {
        let unknown = || CredentialsError::NoSuchUser { name: name.to_owned() };
        let lookup = |source| CredentialsError::Lookup { name: name.to_owned(), source };
        let c_name = CString::new(name).map_err(|_| unknown())?;
        let (uid, gid) = user(&c_name).map_err(lookup)?.ok_or_else(unknown)?;
        let groups = groups(&c_name, gid).map_err(lookup)?;
        Ok(Self { uid, gid, groups })
    }
}

/// The uid and gid of a user; `None` when there is no such user.
fn user(name: &CStr) -> io::Result<Option<(u32, u32)>> {
    let mut strings: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are to live memory of the right type; the buffer's length is its
        // own.
        let error = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                strings.as_mut_ptr(),
                strings.len(),
                &raw mut found,
            )
        };
        match error {
            // getpwnam_r(3) lists these for "not found" too.
            0 | libc::ENOENT | libc::ESRCH if found.is_null() => return Ok(None),
            0 => {
                // SAFETY: success with a result: `found` points to `entry`, which is filled.
                let entry = unsafe { entry.assume_init() };
                return Ok(Some((entry.pw_uid, entry.pw_gid)));
            }
            libc::EINTR => {}
            libc::ERANGE if strings.len() < MAX_ENTRY_BYTES => strings.resize(strings.len() * 2, 0),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// All groups of a user.
fn groups(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `groups` has room for `count` entries, and the name ends with a NUL.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let wanted = usize::try_from(count).unwrap_or(0);
        if result >= 0 {
            groups.truncate(wanted);
            return Ok(groups);
        }
        if groups.len() >= MAX_GROUPS {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        groups.resize(wanted.max(groups.len() * 2).min(MAX_GROUPS), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_own_group_among_its_groups() {
        let root = Credentials::of_user("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        let nobody = Credentials::of_user("nobody").unwrap();
        assert_ne!(nobody.uid, 0);
        assert!(nobody.groups.contains(&nobody.gid));
    }

    #[test]
    fn an_unknown_user_is_named() {
        for name in ["no-such-user", "", "a\0b"] {
            let error = Credentials::of_user(name).unwrap_err();
            assert!(matches!(&error, CredentialsError::NoSuchUser { name: n } if n == name), "{error:?}");
        }
    }
}
