//! An object store: a directory, S3, Google Cloud Storage or Azure.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, prefix};
use tokio::runtime::{Builder, Runtime};
use url::{Host, Url};

use crate::LakeError;
use crate::layout::{INBOX, MONTHS, SUMMARIES, Table, hex};

/// A place with objects. Its calls block.
#[derive(Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    runtime: Runtime,
    url: String,
    /// The directory, if it is one: its files are read without the client.
    directory: Option<PathBuf>,
}

/// A point at which a test aborts the program, as by SIGKILL: without clean-up.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}

/// How often an object is written that the store does not find afterwards, and a listing is asked
/// for that was cut off.
const ATTEMPTS: usize = 3;

/// How long after the first attempt a listing is asked for again. A store that is busy for so long
/// was asked many times.
const LISTING: Duration = Duration::from_secs(60);

/// Whether an object is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was written.
    Written,
    /// An object of that name was there already.
    Existed,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path in the lake.
    pub path: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// When the store got it, by the store's clock.
    pub arrived: jiff::Timestamp,
}

impl Store {
    /// The store at a URL: `file:///DIRECTORY`, `s3://BUCKET/PREFIX`, `gs://…`, `az://…`. What else
    /// a store needs, such as its region, endpoint and credentials, comes from the environment, as
    /// for its own tools.
    ///
    /// # Errors
    ///
    /// The URL names no store, or the environment lacks what the store needs.
    pub fn open(url: &str) -> Result<Self, LakeError> {
        Self::open_with(url, true)
    }

    /// The same, to read: a directory that is not there is not made.
    ///
    /// # Errors
    ///
    /// As those of [`open`](Self::open), or there is no such directory.
    pub fn open_to_read(url: &str) -> Result<Self, LakeError> {
        Self::open_with(url, false)
    }

    fn open_with(url: &str, create: bool) -> Result<Self, LakeError> {
        let parsed = Url::parse(url);
        if parsed.as_ref().is_ok_and(|url| url.password().is_some()) {
            let reason = "credentials come from the environment, never from a URL".to_owned();
            return Err(LakeError::Url { url: without_credentials(url), reason });
        }
        let unusable = |reason: String| LakeError::Url { url: url.to_owned(), reason };
        let parsed = parsed.map_err(|error| unusable(error.to_string()))?;
        // Only the first call has an effect, and that is enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut local = None;
        if parsed.scheme() == "file" {
            let directory = parsed.to_file_path().map_err(|()| unusable("it has no absolute path".into()))?;
            let is_there = if create {
                std::fs::create_dir_all(&directory)
            } else {
                std::fs::metadata(&directory).map(|_| ())
            };
            is_there.map_err(|error| match error.kind() {
                ErrorKind::NotFound if !create => LakeError::NoLake(url.to_owned()),
                _ => unusable(error.to_string()),
            })?;
            local = Some(directory);
        }
        let variables = settings(std::env::vars_os());
        let (objects, path) =
            object_store::parse_url_opts(&parsed, variables).map_err(|error| unusable(error.to_string()))?;
        let objects: Arc<dyn ObjectStore> = Arc::new(prefix::PrefixStore::new(objects, path));
        Ok(Self { directory: local, ..Self::of(objects, url.to_owned())? })
    }

