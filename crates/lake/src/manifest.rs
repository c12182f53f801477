//! Manifests: which objects count.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::batch::BatchInput;
use crate::layout::{
    BatchId, Day, GENERATIONS, Generation, INBOX, MONTHS, SUMMARIES, Table, hex, month_folder,
};
use crate::{LakeError, Store};

/// An object that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEntry {
    /// The table.
    pub table: Table,
    /// The day.
    pub day: Day,
    /// Its path in the lake.
    pub path: String,
    /// Its SHA-256, in lower-case hex.
    pub sha256: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
}

/// What a batch consists of. It is written after the batch's objects.
///
/// Nothing in it depends on the clock or on who archives: the same input gives the same manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchManifest {
    /// The version of the layout: 1.
    pub version: u32,
    /// The batch.
    pub batch: BatchId,
    /// Its hosts, in the order of their names.
    pub hosts: Vec<String>,
    /// What was read, and what was not.
    #[serde(default)]
    pub input: BatchInput,
    /// Its objects, in the order of their paths.
    pub objects: Vec<ObjectEntry>,
}

/// A snapshot of the compacted tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationManifest {
    /// The version of the layout: 1.
    pub version: u32,
    /// Its number.
    pub generation: Generation,
    /// The snapshot before it; none of the first.
    pub previous: Option<Root>,
    /// The objects, one for each table and day that has rows, in the order of their paths.
    pub objects: Vec<ObjectEntry>,
    /// What a question about one time must know of all days: of `coverage` each host's times, not
    /// cut at midnight; of `held` and `runs` the last rows of what may have been on a day that it has
    /// no row of. Their day is the last one. Without any if the program that wrote it made none.
    #[serde(default)]
    pub summary: Vec<ObjectEntry>,
    /// Of each month that is over, what a question about one MAC or guest reads in place of the
    /// objects of its days: of `held` and `runs` the last rows, of `findings` all. Their day is the
    /// month's first. A month without any is read by its days.
    #[serde(default)]
    pub months: Vec<ObjectEntry>,
    /// The batches that are in it and may still lie in the inbox.
    pub batches: Vec<BatchId>,
}

/// What identifies a lake's content as of one generation: `12:3fd6…`. Whoever keeps it can tell
/// later whether that generation, or one before it, was altered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Root {
    /// The generation.
    pub generation: Generation,
    /// The SHA-256 of its manifest, in lower-case hex.
    pub sha256: String,
}

impl Root {
    /// The path of the manifest's signature.
    pub(crate) fn signature(&self) -> String {
        format!("{GENERATIONS}/{:08}-{}.minisig", self.generation.0, &self.sha256[..16])
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation.0, self.sha256)
    }
}

/// The text is no root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no root of a lake: GENERATION:SHA256 is needed, as `taptrail lake check` prints it")]
pub struct RootError(String);

impl FromStr for Root {
    type Err = RootError;

    fn from_str(text: &str) -> Result<Self, RootError> {
        let read = || {
            let (generation, sum) = text.trim().split_once(':')?;
            let sum = sum.to_ascii_lowercase();
            let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
            Some(Self { generation: Generation(generation.parse().ok()?), sha256: is_sum.then_some(sum)? })
        };
        read().ok_or_else(|| RootError(text.to_owned()))
    }
}

impl TryFrom<String> for Root {
    type Error = RootError;

    fn try_from(text: String) -> Result<Self, RootError> {
        text.parse()
    }
}

impl From<Root> for String {
    fn from(root: Root) -> Self {
        root.to_string()
    }
}

/// The version of the layout that this program writes.
pub const VERSION: u32 = 1;

/// Bytes of a manifest at most: enough for the days of a century.
pub(crate) const MAX_MANIFEST: u64 = 256 << 20;

impl BatchManifest {
    /// Reads the manifest of a batch.
    ///
    /// # Errors
    ///
    /// It can't be read, or is of another batch or a later version.
    pub fn read(store: &Store, batch: &BatchId) -> Result<Self, LakeError> {
        let path: Arc<str> = batch.manifest().into();
        let read: Self = parse(&path, &store.get(&path, MAX_MANIFEST)?)?;
        if read.batch != *batch {
            return Err(LakeError::damaged(&path, format!("it is of the batch {}", read.batch)));
        }
        read.objects.iter().try_for_each(|object| check_path(&path, object, INBOX))?;
        Ok(read)
    }
}

impl GenerationManifest {
    /// The objects that are derived from those of its days, so that questions are answered faster.
    pub fn derived(&self) -> impl Iterator<Item = &ObjectEntry> {
        self.summary.iter().chain(&self.months)
    }

    /// Reads the manifest of a generation. Returns it with its root.
    ///
    /// # Errors
    ///
    /// It can't be read, or is of another generation or a later version.
    pub fn read(store: &Store, generation: Generation) -> Result<(Self, Root), LakeError> {
        Self::parse(generation, &store.get(&generation.manifest(), MAX_MANIFEST)?)
    }

    /// The same of its bytes.
    pub(crate) fn parse(generation: Generation, bytes: &[u8]) -> Result<(Self, Root), LakeError> {
        let path: Arc<str> = generation.manifest().into();
        let read: Self = parse(&path, bytes)?;
        if read.generation != generation {
            return Err(LakeError::damaged(&path, format!("it is of generation {}", read.generation.0)));
        }
        read.objects.iter().try_for_each(|object| check_path(&path, object, ""))?;
        read.summary.iter().try_for_each(|object| check_path(&path, object, SUMMARIES))?;
        read.months.iter().try_for_each(|object| check_path(&path, object, MONTHS))?;
        Ok((read, Root { generation, sha256: sha256(bytes) }))
    }
}

/// The SHA-256 of an object, in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn parse<T: DeserializeOwned>(path: &Arc<str>, bytes: &[u8]) -> Result<T, LakeError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } =
        serde_json::from_slice(bytes).map_err(|error| LakeError::damaged(path, error))?;
    if version > VERSION {
        let reason =
            format!("its layout is of version {version}, and this program reads {VERSION}: use a later one");
        return Err(LakeError::damaged(path, reason));
    }
    serde_json::from_slice(bytes).map_err(|error| LakeError::damaged(path, error))
}

/// An object of a manifest lies where objects of its table and day lie.
fn check_path(manifest: &Arc<str>, object: &ObjectEntry, folder: &str) -> Result<(), LakeError> {
    let ObjectEntry { table, day, path, .. } = object;
    let folder = match folder {
        "" => format!("{table}/day={day}/"),
        SUMMARIES => format!("{SUMMARIES}/{table}/"),
        MONTHS => month_folder(*table, *day),
        _ => format!("{folder}/{table}/day={day}/"),
    };
    match path.strip_prefix(&folder) {
        Some(name) if !name.contains('/') && name.ends_with(".parquet") => Ok(()),
        _ => Err(LakeError::damaged(
            manifest,
            format!("'{path}' is no place for an object of {table} and {day}"),
        )),
    }
}
