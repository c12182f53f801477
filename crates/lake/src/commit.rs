//! Makes a generation the lake's current one.

use bytes::Bytes;

use crate::layout::Generation;
use crate::manifest::{GenerationManifest, Root, sha256};
use crate::sign::SigningKey;
use crate::store::Put;
use crate::{LakeError, Store};

/// Writes the manifest of a generation, and before that its signature. Returns its root; none if
/// there is another generation of this number: then nothing has changed.
///
/// The same generation that is there already is this one: it was written, and the store's answer
/// was lost on its way.
pub(crate) fn commit(
    store: &Store,
    manifest: &GenerationManifest,
    key: Option<&SigningKey>,
) -> Result<Option<Root>, LakeError> {
    let generation = manifest.generation;
    let text = serde_json::to_vec(manifest).map_err(|error| unsigned(generation, &error))?;
    let root = Root { generation, sha256: sha256(&text) };
    if let Some(key) = key {
        let comment = format!("taptrail lake, generation {root}");
        let signature = key.sign(&text, &comment).map_err(|error| unsigned(generation, &error))?;
        // One that is there already is of the same content: the sum is in its name.
        store.put_new(&root.signature(), Bytes::from(signature))?;
    }
    let is_there = match store.put_new(&generation.manifest(), Bytes::from(text))? {
        Put::Written => true,
        Put::Existed => GenerationManifest::read(store, generation)?.1 == root,
    };
    Ok(is_there.then_some(root))
}

fn unsigned(generation: Generation, reason: &impl ToString) -> LakeError {
    LakeError::Unsigned { object: generation.manifest(), reason: reason.to_string() }
}
