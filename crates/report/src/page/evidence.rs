//! What makes a page fit to be kept as evidence: from what it was made, how, and when.

use std::fmt::Write as _;
use std::io::{self, Read};

use jiff::Timestamp;
use ring::digest::{Context, SHA256};
use serde::Serialize;

/// How a report was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The program and its version.
    pub program: String,
    /// Its arguments, the program's name first.
    pub command: Vec<String>,
    /// When it was made.
    pub generated: Timestamp,
    /// The inputs, in the order in which they were read.
    pub files: Vec<FileEvidence>,
    /// What was said on standard error about reading.
    pub warnings: Vec<String>,
}

/// An input as it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileEvidence {
    /// Its path; `-` for standard input.
    pub path: String,
    /// Its hash, or why there is none.
    pub hash: Hash,
}

/// The hash of an input's bytes as they are stored, compressed or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// SHA-256 in lower case, of all `bytes`.
    Sha256 {
        /// The hash.
        sha256: String,
        /// The number of bytes hashed.
        bytes: u64,
        /// Whether the file changed while it was read: its hash is of what it had afterwards.
        changed: bool,
    },
    /// Why there is no hash, in a few words.
    None(String),
}

impl Hash {
    /// The hash of all that is left of `from`.
    ///
    /// # Errors
    ///
    /// Reading fails.
    pub fn of(mut from: impl Read, changed: bool) -> io::Result<Self> {
        let (mut context, mut bytes) = (Context::new(&SHA256), 0);
        let mut piece = vec![0; 256 * 1024];
        loop {
            let read = match from.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                break;
            }
            context.update(&piece[..read]);
            bytes += read as u64;
        }
        let mut sha256 = String::new();
        for byte in context.finish().as_ref() {
            // Writing to a String can't fail.
            let _ = write!(sha256, "{byte:02x}");
        }
        Ok(Self::Sha256 { sha256, bytes, changed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_sha256sum() {
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned();
        assert_eq!(Hash::of(&b"abc"[..], false).unwrap(), Hash::Sha256 { sha256, bytes: 3, changed: false });
    }
}
