-- What a watcher keeps of the guests of another manager, libvirt's first.

-- Its supervisor is a watcher, which looks on: nothing of the guest is ours to recover, adopt or end.
ALTER TABLE guest ADD COLUMN watched INTEGER NOT NULL DEFAULT 0;
-- When all that is open of it was last seen to be there.
ALTER TABLE guest ADD COLUMN seen INTEGER;

CREATE INDEX guest_uuid ON guest (uuid);

-- The process that wrote it, where that is not the guest's supervisor.
ALTER TABLE record ADD COLUMN writer INTEGER;
-- Its manager's own record, copied from the log: its time and serial there.
ALTER TABLE record ADD COLUMN copied INTEGER NOT NULL DEFAULT 0;
CREATE INDEX record_copied ON record (id) WHERE copied = 1;

-- Up to where the log is followed: one row.
CREATE TABLE watch (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    -- As the follower wrote it.
    checkpoint TEXT    NOT NULL,
    -- The time of the last entry taken, and its serial.
    time       INTEGER NOT NULL,
    serial     INTEGER
) STRICT;