    /// A store with these objects.
    ///
    /// # Errors
    ///
    /// The store's client can't be started.
    pub fn of(objects: Arc<dyn ObjectStore>, url: String) -> Result<Self, LakeError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(LakeError::Start)?;
        Ok(Self { objects, runtime, url, directory: None })
    }

    /// How many objects are read at once: as many as there are processors, or as many as hide the
    /// time that each request takes.
    pub(crate) fn parallelism(&self) -> usize {
        const REQUESTS: usize = 8;
        match &self.directory {
            Some(_) => std::thread::available_parallelism().map_or(1, usize::from).min(REQUESTS),
            None => REQUESTS,
        }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes an object, unless there is one of that name.
    ///
    /// # Errors
    ///
    /// The store can't write it.
    pub fn put_new(&self, path: &str, content: Bytes) -> Result<Put, LakeError> {
        crash_point!("lake::put");
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from_bytes(content);
        let path = Path::from(path);
        let put = self.runtime.block_on(self.objects.put_opts(&path, payload, options));
        crash_point!("lake::put-done");
        match put {
            Ok(_) => Ok(Put::Written),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Existed),
            Err(source) => Err(failed(path.as_ref(), "written", source)),
        }
    }

    /// Writes an object that is named by its content. One that is there already must be the same.
    ///
    /// # Errors
    ///
    /// The store can't write it, or has another one of that name.
    pub fn put_verified(&self, path: &str, content: Bytes, sha256: &str) -> Result<Put, LakeError> {
        let bytes = content.len() as u64;
        for _ in 0..ATTEMPTS {
            let put = self.put_new(path, content.clone())?;
            // A store may say that it has an object, or has written it, and not find it.
            let Some(found) = self.size(path)? else { continue };
            if found != bytes || (put == Put::Existed && self.sha256(path, bytes)? != sha256) {
                let reason = "an object of this name has another content";
                return Err(LakeError::damaged(&Arc::from(path), reason));
            }
            return Ok(put);
        }
        Err(LakeError::damaged(&Arc::from(path), "it was written, and the store does not find it"))
    }

    /// The size of an object, in bytes; none if it is not there.
    ///
    /// # Errors
    ///
    /// The store can't be read.
    pub fn size(&self, path: &str) -> Result<Option<u64>, LakeError> {
        match self.runtime.block_on(self.objects.head(&Path::from(path))) {
            Ok(about) => Ok(Some(about.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(path, "read", source)),
        }
    }

    /// All of an object.
    ///
    /// # Errors
    ///
    /// The store can't read it, or it is larger than `limit` bytes.
    pub fn get(&self, path: &str, limit: u64) -> Result<Bytes, LakeError> {
        self.runtime.block_on(async {
            let got =
                self.objects.get(&Path::from(path)).await.map_err(|error| failed(path, "read", error))?;
            if got.meta.size > limit {
                let reason = format!("it has {} bytes; {limit} are the most that is read", got.meta.size);
                return Err(LakeError::damaged(&Arc::from(path), reason));
            }
            got.bytes().await.map_err(|error| failed(path, "read", error))
        })
    }

    /// An object's file; none if objects are not files here.
    pub(crate) fn file(&self, path: &str) -> Result<Option<File>, LakeError> {
        let Some(directory) = &self.directory else { return Ok(None) };
        match File::open(directory.join(path)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let source = object_store::Error::NotFound { path: path.to_owned(), source: Box::new(error) };
                Err(failed(path, "read", source))
            }
            Err(error) => {
                let source = object_store::Error::Generic { store: "file", source: Box::new(error) };
                Err(failed(path, "read", source))
            }
        }
    }

    /// A part of an object.
    ///
    /// # Errors
    ///
    /// The store can't read it.
    pub fn range(&self, path: &str, range: std::ops::Range<u64>) -> Result<Bytes, LakeError> {
        let path_in_store = Path::from(path);
        let part = self.objects.get_range(&path_in_store, range);
        self.runtime.block_on(part).map_err(|error| failed(path, "read", error))
    }

    /// The SHA-256 of an object of this size, in lower-case hex.
    ///
    /// # Errors
    ///
    /// The store can't read it.
    pub fn sha256(&self, path: &str, bytes: u64) -> Result<String, LakeError> {
        const PART: u64 = 8 << 20;
        let mut sum = ring::digest::Context::new(&ring::digest::SHA256);
        let mut from = 0;
        while from < bytes {
            let until = bytes.min(from + PART);
            sum.update(&self.range(path, from..until)?);
            from = until;
        }
        Ok(hex(sum.finish().as_ref()))
    }

    /// The objects below a folder, in no order.
    ///
    /// # Errors
    ///
    /// The store can't list them.
    pub fn list(&self, folder: &str) -> Result<Vec<Listed>, LakeError> {
        let below = Path::from(folder);
        let list = || {
            let all = self.objects.list(Some(&below)).map_ok(|about| Listed {
                path: about.location.to_string(),
                bytes: about.size,
                arrived: jiff::Timestamp::from_microsecond(about.last_modified.timestamp_micros())
                    .unwrap_or_default(),
            });
            self.runtime.block_on(all.try_collect())
        };
        // The client asks again for all but a listing that was cut off.
        let begun = Instant::now();
        let mut listed = list();
        for _ in 1..ATTEMPTS {
            if !matches!(listed, Err(object_store::Error::Generic { .. })) || begun.elapsed() > LISTING {
                break;
            }
            listed = list();
        }
        listed.map_err(|error| failed(folder, "listed", error))
    }

    /// The Parquet objects of all tables, compacted and not, and of summaries and months, in no order.
    ///
    /// # Errors
    ///
    /// The store can't list them.
    pub(crate) fn list_tables(&self) -> Result<Vec<Listed>, LakeError> {
        let folders = Table::ALL.iter().map(|table| table.as_str()).chain([INBOX, SUMMARIES, MONTHS]);
        let listed = folders.map(|folder| self.list(folder)).collect::<Result<Vec<_>, _>>()?;
        Ok(listed.into_iter().flatten().filter(|object| object.path.ends_with(".parquet")).collect())
    }

    /// Deletes an object. One that is not there is deleted.
    ///
    /// # Errors
    ///
    /// The store can't delete it.
    pub fn delete(&self, path: &str) -> Result<(), LakeError> {
        match self.runtime.block_on(self.objects.delete(&Path::from(path))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed(path, "deleted", source)),
        }
    }
}

