//! Device nodes that a command line names, and whether QEMU will find them in its own `/dev`.

use std::ffi::OsStr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use taptrail_kernel::process::{PrivateDev, PrivateDevError};

use super::check::{CommandLine, CommandLineError, shown};
use super::options;

/// Options whose values are text for the guest, where `/dev/vda1` is the guest's own.
const FOR_THE_GUEST: [&str; 3] = ["append", "fw_cfg", "prom-env"];

impl CommandLine {
    /// Checks that each device of the host's that the user's arguments name is in QEMU's own
    /// `/dev`.
    ///
    /// # Errors
    /// [`CommandLineError::Hidden`] and [`CommandLineError::Raw`].
    pub fn check_devices(&self, dev: &PrivateDev) -> Result<(), CommandLineError> {
        // It was parsed without an error before.
        let given = options::walk(&self.args).unwrap_or_default();
        for (index, word) in self.args.iter().enumerate() {
            // The value of the option at position N, counted from 1, has the index N.
            let option = given.iter().find(|option| option.position == index && option.value == *word);
            if option.is_some_and(|option| FOR_THE_GUEST.contains(&option.name)) {
                continue;
            }
            for path in named(&word.to_string_lossy()) {
                if dev.shows(&path) || !is_device(&path) {
                    continue;
                }
                let before =
                    index.checked_sub(1).filter(|_| option.is_some()).and_then(|at| self.args.get(at));
                let words: Vec<&OsStr> =
                    before.into_iter().chain([word]).map(|word| word.as_os_str()).collect();
                let argument = shown(&words);
                let position = index + 1 - usize::from(option.is_some());
                return Err(match PrivateDev::new([path.clone()]) {
                    Err(PrivateDevError::Raw { .. }) => CommandLineError::Raw { position, argument, path },
                    _ => CommandLineError::Hidden { position, argument, path },
                });
            }
        }
        Ok(())
    }
}

/// Paths below /dev in an argument: the whole argument, or the value of a field, with or without a
/// protocol.
fn named(text: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("/dev/") {
        if at == 0 || text[..at].ends_with(['=', ',', ':', '"', '\'']) {
            let end = ["\"", "'"].iter().filter_map(|quote| text[at..].find(quote)).min();
            // A comma within a value is doubled; paths with commas are not checked.
            let rest = &text[at..end.map_or(text.len(), |end| at + end)];
            paths.push(PathBuf::from(rest.split(',').next().unwrap_or(rest)));
        }
    }
    paths
}

/// QEMU reports other errors of a path itself.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.file_type().is_char_device() || found.file_type().is_block_device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_where_qemu_reads_them() {
        for (text, paths) in [
            ("/dev/sdb", vec!["/dev/sdb"]),
            ("file=/dev/vg/lv,format=raw,if=virtio", vec!["/dev/vg/lv"]),
            ("host_device:/dev/sr0", vec!["/dev/sr0"]),
            (r#"{"driver":"host_device","filename":"/dev/sdb","cache":{}}"#, vec!["/dev/sdb"]),
            ("a=/dev/sda,b=/dev/sdb", vec!["/dev/sda", "/dev/sdb"]),
            ("/srv/dev/sdb", vec![]),
            ("disk.img", vec![]),
        ] {
            assert_eq!(named(text), paths.iter().map(PathBuf::from).collect::<Vec<_>>(), "{text}");
        }
    }

    fn check(words: &[&str], devices: &[&str]) -> Result<(), String> {
        let command =
            CommandLine::parse("/usr/bin/qemu-system-x86_64", words.iter().map(Into::into)).unwrap();
        let dev = PrivateDev::new(devices.iter().map(PathBuf::from)).unwrap();
        command.check_devices(&dev).map_err(|error| error.to_string())
    }

    // Shows 5.25.
    #[test]
    fn a_device_that_qemu_would_not_find_is_named_with_what_allows_it() {
        assert_eq!(
            check(&["-m", "1G", "-serial", "/dev/kmsg"], &[]).unwrap_err(),
            "Argument 3 of QEMU, '-serial /dev/kmsg', names /dev/kmsg, which its own /dev will not have: \
             allow it with --device /dev/kmsg"
        );
        assert!(
            check(&["/dev/kmsg"], &[]).unwrap_err().starts_with("Argument 1 of QEMU, '/dev/kmsg', names")
        );
        assert!(check(&["-serial", "/dev/kmsg"], &["/dev/kmsg"]).is_ok());
    }

    #[test]
    fn a_raw_network_device_is_not_to_be_allowed() {
        let refused = check(&["-chardev", "pipe,id=a,path=/dev/net/tun"], &[]).unwrap_err();
        assert!(
            refused.ends_with("names /dev/net/tun, a raw network device: use --nic instead"),
            "{refused}"
        );
    }

    #[test]
    fn what_is_there_and_what_is_the_guests_is_no_matter() {
        for words in [
            &["-append", "root=/dev/kmsg console=/dev/kmsg"][..],
            &["-object", "rng-random,id=r,filename=/dev/urandom"],
            &["-object", "memory-backend-file,id=m,mem-path=/dev/shm,size=1G"],
            &["-drive", "file=/dev/no-such-disk"],
            &["-drive", "file=/dev/fdset/1"],
            &["-chardev", "file,id=a,path=/dev/null"],
        ] {
            assert_eq!(check(words, &[]), Ok(()), "{words:?}");
        }
    }
}
