//! Removes days that need not be kept, and objects that nobody needs any more.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::commit::commit;
use crate::layout::{BATCHES, BatchId, GENERATIONS, Generation};
use crate::manifest::{BatchManifest, GenerationManifest, ObjectEntry, Root, VERSION};
use crate::{Day, LakeError, SigningKey, Snapshot, Store, months, summary};

/// What is removed.
#[derive(Debug)]
pub struct Retention<'a> {
    /// The first day that is kept; none to keep all.
    pub first_day: Option<Day>,
    /// How long an object stays that no manifest names: a reader may still read it, and a batch
    /// may be on its way.
    pub grace: SignedDuration,
    /// The key that signs the new generation.
    pub key: Option<&'a SigningKey>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The new generation, if days were removed.
    pub root: Option<Root>,
    /// How many days are gone from it.
    pub days: u64,
    /// How many objects were deleted.
    pub objects_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
}

/// Removes days and objects of a lake. Manifests of generations stay: they are the chain.
///
/// # Errors
///
/// There is no lake, a manifest is damaged, or the store fails.
pub fn prune(store: &Arc<Store>, retention: &Retention<'_>, now: Timestamp) -> Result<Pruned, LakeError> {
    let mut pruned = Pruned::default();
    if let Some(first) = retention.first_day {
        remove_days(store, first, retention.key, &mut pruned)?;
    }
    let before = now.checked_sub(retention.grace).unwrap_or(Timestamp::MIN);
    sweep(store, before, &mut pruned)?;
    Ok(pruned)
}

/// How often a generation is made again when another one was first.
const ATTEMPTS: usize = 5;

fn remove_days(
    store: &Arc<Store>,
    first: Day,
    key: Option<&SigningKey>,
    pruned: &mut Pruned,
) -> Result<(), LakeError> {
    for _ in 0..ATTEMPTS {
        let Snapshot { generation, root, .. } = Snapshot::existing(store)?;
        let Some(last) = generation else { return Ok(()) };
        let (objects, removed): (Vec<ObjectEntry>, Vec<_>) =
            last.objects.iter().cloned().partition(|of| of.day >= first);
        if removed.is_empty() {
            return Ok(());
        }
        let next = Generation(last.generation.0.saturating_add(1));
        let scratch = tempfile::tempdir().map_err(LakeError::Scratch)?;
        let summary = summary::write(store, Some(&last), &objects, next, scratch.path())?;
        let months = months::write(store, Some(&last), &objects, next)?;
        let manifest = GenerationManifest {
            version: VERSION,
            generation: next,
            previous: root,
            objects,
            summary,
            months,
            batches: last.batches,
        };
        if let Some(root) = commit(store, &manifest, key)? {
            pruned.root = Some(root);
            pruned.days = removed.iter().map(|of| of.day).collect::<HashSet<_>>().len() as u64;
            return Ok(());
        }
    }
    Err(LakeError::Busy(store.url().to_owned()))
}

/// Deletes what no manifest has named since `before`.
fn sweep(store: &Arc<Store>, before: Timestamp, pruned: &mut Pruned) -> Result<(), LakeError> {
    let snapshot = Snapshot::existing(store)?;
    let mut named: HashSet<String> =
        snapshot.objects().chain(snapshot.derived()).map(|object| object.path.clone()).collect();
    let mut generations: Vec<(Generation, Timestamp)> = store
        .list(GENERATIONS)?
        .into_iter()
        .filter_map(|object| Some((Generation::of_manifest(&object.path)?, object.arrived)))
        .collect();
    generations.sort_unstable();
    for next in generations.windows(2) {
        let ((generation, _), (_, superseded)) = (next[0], next[1]);
        if superseded >= before {
            let (manifest, _) = GenerationManifest::read(store, generation)?;
            let all = manifest.objects.into_iter().chain(manifest.summary).chain(manifest.months);
            named.extend(all.map(|object| object.path));
        }
    }
    // A batch goes a grace time after the generation that took it in.
    let settled = generations.iter().rev().find(|(_, since)| *since < before);
    let settled = settled.map(|(settled, _)| GenerationManifest::read(store, *settled)).transpose()?;
    let settled: HashSet<BatchId> = settled.into_iter().flat_map(|(of, _)| of.batches).collect();
    // Its manifest first: without it, its objects do not count.
    for object in store.list(BATCHES)? {
        let Some(batch) = BatchId::of_manifest(&object.path) else { continue };
        if settled.contains(&batch) {
            delete(store, &object.path, object.bytes, pruned)?;
        } else {
            match BatchManifest::read(store, &batch) {
                Ok(manifest) => named.extend(manifest.objects.into_iter().map(|object| object.path)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }
    for object in store.list_tables()? {
        if object.arrived < before && !named.contains(&object.path) {
            delete(store, &object.path, object.bytes, pruned)?;
        }
    }
    Ok(())
}

fn delete(store: &Store, path: &str, bytes: u64, pruned: &mut Pruned) -> Result<(), LakeError> {
    store.delete(path)?;
    pruned.objects_deleted += 1;
    pruned.bytes_deleted += bytes;
    Ok(())
}
