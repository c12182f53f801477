//! The kernels to choose from, one in each line.

/// Debian's newest `linux-image-amd64` of some suites.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its name for `--kernel`.
    pub(crate) name: &'static str,
    /// Suites of Debian's archives; the newest kernel in them is taken. `-security` names that
    /// archive's own.
    pub(crate) suites: &'static [&'static str],
}

/// The kernels; the first is the default.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel { name: "stable", suites: &["stable", "stable-security"] },
    Kernel { name: "backports", suites: &["stable-backports"] },
    Kernel { name: "oldstable", suites: &["oldstable", "oldstable-security"] },
];

/// The suites that busybox is taken from, for the first steps in the virtual machine.
pub(crate) const BUSYBOX: &[&str] = &["stable"];

/// The kernel of this name.
pub(crate) fn named(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_there_once_and_fit_for_directories() {
        for kernel in KERNELS {
            assert_eq!(KERNELS.iter().filter(|other| other.name == kernel.name).count(), 1, "{kernel:?}");
            assert!(kernel.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
            assert!(!kernel.suites.is_empty());
        }
    }
}
