use std::io;
use std::path::PathBuf;

use taptrail_kernel::audit::AuditError;
use taptrail_ledger::LedgerError;

/// The watcher can't start, or its observations can't be written.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The ledger can't be used. Observations are kept, and written with the next commit.
    #[error("Observations can't be written to the ledger")]
    Ledger(#[from] LedgerError),
    /// Another watcher has the ledger.
    #[error("Another watcher is running: it holds {path}", path = path.display())]
    Taken {
        /// The lock file of the ledger, which the other watcher has locked.
        path: PathBuf,
    },
    /// It can't be determined whether another watcher has the ledger.
    #[error("Lock {path} can't be taken", path = path.display())]
    Lock {
        /// The lock file of the ledger.
        path: PathBuf,
        /// The error that the system call returned.
        source: io::Error,
    },
    /// The kernel's audit log is wanted, and can't be reached.
    #[error("Observations can't be written to the kernel's audit log")]
    Audit(#[from] AuditError),
    /// A property of this host or of a process can't be read.
    #[error("{what} can't be read")]
    Proc {
        /// The property, as the subject of the error's sentence.
        what: &'static str,
        /// The error that the system call returned.
        source: io::Error,
    },
}
