-- Times are milliseconds since 1970-01-01T00:00:00Z.

-- One start of one guest.
CREATE TABLE guest (
    id               INTEGER PRIMARY KEY,
    name             TEXT    NOT NULL,
    uuid             TEXT    NOT NULL,
    -- /proc/sys/kernel/random/boot_id: pids mean something within one boot only.
    boot_id          TEXT    NOT NULL,
    supervisor_pid   INTEGER NOT NULL,
    supervisor_start INTEGER NOT NULL,
    -- QEMU's, once it runs. start: clock ticks since boot, field 22 of /proc/PID/stat.
    pid              INTEGER,
    pid_start        INTEGER,
    begun            INTEGER NOT NULL,
    ended            INTEGER,
    end_reason       TEXT,
    CHECK ((ended IS NULL) = (end_reason IS NULL))
) STRICT;
CREATE INDEX guest_live ON guest (name) WHERE ended IS NULL;

-- Every audit record, as its text, in the order written.
CREATE TABLE record (
    id     INTEGER PRIMARY KEY,
    guest  INTEGER NOT NULL REFERENCES guest (id),
    time   INTEGER NOT NULL,
    -- 2500 VIRT_CONTROL, 2501 VIRT_RESOURCE.
    type   INTEGER NOT NULL,
    text   TEXT    NOT NULL,
    -- 'read-back', 'counters', 'ack', 'off', or why the kernel did not log it.
    logged TEXT    NOT NULL,
    -- The kernel's serial number, where it was read back.
    serial INTEGER
) STRICT;
CREATE INDEX record_guest ON record (guest);

-- Every successful open(2), from its open record to its close record.
CREATE TABLE device (
    id      INTEGER PRIMARY KEY,
    guest   INTEGER NOT NULL REFERENCES guest (id),
    mac     TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    path    TEXT    NOT NULL,
    rdev    TEXT,
    dev     TEXT,
    queue   INTEGER NOT NULL,
    opened  INTEGER NOT NULL REFERENCES record (id),
    -- The grant (or, after a failed attach, the keep) record, and the descriptor's number in QEMU.
    granted INTEGER REFERENCES record (id),
    qemu_fd INTEGER,
    closed  INTEGER REFERENCES record (id)
) STRICT;
CREATE INDEX device_live ON device (guest) WHERE closed IS NULL;

-- Every step with a lasting effect: its intent before, its outcome after. A step without an
-- outcome was cut off, and is what recovery looks at.
CREATE TABLE step (
    id       INTEGER PRIMARY KEY,
    guest    INTEGER NOT NULL REFERENCES guest (id),
    -- 'start', 'open', 'hand-over', 'release', 'stop'
    kind     TEXT    NOT NULL,
    mac      TEXT,
    detail   TEXT    NOT NULL,
    intended INTEGER NOT NULL,
    done     INTEGER,
    outcome  TEXT,
    CHECK ((done IS NULL) = (outcome IS NULL))
) STRICT;
CREATE INDEX step_open ON step (guest) WHERE done IS NULL;