/// The settings of stores among the environment's variables. Others are no settings, though the
/// library knows such names: `TOKEN`, `REGION`, `ALLOW_HTTP`.
///
/// Without TLS it speaks to this machine alone, unless `AWS_ALLOW_HTTP` is set.
fn settings(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let is_setting = |name: &str| ["aws_", "google_", "azure_"].iter().any(|prefix| name.starts_with(prefix));
    let mut settings: Vec<(String, String)> = variables
        .filter_map(|(name, value)| {
            let name = name.into_string().ok()?.to_ascii_lowercase();
            is_setting(&name).then_some((name, value.into_string().ok()?))
        })
        .collect();
    let value = |name: &str| settings.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let endpoint = value("aws_endpoint_url").or_else(|| value("aws_endpoint"));
    let is_loopback =
        endpoint.and_then(|endpoint| Url::parse(endpoint).ok()).is_some_and(|url| match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        });
    if is_loopback && value("aws_allow_http").is_none() {
        settings.push(("aws_allow_http".to_owned(), "true".to_owned()));
    }
    settings
}

fn failed(object: &str, what: &'static str, source: object_store::Error) -> LakeError {
    LakeError::Store { object: object.to_owned(), what, source }
}

fn without_credentials(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return String::new() };
    // These fail only for URLs without a host, which have no credentials.
    let _ = parsed.set_password(None);
    let _ = parsed.set_username("");
    parsed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", directory.path().display())).unwrap();
        assert_eq!(
            store.put_new("held/day=2026-11-29/g1", Bytes::from_static(b"one")).unwrap(),
            Put::Written
        );
        assert_eq!(
            store.put_new("held/day=2026-11-29/g1", Bytes::from_static(b"two")).unwrap(),
            Put::Existed
        );
        assert_eq!(store.get("held/day=2026-11-29/g1", 9).unwrap(), "one");
        assert_eq!(store.range("held/day=2026-11-29/g1", 1..3).unwrap(), "ne");
        assert!(matches!(store.get("held/day=2026-11-29/g1", 2), Err(LakeError::Damaged { .. })));
        let listed = store.list("held").unwrap();
        assert_eq!((listed.len(), listed[0].path.as_str()), (1, "held/day=2026-11-29/g1"));
        store.delete("held/day=2026-11-29/g1").unwrap();
        store.delete("held/day=2026-11-29/g1").unwrap();
        assert!(store.list("held").unwrap().is_empty());
    }

    // Shows 15.6.
    #[test]
    fn only_settings_of_stores_are_taken_and_only_this_machine_is_reached_without_tls() {
        let of = |variables: &[(&str, &str)]| {
            settings(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
        };
        let (id, http) = (("aws_access_key_id", "x"), ("aws_allow_http", "true"));
        let owned = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let all = of(&[("AWS_ACCESS_KEY_ID", "x"), ("TOKEN", "y"), ("ALLOW_HTTP", "true"), ("REGION", "z")]);
        assert_eq!(all, owned(&[id]));
        for endpoint in ["http://127.0.0.1:5000", "http://[::1]:5000", "http://localhost"] {
            let all = of(&[("AWS_ENDPOINT_URL", endpoint)]);
            assert_eq!(all, owned(&[("aws_endpoint_url", endpoint), http]), "{endpoint}");
        }
        for endpoint in ["http://127.0.0.1.example.org", "http://10.0.0.1", "http://localhost.example.org"] {
            assert_eq!(of(&[("AWS_ENDPOINT", endpoint)]), owned(&[("aws_endpoint", endpoint)]), "{endpoint}");
        }
    }

    #[test]
    fn what_is_no_store_is_named() {
        for url in ["/var/lake", "ftp://x/y", "s3://", "file://host/x"] {
            let error = Store::open(url).unwrap_err().to_string();
            assert!(error.contains(url), "{error}");
        }
        let error = Store::open("ftp://me:secret@x/y").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
