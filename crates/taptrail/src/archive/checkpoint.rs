//! What was sent before: a file, so that a timer's next run sends only what is new.
//!
//! A checkpoint that is lost costs a longer run and changes nothing: objects are named by their
//! content.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use taptrail_lake::{BATCHES, BatchId, GENERATIONS, SentDays, Store};

use crate::output::Failure;
use crate::private_file::PrivateFile;
use crate::reading::InputFingerprint;

/// The version of the file.
const VERSION: u32 = 1;

pub(super) struct Checkpoint {
    path: PathBuf,
    url: String,
    last: Option<Content>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    /// The lake.
    url: String,
    /// The last batch that added something.
    batch: Option<BatchId>,
    /// The input's files; none if a change of them can't be excluded.
    input: Option<InputFingerprint>,
    sent: SentDays,
}

impl Checkpoint {
    /// Reads a checkpoint. One of another lake, of another version or of a lake that has been emptied
    /// is as none.
    pub(super) fn load(path: &Path, store: &Store) -> Result<Self, Failure> {
        let url = store.url().to_owned();
        let none = Self { path: path.to_owned(), url, last: None };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(none),
            Err(error) => {
                let reason = anyhow::Error::new(error);
                return Err(Failure::input(
                    reason.context(format!("The checkpoint {} can't be read", path.display())),
                ));
            }
        };
        let Ok(content) = serde_json::from_slice::<Content>(&text) else {
            tracing::warn!("{} is no checkpoint of this version: all of the input is sent", path.display());
            return Ok(none);
        };
        if content.version != VERSION || content.url != none.url {
            return Ok(none);
        }
        // Compaction deletes batches, and leaves a generation that has them.
        let has_batch = match &content.batch {
            Some(batch) => store.size(&batch.manifest())?.is_some() || !store.list(GENERATIONS)?.is_empty(),
            None => !store.list(BATCHES)?.is_empty() || !store.list(GENERATIONS)?.is_empty(),
        };
        Ok(Self { last: has_batch.then_some(content), ..none })
    }

    /// Whether these files, as they are, were sent.
    pub(super) fn has_all_of(&self, input: Option<&InputFingerprint>) -> bool {
        let last = self.last.as_ref().and_then(|last| last.input.as_ref());
        input.is_some() && last == input
    }

    pub(super) fn sent(&self) -> SentDays {
        self.last.as_ref().map(|last| last.sent.clone()).unwrap_or_default()
    }

    /// Keeps what is sent now: `batch`, if something was.
    pub(super) fn save(
        self,
        batch: Option<BatchId>,
        input: Option<InputFingerprint>,
        sent: SentDays,
    ) -> Result<(), Failure> {
        let batch = batch.or_else(|| self.last.and_then(|last| last.batch));
        let content = Content { version: VERSION, url: self.url, batch, input, sent };
        let write = || -> anyhow::Result<()> {
            let mut file = PrivateFile::create(&self.path)?;
            file.write_all(&serde_json::to_vec(&content)?)?;
            Ok(file.commit()?)
        };
        let context =
            || format!("The batch was sent, and the checkpoint {} can't be written", self.path.display());
        Ok(write().with_context(context)?)
    }
}
