//! Whether a lake is as it was written.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use crate::layout::{GENERATIONS, Generation, MONTHS, Table};
use crate::manifest::{GenerationManifest, MAX_MANIFEST, ObjectEntry, Root};
use crate::object::{Limits, ObjectReader};
use crate::sign::VerifyingKey;
use crate::spool::SortedRows;
use crate::{
    CoverageRow, Day, FindingRow, HeldRow, LakeError, RecordRow, Row, RunRow, Snapshot, Store, months,
    summary,
};

/// What is compared.
#[derive(Debug, Default)]
pub struct Checks<'a> {
    /// The key that signed the manifests.
    pub key: Option<&'a VerifyingKey>,
    /// A root that was kept elsewhere.
    pub root: Option<&'a Root>,
    /// Only whether the objects are there and have their sizes: their content is not read.
    pub quick: bool,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The root of the last generation: keep it elsewhere.
    pub root: Option<Root>,
    /// The generations whose manifests are there.
    pub generations: u64,
    /// The objects that the last generation and the batches name.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
    /// The batches that are not in the last generation.
    pub batches: u64,
    /// Objects that no manifest names any more, or not yet.
    pub leftovers: u64,
    /// Whether the content of the objects was read.
    pub content_read: bool,
    /// Whether signatures were verified.
    pub signatures_verified: bool,
    /// What is wrong, in the order of the objects' names.
    pub problems: Vec<Problem>,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object's name in the lake.
    pub object: String,
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// A sentence for people.
    pub text: String,
}

/// The kind of a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The object is not there.
    Missing,
    /// Its size or sum is another than its manifest says.
    Altered,
    /// It is no Parquet, or not of its table.
    Unreadable,
    /// Its rows are not in their order, or not as many as its manifest says.
    OutOfOrder,
    /// It is a summary or of a month, and its rows are not those that the objects of days give.
    Inconsistent,
    /// The manifest has no signature.
    Unsigned,
    /// The signature is not of this manifest and key.
    BadSignature,
    /// A generation is not the one that the next one names as its predecessor, or is missing.
    BrokenChain,
    /// The lake is not the one of which the root was kept, or an earlier state of it.
    OtherRoot,
}

impl ProblemKind {
    /// The word in JSON and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Altered => "altered",
            Self::Unreadable => "unreadable",
            Self::OutOfOrder => "out-of-order",
            Self::Inconsistent => "inconsistent",
            Self::Unsigned => "unsigned",
            Self::BadSignature => "bad-signature",
            Self::BrokenChain => "broken-chain",
            Self::OtherRoot => "other-root",
        }
    }
}

/// Compares all objects of a lake with its manifests, and these with each other.
///
/// # Errors
///
/// There is no lake, the last manifest is damaged, or the store fails. What is wrong with other
/// objects is in the result.
pub fn check(store: &Arc<Store>, checks: &Checks<'_>) -> Result<Checked, LakeError> {
    check_with_progress(store, checks, &mut |_| {})
}

/// How far a check has come.
#[derive(Debug, Clone, Copy)]
pub struct CheckProgress<'a> {
    /// The object that is read next.
    pub object: &'a str,
    /// The bytes of those that were read.
    pub bytes: u64,
    /// The bytes of all objects.
    pub total: u64,
}

/// The same, and says before each object how far it has come.
///
/// # Errors
///
/// As those of [`check`].
pub fn check_with_progress(
    store: &Arc<Store>,
    checks: &Checks<'_>,
    progress: &mut dyn FnMut(CheckProgress<'_>),
) -> Result<Checked, LakeError> {
    let snapshot = Snapshot::existing(store)?;
    let mut checking = Checking { store, checks, problems: Vec::new() };
    let generations = checking.chain()?;
    let named: Vec<&ObjectEntry> = snapshot.objects().chain(snapshot.derived()).collect();
    let listed = store.list_tables()?;
    let there: BTreeMap<&str, u64> = listed.iter().map(|object| (&*object.path, object.bytes)).collect();
    let (bytes, rows) = named.iter().fold((0, 0), |(bytes, rows), of| (bytes + of.bytes, rows + of.rows));
    let mut read = 0;
    for object in &named {
        progress(CheckProgress { object: &object.path, bytes: read, total: bytes });
        checking.object(object, there.get(&*object.path).copied())?;
        read += object.bytes;
    }
    if let Some(generation) = &snapshot.generation {
        checking.derived(generation)?;
    }
    let objects = named.len() as u64;
    let named: HashSet<&str> = named.iter().map(|object| object.path.as_str()).collect();
    let leftovers = there.keys().filter(|path| !named.contains(**path)).count() as u64;
    let mut problems = checking.problems;
    problems.sort();
    Ok(Checked {
        root: snapshot.root,
        generations,
        objects,
        bytes,
        rows,
        batches: snapshot.batches.len() as u64,
        leftovers,
        content_read: !checks.quick,
        signatures_verified: checks.key.is_some(),
        problems,
    })
}

struct Checking<'a> {
    store: &'a Arc<Store>,
    checks: &'a Checks<'a>,
    problems: Vec<Problem>,
}

