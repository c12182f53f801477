-- guest.watched is 2 for the account of a tap that the bridge helper passed to a user's QEMU. It has no guest: its name is
-- empty, its uuid nil, and pid is the process that asked for the tap. Its first record has the tap.

CREATE INDEX guest_bridge_tap ON guest (id) WHERE watched = 2 AND ended IS NULL;
