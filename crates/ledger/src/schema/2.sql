-- What a supervisor has to know of a guest whose supervisor ended before it.

-- Where its links and filters are: the inode of /proc/PID/ns/net.
ALTER TABLE guest ADD COLUMN netns INTEGER;
-- The user's own -S: the guest was not to be let run.
ALTER TABLE guest ADD COLUMN paused INTEGER;

-- Every interface, from before anything is done for it until nothing of it is left, in QEMU or on the host.
CREATE TABLE interface (
    id    INTEGER PRIMARY KEY,
    guest INTEGER NOT NULL REFERENCES guest (id),
    mac   TEXT    NOT NULL,
    -- The NIC's id in QEMU. Its backend's is host-NIC.
    nic   TEXT    NOT NULL,
    -- As it was asked for, with its MAC.
    spec  TEXT    NOT NULL,
    begun INTEGER NOT NULL,
    ended INTEGER
) STRICT;
CREATE INDEX interface_live ON interface (guest) WHERE ended IS NULL;
