//! Signatures of manifests, in minisign's format: `minisign -V` verifies them, too.

use std::io::Cursor;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blake2::{Blake2b256, Digest as _};

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read.
    #[error("the key {} can't be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// Others may read the secret key.
    #[error("the secret key {} may be read by others: `chmod 600` it", .0.display())]
    Readable(PathBuf),
    /// It is no key.
    #[error("{what} is no minisign key: {reason}")]
    Format {
        /// The file, or `the public key`.
        what: String,
        /// The library's reason.
        reason: String,
    },
}

/// A secret key that signs manifests: `minisign -G -W` makes one.
pub struct SigningKey(minisign::SecretKey);

impl SigningKey {
    /// Reads a secret key without a password: nobody is there to type one when a timer runs.
    ///
    /// # Errors
    ///
    /// The file can't be read, may be read by others, or is no such key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Read { path: path.to_owned(), source };
        let about = std::fs::metadata(path).map_err(unreadable)?;
        if about.mode() & 0o077 != 0 {
            return Err(KeyError::Readable(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let unusable = |reason: String| KeyError::Format { what: path.display().to_string(), reason };
        // A comment, and the key in base64.
        let encoded = text.lines().nth(1).unwrap_or_default().trim();
        let mut bytes = BASE64.decode(encoded).map_err(|error| unusable(error.to_string()))?;
        fill_checksum(&mut bytes).ok_or_else(|| unusable("it has another length".to_owned()))?;
        let key = minisign::SecretKey::from_bytes(&bytes).map_err(|error| unusable(error.to_string()))?;
        if key.is_encrypted() {
            let reason = "it has a password, or is damaged: `minisign -G -W` makes one without a password";
            return Err(unusable(reason.to_owned()));
        }
        Ok(Self(key))
    }

    /// The signature of some content, with a comment that is signed with it.
    pub(crate) fn sign(&self, content: &[u8], comment: &str) -> Result<String, String> {
        minisign::sign(
            None,
            &self.0,
            Cursor::new(content),
            Some(comment),
            Some("signature of a lake's manifest"),
        )
        .map(minisign::SignatureBox::into_string)
        .map_err(|error| error.to_string())
    }
}

/// Fills in the checksum of a secret key without a password: minisign itself leaves it empty, and the
/// library wants it. None if these are no such key's bytes.
///
/// The bytes are: algorithm (2), key derivation (2), checksum's algorithm (2), salt (32), two limits (8
/// each), the key's number (8), the key (64), its checksum (32).
fn fill_checksum(bytes: &mut [u8]) -> Option<()> {
    const KEY: std::ops::Range<usize> = 54..126;
    let (key, checksum) = bytes.split_at_mut_checked(KEY.end)?;
    let has_password = key[2..4] != [0, 0];
    if checksum.len() != 32 {
        return None;
    }
    if !has_password && checksum.iter().all(|byte| *byte == 0) {
        let sum = Blake2b256::new().chain_update(&key[..2]).chain_update(&key[KEY]).finalize();
        checksum.copy_from_slice(&sum);
    }
    Some(())
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

/// A public key that verifies manifests.
#[derive(Debug)]
pub struct VerifyingKey(minisign::PublicKey);

impl VerifyingKey {
    /// Reads a public key: a file as `minisign -G` writes it, or the key itself, in base64.
    ///
    /// # Errors
    ///
    /// The file can't be read, or is no such key.
    pub fn read(path_or_key: &str) -> Result<Self, KeyError> {
        if let Ok(key) = minisign::PublicKey::from_base64(path_or_key) {
            return Ok(Self(key));
        }
        let path = Path::new(path_or_key);
        let text = std::fs::read_to_string(path)
            .map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        let key = minisign::PublicKeyBox::from_string(&text).and_then(|key| key.into_public_key());
        let what = path_or_key.to_owned();
        key.map(Self).map_err(|error| KeyError::Format { what, reason: error.to_string() })
    }

    /// Whether this is the signature of some content; if not, why.
    pub(crate) fn verify(&self, content: &[u8], signature: &str) -> Result<(), String> {
        let signature = minisign::SignatureBox::from_string(signature).map_err(|error| error.to_string())?;
        minisign::verify(&self.0, &signature, Cursor::new(content), true, false, false)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn keys(directory: &Path) -> (PathBuf, String) {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        let path = directory.join("lake.key");
        std::fs::write(&path, pair.sk.to_box(None).unwrap().into_string()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        (path, pair.pk.to_base64())
    }

    #[test]
    fn a_signature_is_of_its_content_and_key() {
        let directory = tempfile::tempdir().unwrap();
        let (path, public) = keys(directory.path());
        let signature = SigningKey::read(&path).unwrap().sign(b"content", "generation 1").unwrap();
        let key = VerifyingKey::read(&public).unwrap();
        assert_eq!(key.verify(b"content", &signature), Ok(()));
        assert!(key.verify(b"Content", &signature).is_err());
        assert!(key.verify(b"content", &signature.replace("generation 1", "generation 2")).is_err());
        let other = tempfile::tempdir().unwrap();
        let (_, other) = keys(other.path());
        assert!(VerifyingKey::read(&other).unwrap().verify(b"content", &signature).is_err());
        assert!(key.verify(b"content", "x").is_err());
    }

    #[test]
    fn a_secret_key_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = keys(directory.path());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SigningKey::read(&path), Err(KeyError::Readable(_))));
        assert!(matches!(VerifyingKey::read("/nonexistent"), Err(KeyError::Read { .. })));
    }
}
