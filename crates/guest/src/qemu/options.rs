//! Finds the options on QEMU's command line, by tables of those that take a value.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Options without a value, of all architectures, of QEMU 5 to 10 (its qemu-options.hx). One that
/// is missing here does no harm: see [`walk`].
pub(super) const WITHOUT_VALUE: [&str; 41] = [
    "S",
    "alt-grab",
    "async-teardown",
    "audio-help",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "jitdump",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-frame",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "old-param",
    "only-migratable",
    "perfmap",
    "portrait",
    "preconfig",
    "s",
    "sdl",
    "semihosting",
    "show-cursor",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

/// Options with a value, likewise.
pub(super) const WITH_VALUE: [&str; 97] = [
    "D",
    "L",
    "M",
    "accel",
    "acpitable",
    "action",
    "add-fd",
    "append",
    "audio",
    "audiodev",
    "bios",
    "blockdev",
    "boot",
    "cdrom",
    "chardev",
    "chroot",
    "compat",
    "cpu",
    "d",
    "debugcon",
    "device",
    "dfilter",
    "display",
    "drive",
    "dtb",
    "dump-vmstate",
    "echr",
    "fda",
    "fdb",
    "fsdev",
    "fw_cfg",
    "g",
    "gdb",
    "global",
    "hda",
    "hdb",
    "hdc",
    "hdd",
    "icount",
    "incoming",
    "initrd",
    "iscsi",
    "k",
    "kernel",
    "loadvm",
    "m",
    "machine",
    "mem-path",
    "mon",
    "monitor",
    "msg",
    "mtdblock",
    "name",
    "net",
    "netdev",
    "nic",
    "numa",
    "object",
    "option-rom",
    "overcommit",
    "parallel",
    "pflash",
    "pidfile",
    "plugin",
    "prom-env",
    "qmp",
    "qmp-pretty",
    "qtest",
    "qtest-log",
    "readconfig",
    "rotate",
    "rtc",
    "run-with",
    "runas",
    "sandbox",
    "sd",
    "seed",
    "semihosting-config",
    "serial",
    "set",
    "shim",
    "smbios",
    "smp",
    "soundhw",
    "spice",
    "tb-size",
    "tpmdev",
    "trace",
    "usbdevice",
    "uuid",
    "vga",
    "virtfs",
    "vnc",
    "watchdog",
    "watchdog-action",
    "writeconfig",
    "xen-domid",
];

/// An option with its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given<'a> {
    /// Which argument, counted from 1.
    pub(super) position: usize,
    /// Without its dash or two.
    pub(super) name: &'a str,
    /// Its value; empty where it takes none.
    pub(super) value: &'a OsStr,
}

/// The last word is an option that needs a value: it would swallow the first argument of taptrail.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MissingValue {
    pub(super) position: usize,
}

/// Every option that QEMU may see, in order.
///
/// A word that is not in the tables may take a value or not: then both ways of reading on are
/// followed, and every option that either of them finds is returned.
pub(super) fn walk(args: &[OsString]) -> Result<Vec<Given<'_>>, MissingValue> {
    let mut given = Vec::new();
    // Whether an option may begin at this argument.
    let mut may_begin = vec![false; args.len() + 2];
    may_begin[0] = true;
    for (index, word) in args.iter().enumerate() {
        if !may_begin[index] {
            continue;
        }
        let position = index + 1;
        let Some(name) = option_name(word) else {
            // A disk image.
            may_begin[index + 1] = true;
            continue;
        };
        if WITHOUT_VALUE.contains(&name) {
            given.push(Given { position, name, value: OsStr::new("") });
            may_begin[index + 1] = true;
        } else if WITH_VALUE.contains(&name) {
            let value = args.get(index + 1).ok_or(MissingValue { position })?;
            given.push(Given { position, name, value });
            may_begin[index + 2] = true;
        } else {
            may_begin[index + 1] = true;
            may_begin[index + 2] = true;
        }
    }
    Ok(given)
}

/// QEMU takes one dash or two (`lookup_opt()`, its vl.c).
fn option_name(word: &OsStr) -> Option<&str> {
    let name = word.as_bytes().strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    // No option of QEMU's has a name that is not UTF-8: any that it can't have will do.
    Some(std::str::from_utf8(name).unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn found(line: &str) -> Vec<(usize, String, String)> {
        let words = words(line);
        let own = |given: &Given<'_>| {
            (given.position, given.name.to_owned(), given.value.to_string_lossy().into_owned())
        };
        walk(&words).unwrap().iter().map(own).collect()
    }

    #[test]
    fn a_value_that_looks_like_an_option_is_a_value() {
        let options = found("-kernel -netdev disk.img --append tap -S");
        let expected = [(1, "kernel", "-netdev"), (4, "append", "tap"), (6, "S", "")];
        assert_eq!(options, expected.map(|(at, name, value)| (at, name.to_owned(), value.to_owned())));
    }

    #[test]
    fn behind_an_unknown_option_both_readings_are_followed() {
        // Whether -new takes a value decides whether -append is an option, and so -netdev.
        for line in
            ["-new -append -netdev tap", "-new -netdev tap", "-new x -netdev tap", "-new -new -netdev tap"]
        {
            assert!(found(line).iter().any(|(_, name, value)| name == "netdev" && value == "tap"), "{line}");
        }
        assert!(!found("-new -append a -append -netdev tap").iter().any(|(_, name, _)| name == "netdev"));
    }

    #[test]
    fn a_value_that_is_missing_is_missed() {
        assert_eq!(walk(&words("-S -m")), Err(MissingValue { position: 2 }));
        assert_eq!(walk(&[]), Ok(Vec::new()));
    }

    #[test]
    fn no_option_is_in_both_tables() {
        for name in WITHOUT_VALUE {
            assert!(!WITH_VALUE.contains(&name), "{name}");
        }
    }

    /// QEMU's error message about `-NAME -M -bad`. Where NAME takes a value, that is `-M`, and
    /// `-bad` is no option; where it takes none, `-bad` is no machine.
    fn complaint(name: &str) -> String {
        let output = Command::new("qemu-system-x86_64")
            .args([&format!("-{name}"), "-M", "-bad"])
            .stdin(Stdio::null())
            .output()
            .expect("qemu-system-x86_64 is needed");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    // Shows 5.4.
    #[test]
    fn the_tables_say_what_the_real_qemu_says() {
        let ends_at_once = ["h", "help", "version", "audio-help"];
        for name in WITH_VALUE.iter().chain(&WITHOUT_VALUE).filter(|name| !ends_at_once.contains(name)) {
            let complaint = complaint(name);
            if !complaint.contains(&format!(": -{name}: invalid option")) {
                let takes_value = complaint.contains(": -bad: invalid option");
                assert_eq!(takes_value, WITH_VALUE.contains(name), "-{name}: {complaint}");
            }
        }
    }

    #[test]
    fn the_tables_have_every_option_of_the_real_qemu() {
        let output = Command::new("qemu-system-x86_64").arg("-h").output();
        let help = output.expect("qemu-system-x86_64 is needed").stdout;
        let mut seen = 0;
        for line in String::from_utf8_lossy(&help).lines() {
            let Some(name) = line.split_whitespace().next().and_then(|word| word.strip_prefix('-')) else {
                continue;
            };
            if line.starts_with('-') {
                for name in name.trim_start_matches('-').split("/-") {
                    let known = WITH_VALUE.contains(&name) || WITHOUT_VALUE.contains(&name);
                    assert!(known, "-{name}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }
}