impl Checking<'_> {
    fn problem(&mut self, object: impl Into<String>, kind: ProblemKind, text: impl Into<String>) {
        self.problems.push(Problem { object: object.into(), kind, text: text.into() });
    }

    /// Compares the generations' manifests with each other. Returns how many there are.
    fn chain(&mut self) -> Result<u64, LakeError> {
        let listed = self.store.list(GENERATIONS)?;
        let mut there: Vec<Generation> =
            listed.iter().filter_map(|object| Generation::of_manifest(&object.path)).collect();
        there.sort_unstable();
        let mut read = BTreeMap::new();
        for generation in there.iter().copied() {
            let content = self.store.get(&generation.manifest(), MAX_MANIFEST)?;
            match GenerationManifest::parse(generation, &content) {
                Ok((manifest, root)) => {
                    self.signature(&root, &content)?;
                    // Not its objects: there may be as many manifests as days.
                    read.insert(generation, (manifest.previous, root));
                }
                Err(LakeError::Damaged { reason, .. }) => {
                    self.problem(generation.manifest(), ProblemKind::Altered, reason);
                }
                Err(error) => return Err(error),
            }
        }
        for (generation, (previous, _)) in &read {
            let before = generation.0.checked_sub(1).map(Generation).filter(|before| before.0 > 0);
            match (before, previous) {
                (None, None) => {}
                (Some(before), Some(previous)) if previous.generation == before => match read.get(&before) {
                    Some((_, root)) if root == previous => {}
                    Some(_) => self.problem(
                        before.manifest(),
                        ProblemKind::BrokenChain,
                        format!("generation {} was made after another one", generation.0),
                    ),
                    None if there.contains(&before) => {}
                    None => self.problem(
                        before.manifest(),
                        ProblemKind::BrokenChain,
                        format!("it is missing: generation {} was made after it", generation.0),
                    ),
                },
                _ => self.problem(
                    generation.manifest(),
                    ProblemKind::BrokenChain,
                    "it does not name the generation before it".to_owned(),
                ),
            }
        }
        if let Some(kept) = self.checks.root {
            match read.get(&kept.generation) {
                Some((_, root)) if root == kept => {}
                Some((_, root)) => {
                    let text =
                        format!("its sum is {}; the root that was kept has {}", root.sha256, kept.sha256);
                    self.problem(kept.generation.manifest(), ProblemKind::OtherRoot, text);
                }
                None => {
                    let text = "it is not there: this is another lake, or an earlier state of it";
                    self.problem(kept.generation.manifest(), ProblemKind::OtherRoot, text);
                }
            }
        }
        Ok(there.len() as u64)
    }

    fn signature(&mut self, root: &Root, content: &[u8]) -> Result<(), LakeError> {
        let Some(key) = self.checks.key else { return Ok(()) };
        let manifest = root.generation.manifest();
        let signature = match self.store.get(&root.signature(), 64 << 10) {
            Err(error) if error.is_not_found() => {
                self.problem(manifest, ProblemKind::Unsigned, "it has no signature");
                return Ok(());
            }
            signature => signature?,
        };
        if let Err(reason) = key.verify(content, &String::from_utf8_lossy(&signature)) {
            self.problem(manifest, ProblemKind::BadSignature, reason);
        }
        Ok(())
    }

    fn object(&mut self, object: &ObjectEntry, there: Option<u64>) -> Result<(), LakeError> {
        let ObjectEntry { path, bytes, .. } = object;
        match there {
            None => {
                self.problem(path, ProblemKind::Missing, "it is not there");
                return Ok(());
            }
            Some(size) if size != *bytes => {
                self.problem(path, ProblemKind::Altered, format!("it has {size} bytes, and had {bytes}"));
                return Ok(());
            }
            Some(_) if self.checks.quick => return Ok(()),
            Some(_) => {}
        }
        if self.store.sha256(path, *bytes)? != object.sha256 {
            self.problem(path, ProblemKind::Altered, "its content is not what was written");
            return Ok(());
        }
        let found = match object.table {
            Table::Held => self.rows::<HeldRow>(object),
            Table::Runs => self.rows::<RunRow>(object),
            Table::Findings => self.rows::<FindingRow>(object),
            Table::Coverage => self.rows::<CoverageRow>(object),
            Table::Records => self.rows::<RecordRow>(object),
        };
        match found {
            Err(LakeError::Damaged { reason, .. }) => self.problem(path, ProblemKind::Unreadable, reason),
            Err(error) => return Err(error),
            // A month's findings come day by day, and are compared with those of its days.
            Ok(None) if path.starts_with(MONTHS) => {}
            Ok(None) => self.problem(path, ProblemKind::OutOfOrder, "its rows are not in their order"),
            Ok(Some(rows)) if rows != object.rows => {
                let text = format!("it has {rows} rows, and its manifest says {}", object.rows);
                self.problem(path, ProblemKind::OutOfOrder, text);
            }
            Ok(Some(_)) => {}
        }
        Ok(())
    }

    /// Compares what is derived from the objects of days with what these give. Where something is
    /// wrong with these, or with what is derived, that was said.
    fn derived(&mut self, generation: &GenerationManifest) -> Result<(), LakeError> {
        let bad: HashSet<String> = self.problems.iter().map(|problem| problem.object.clone()).collect();
        let is_bad = |object: &ObjectEntry| bad.contains(&object.path);
        if self.checks.quick || generation.objects.iter().any(is_bad) {
            return Ok(());
        }
        let scratch = tempfile::tempdir().map_err(LakeError::Scratch)?;
        let rows = summary::Rows { store: self.store, objects: &generation.objects, scratch: scratch.path() };
        for object in generation.summary.iter().filter(|object| !is_bad(object)) {
            let is_same = match object.table {
                Table::Coverage => self.is_of(&[object], rows.coverage()?)?,
                Table::Held => self.is_of(&[object], rows.lasting::<HeldRow>()?)?,
                Table::Runs => self.is_of(&[object], rows.lasting::<RunRow>()?)?,
                // A later version's.
                Table::Findings | Table::Records => true,
            };
            self.inconsistent(object, is_same);
        }
        let mut months: BTreeMap<(Table, Day), Vec<&ObjectEntry>> = BTreeMap::new();
        generation.months.iter().for_each(|of| months.entry((of.table, of.day)).or_default().push(of));
        months.retain(|_, objects| !objects.iter().any(|object| is_bad(object)));
        for ((table, first), objects) in months {
            let days = months::of_months(&generation.objects, table).remove(&first).unwrap_or_default();
            let is_same = match table {
                Table::Held => self.is_of(&objects, months::last_rows::<HeldRow>(self.store, &days)?)?,
                Table::Runs => self.is_of(&objects, months::last_rows::<RunRow>(self.store, &days)?)?,
                Table::Findings => self.is_of(&objects, months::findings(self.store, &days)?)?,
                Table::Coverage | Table::Records => true,
            };
            self.inconsistent(objects[0], is_same);
        }
        Ok(())
    }

    fn inconsistent(&mut self, object: &ObjectEntry, is_same: bool) {
        if !is_same {
            let text = "its rows are not those that the objects of its days give";
            self.problem(&object.path, ProblemKind::Inconsistent, text);
        }
    }

    /// Whether objects have these rows, one after the other.
    fn is_of<R: Row + PartialEq>(
        &self,
        objects: &[&ObjectEntry],
        mut expected: SortedRows<R>,
    ) -> Result<bool, LakeError> {
        for object in objects {
            let reader = ObjectReader::<R>::open(self.store, &object.path, object.bytes, Limits::default())?;
            for row in reader.rows()? {
                if expected.next().transpose()? != Some(row?) {
                    return Ok(false);
                }
            }
        }
        Ok(expected.next().transpose()?.is_none())
    }

    /// How many rows an object has; none if they are not in their order.
    fn rows<R: Row>(&self, object: &ObjectEntry) -> Result<Option<u64>, LakeError> {
        let reader = ObjectReader::<R>::open(self.store, &object.path, object.bytes, Limits::default())?;
        let (mut rows, mut last): (u64, Option<R>) = (0, None);
        for row in reader.rows()? {
            let row = row?;
            if last.as_ref().is_some_and(|last| last.order(&row).is_gt()) {
                return Ok(None);
            }
            rows += 1;
            last = Some(row);
        }
        Ok(Some(rows))
    }
}
