//! An archive as the kernel unpacks it at boot: cpio's "newc" format, described in the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst.

/// An archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    pub(super) fn program(&mut self, name: &str, bytes: &[u8]) {
        self.entry(name, 0o100_755, bytes);
    }

    pub(super) fn file(&mut self, name: &str, bytes: &[u8]) {
        self.entry(name, 0o100_644, bytes);
    }

    pub(super) fn link(&mut self, name: &str, target: &str) {
        self.entry(name, 0o120_777, target.as_bytes());
    }

    /// The bytes of the complete archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.files += 1;
        let (uid, gid, links, time, devices) = (0, 0, 1, 0, [0; 4]);
        self.bytes.extend(b"070701");
        // The format's lengths have 32 bits; the files of a boot archive are far smaller.
        #[allow(clippy::cast_possible_truncation)]
        let (size, name_size) = (bytes.len() as u32, name.len() as u32 + 1);
        for field in [self.files, mode, uid, gid, links, time, size] {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        for field in devices.into_iter().chain([name_size, 0]) {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_the_kernel_documents_it() {
        let mut archive = Archive::default();
        archive.file("order", b"9p.ko");
        let bytes = archive.finish();
        let header = "070701\
            00000001\
            000081A4\
            00000000\
            00000000\
            00000001\
            00000000\
            00000005\
            00000000\
            00000000\
            00000000\
            00000000\
            00000006\
            00000000";
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..124], b"order\09p.ko\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        for length in 0..9 {
            archive.program(&"n".repeat(length + 1), &vec![b'b'; length]);
            assert_eq!(archive.bytes.len() % 4, 0);
        }
        archive.directory("bin");
        archive.link("bin/sh", "busybox");
        assert_eq!(archive.finish().len() % 4, 0);
    }
}
