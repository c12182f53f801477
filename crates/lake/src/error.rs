use std::sync::Arc;

/// Why a lake can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The URL names no place that objects can lie in.
    #[error("'{url}' is no place for a lake: {reason}")]
    Url {
        /// The URL, without credentials.
        url: String,
        /// Why, in a sentence.
        reason: String,
    },
    /// The object store answered with an error.
    #[error("{object} can't be {what}")]
    Store {
        /// The object's name in the lake.
        object: String,
        /// What was to be done: `read`, `written`, `listed` or `deleted`.
        what: &'static str,
        /// The store's error.
        #[source]
        source: object_store::Error,
    },
    /// There is no lake.
    #[error("there is no lake at {0}: it has neither a generation nor a batch")]
    NoLake(String),
    /// An object is not what its name and manifest say.
    #[error("{object} is no object of a lake, or damaged: {reason}")]
    Damaged {
        /// The object's name in the lake.
        object: Arc<str>,
        /// Why, in a sentence.
        reason: String,
    },
    /// Rows can't be written as Parquet.
    #[error("rows of the table {table} can't be written: {reason}")]
    Rows {
        /// The table.
        table: &'static str,
        /// The library's reason.
        reason: String,
    },
    /// A manifest can't be signed.
    #[error("{object} can't be signed: {reason}")]
    Unsigned {
        /// The manifest's name in the lake.
        object: String,
        /// The library's reason.
        reason: String,
    },
    /// Others change the lake all the time.
    #[error("other programs are compacting the lake {0}: try again later")]
    Busy(String),
    /// Temporary files can't be written or read.
    #[error("rows can't be sorted in the directory for temporary files")]
    Scratch(#[source] std::io::Error),
    /// Objects are fetched by threads of their own, and these can't be started.
    #[error("the object store's client can't be started")]
    Start(#[source] std::io::Error),
}

impl LakeError {
    /// Whether an object that was to be read is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store { source: object_store::Error::NotFound { .. }, .. })
    }

    /// A damaged object.
    pub(crate) fn damaged(object: &Arc<str>, reason: impl ToString) -> Self {
        Self::Damaged { object: Arc::clone(object), reason: reason.to_string() }
    }

    /// A damaged object: it has a value that is none of its column.
    pub(crate) fn out_of_range(object: &str) -> Self {
        Self::damaged(&Arc::from(object), "a value of it is out of range")
    }
}
