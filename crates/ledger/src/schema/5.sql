-- A hash chain over the records, in the order written, by which rows show that were altered, removed or inserted since.
-- It protects only up to a row whose hash is known from elsewhere: who can write this file can write the chain again.

CREATE TABLE chain (
    -- From 1, without a gap.
    id     INTEGER PRIMARY KEY,
    -- 'record'; 'prune': the guest's records up to here were deleted, because it had ended; 'replace': by a newer
    -- state of its account, from another ledger.
    kind   TEXT    NOT NULL,
    -- The guest's row, which may be gone.
    guest  INTEGER NOT NULL,
    -- The record's row; of 'prune', the time up to which guests were to be deleted; of 'replace', the guest's new row.
    row    INTEGER NOT NULL,
    -- The record's, or of the deletion.
    time   INTEGER NOT NULL,
    -- SHA-256 of the record with its guest's name, uuid, boot and beginning; else of nothing.
    digest BLOB    NOT NULL,
    -- SHA-256 of the columns above, of chain_start, and of the hash before this one.
    hash   BLOB    NOT NULL
) STRICT;
CREATE INDEX chain_deletion ON chain (guest) WHERE kind IN ('prune', 'replace');

-- One row.
CREATE TABLE chain_start (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    -- A random UUID, which names this ledger.
    ledger      TEXT    NOT NULL,
    -- When the chain was begun.
    begun       INTEGER NOT NULL,
    -- The records that were there already, if an older taptrail made the ledger.
    older       INTEGER,
    -- The rows that were deleted from the beginning of the chain, because their records had been; the last one's hash.
    pruned      INTEGER NOT NULL DEFAULT 0,
    pruned_hash BLOB,
    pruned_at   INTEGER
) STRICT;
