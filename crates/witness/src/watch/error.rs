use std::io;
use std::path::PathBuf;

use taptrail_kernel::audit::AuditError;
use taptrail_ledger::LedgerError;

/// Watching can't begin, or what was seen can't be made to last.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The ledger can't be used. What was seen is kept, and written with the next commit.
    #[error("Observations can't be written to the ledger")]
    Ledger(#[from] LedgerError),
    /// Another watcher has the ledger.
    #[error("Another watcher is running: it holds {path}", path = path.display())]
    Taken {
        /// The locked file.
        path: PathBuf,
    },
    /// It can't be seen whether another watcher has the ledger.
    #[error("Lock {path} can't be taken", path = path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel's audit is to be told, and can't be reached.
    #[error("Observations can't be written to the kernel's audit log")]
    Audit(#[from] AuditError),
    /// The host can't be described.
    #[error("{what} can't be read")]
    Proc {
        /// What.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}
