//! What a lake has at one moment.

use std::collections::HashSet;

use crate::layout::{BATCHES, BatchId, GENERATIONS, Generation, Table};
use crate::manifest::{BatchManifest, GenerationManifest, ObjectEntry, Root};
use crate::{LakeError, Store, parallel};

/// How often a lake is looked at again that changed meanwhile.
const ATTEMPTS: usize = 5;

/// What a lake has at one moment: the last generation, and the batches that are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last generation; none if nothing has been compacted.
    pub generation: Option<GenerationManifest>,
    /// Its root.
    pub root: Option<Root>,
    /// The batches that are not in it, in the order of their names.
    pub batches: Vec<BatchManifest>,
}

impl Snapshot {
    /// Looks at a lake. One without anything has neither generation nor batches.
    ///
    /// # Errors
    ///
    /// The store can't be read, or a manifest is damaged.
    pub fn load(store: &Store) -> Result<Self, LakeError> {
        let mut attempt = 1;
        loop {
            match Self::load_once(store) {
                Err(error) if error.is_not_found() && attempt < ATTEMPTS => attempt += 1,
                loaded => return loaded,
            }
        }
    }

    /// The same; a lake without anything is an error.
    ///
    /// # Errors
    ///
    /// As those of [`load`](Self::load), or there is nothing.
    pub fn existing(store: &Store) -> Result<Self, LakeError> {
        let loaded = Self::load(store)?;
        let is_empty = loaded.generation.is_none() && loaded.batches.is_empty();
        if is_empty { Err(LakeError::NoLake(store.url().to_owned())) } else { Ok(loaded) }
    }

    fn load_once(store: &Store) -> Result<Self, LakeError> {
        // Batches first: one that is compacted and deleted meanwhile is in the generation.
        let listed = store.list(BATCHES)?;
        let mut ids: Vec<BatchId> =
            listed.iter().filter_map(|object| BatchId::of_manifest(&object.path)).collect();
        ids.sort_unstable();
        let generations = store.list(GENERATIONS)?;
        let last = generations.iter().filter_map(|object| Generation::of_manifest(&object.path)).max();
        let (generation, root) = last.map(|last| GenerationManifest::read(store, last)).transpose()?.unzip();
        let included: HashSet<&BatchId> =
            generation.iter().flat_map(|generation: &GenerationManifest| &generation.batches).collect();
        ids.retain(|id| !included.contains(id));
        let mut batches = Vec::with_capacity(ids.len());
        let read = |id: &BatchId, to: &mut parallel::Sender<'_, BatchManifest>| {
            Ok(to.send(BatchManifest::read(store, id)?)?)
        };
        parallel::in_order(store.parallelism(), &ids, read, &mut |batch| {
            batches.push(batch);
            Ok::<_, LakeError>(())
        })?;
        Ok(Self { generation, root, batches })
    }

    /// The generation's objects of a table, in the order of their days.
    pub fn compacted(&self, table: Table) -> Vec<&ObjectEntry> {
        let objects = self.generation.iter().flat_map(|generation| &generation.objects);
        let mut of_table: Vec<_> = objects.filter(|object| object.table == table).collect();
        of_table.sort_by_key(|object| object.day);
        of_table
    }

    /// The generation's objects that are derived from those of its days.
    pub fn derived(&self) -> impl Iterator<Item = &ObjectEntry> {
        self.generation.iter().flat_map(GenerationManifest::derived)
    }

    /// The objects of the generation's summary.
    pub fn summary(&self) -> &[ObjectEntry] {
        self.generation.as_ref().map_or(&[], |generation| &generation.summary)
    }

    /// All objects of tables, compacted and not.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectEntry> {
        let pending = self.batches.iter().flat_map(|batch| &batch.objects);
        self.generation.iter().flat_map(|generation| &generation.objects).chain(pending)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::batch::BatchInput;
    use crate::manifest::VERSION;

    fn put(store: &Store, path: &str, value: &impl serde::Serialize) {
        store.put_new(path, Bytes::from(serde_json::to_vec(value).unwrap())).unwrap();
    }

    fn entry(path: &str) -> ObjectEntry {
        let day = "2026-11-29".parse().unwrap();
        ObjectEntry { table: Table::Held, day, path: path.into(), sha256: "x".into(), bytes: 1, rows: 1 }
    }

    fn batch(name: &str, path: &str) -> BatchManifest {
        let batch = BatchId::of([name].into_iter());
        BatchManifest {
            version: VERSION,
            batch,
            hosts: Vec::new(),
            input: BatchInput::default(),
            objects: vec![entry(path)],
        }
    }

    #[test]
    fn a_batch_counts_until_a_generation_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
        assert!(matches!(Snapshot::existing(&store), Err(LakeError::NoLake(_))));
        let (one, two) = (
            batch("one", "inbox/held/day=2026-11-29/a.parquet"),
            batch("two", "inbox/held/day=2026-11-29/b.parquet"),
        );
        put(&store, &one.batch.manifest(), &one);
        put(&store, &two.batch.manifest(), &two);
        assert_eq!(Snapshot::load(&store).unwrap().batches.len(), 2);
        let compacted = entry("held/day=2026-11-29/g00000001-x.parquet");
        let generation = GenerationManifest {
            version: VERSION,
            generation: Generation(1),
            previous: None,
            objects: vec![compacted.clone()],
            summary: Vec::new(),
            months: Vec::new(),
            batches: vec![one.batch.clone()],
        };
        put(&store, &Generation(1).manifest(), &generation);
        let snapshot = Snapshot::load(&store).unwrap();
        assert_eq!(snapshot.batches, [two]);
        assert_eq!(snapshot.compacted(Table::Held), [&compacted]);
        assert_eq!(snapshot.compacted(Table::Runs), [&compacted; 0]);
        assert_eq!(snapshot.objects().count(), 2);
        assert_eq!(snapshot.root.unwrap().generation, Generation(1));
    }

    #[test]
    fn a_manifest_names_no_object_outside_of_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", directory.path().display())).unwrap();
        for path in ["held/day=2026-11-29/a.parquet", "inbox/held/day=2026-11-29/../x.parquet", "/etc/shadow"]
        {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(&format!("file://{}", directory.path().display())).unwrap();
            let hostile = batch("one", path);
            put(&store, &hostile.batch.manifest(), &hostile);
            let error = Snapshot::load(&store).unwrap_err().to_string();
            assert!(error.contains(path), "{error}");
        }
        store.put_new(&Generation(3).manifest(), Bytes::from_static(b"{\"version\":2}")).unwrap();
        let error = Snapshot::load(&store).unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
    }
}
