//! Compaction: what batches brought becomes the next generation.
//!
//! Where one reading of a host (the generation's, or a batch's) knows all that the others know, its
//! rows are taken as they are. Otherwise the host's entries are merged, and everything else is
//! derived from them again, from the last boot before the first day in question.

mod coverage;
mod derive;
mod merge;
mod objects;
mod plan;

use std::sync::Arc;

use taptrail_trail::Span;

use self::derive::derive;
use self::objects::NewObjects;
use self::plan::Plan;
use crate::commit::commit;
use crate::layout::{BATCHES, BatchId, Generation};
use crate::manifest::{GenerationManifest, Root, VERSION};
use crate::{LakeError, SigningKey, Snapshot, Store, months, summary};

/// How often a compaction begins again when another one was first.
const ATTEMPTS: usize = 5;

/// What a compaction did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Compacted {
    /// The new generation, and what to keep elsewhere to find out later whether it was altered.
    pub root: Root,
    /// The batches that it took in.
    pub batches: usize,
    /// The hosts of which everything was derived again from several readings.
    pub derived_hosts: usize,
    /// The objects that it wrote.
    pub objects_written: usize,
    /// The objects of the generation before that are as they were.
    pub objects_kept: usize,
    /// The times between readings of a host that no reading covers, by host.
    pub holes: Vec<Hole>,
}

/// A time of a host that no reading covers, between those that readings cover.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Hole {
    /// The host.
    pub host: Arc<str>,
    /// The time.
    #[serde(flatten)]
    pub time: Span,
}

/// Makes the next generation of a lake, with all batches that are not in the last one. None if
/// there is no such batch, and what is derived from the last one's days is there. With a key, it is
/// signed.
///
/// # Errors
///
/// The store fails, an object is damaged, or other compactions are always first.
pub fn compact(store: &Arc<Store>, key: Option<&SigningKey>) -> Result<Option<Compacted>, LakeError> {
    for _ in 0..ATTEMPTS {
        let snapshot = Snapshot::load(store)?;
        if snapshot.batches.is_empty() && has_derived(store, snapshot.generation.as_ref())? {
            return Ok(None);
        }
        if let Some(done) = next_generation(store, &snapshot, key)? {
            return Ok(Some(done));
        }
    }
    Err(LakeError::Busy(store.url().to_owned()))
}

/// Whether what is derived from a generation's own objects is there. It is made again if it was lost,
/// or if an earlier version of this program made none.
fn has_derived(store: &Store, generation: Option<&GenerationManifest>) -> Result<bool, LakeError> {
    let Some(last) = generation.filter(|last| !last.objects.is_empty()) else { return Ok(true) };
    Ok(summary::is_whole(store, &last.summary) && months::are_there(store, last)?)
}

/// Writes the next generation. None if another compaction was first.
fn next_generation(
    store: &Arc<Store>,
    snapshot: &Snapshot,
    key: Option<&SigningKey>,
) -> Result<Option<Compacted>, LakeError> {
    let scratch = tempfile::tempdir().map_err(LakeError::Scratch)?;
    let plan = Plan::new(store, snapshot)?;
    let derived = derive(store, &plan, scratch.path())?;
    let generation =
        Generation(snapshot.generation.as_ref().map_or(1, |last| last.generation.0.saturating_add(1)));
    let NewObjects { objects, written, kept } = NewObjects::write(store, &plan, derived, generation)?;
    let summary = summary::write(store, snapshot.generation.as_ref(), &objects, generation, scratch.path())?;
    let months = months::write(store, snapshot.generation.as_ref(), &objects, generation)?;
    let manifest = GenerationManifest {
        version: VERSION,
        generation,
        previous: snapshot.root.clone(),
        objects,
        summary,
        months,
        batches: included(store, snapshot)?,
    };
    let root = commit(store, &manifest, key)?;
    Ok(root.map(|root| Compacted {
        root,
        batches: snapshot.batches.len(),
        derived_hosts: plan.derived_hosts(),
        objects_written: written,
        objects_kept: kept,
        holes: plan.holes(),
    }))
}

/// The batches that are in the generation and still lie in the inbox.
fn included(store: &Store, snapshot: &Snapshot) -> Result<Vec<BatchId>, LakeError> {
    let before = snapshot.generation.iter().flat_map(|last| last.batches.iter().cloned());
    let mut all: Vec<BatchId> =
        before.chain(snapshot.batches.iter().map(|batch| batch.batch.clone())).collect();
    let listed = store.list(BATCHES)?;
    let listed: std::collections::HashSet<BatchId> =
        listed.iter().filter_map(|object| BatchId::of_manifest(&object.path)).collect();
    all.retain(|batch| listed.contains(batch));
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
