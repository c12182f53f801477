//! Manifests: which objects count.

use serde::{Deserialize, Serialize};

use crate::layout::{BatchId, Day, Generation, Table};

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
    pub previous: Option<Previous>,
    /// The objects, one for each table and day that has rows, in the order of their paths.
    pub objects: Vec<ObjectEntry>,
    /// The batches that are in it and may still lie in the inbox.
    pub batches: Vec<BatchId>,
}

/// The snapshot before another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Its number.
    pub generation: Generation,
    /// The SHA-256 of its manifest, in lower-case hex.
    pub sha256: String,
}

/// The version of the layout that this program writes.
pub const VERSION: u32 = 1;
