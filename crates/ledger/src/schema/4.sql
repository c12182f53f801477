-- Where a watcher saw the interface behind a device last: what the kernel shows of that one tells, when nobody is there
-- to be asked any more, whether the device was given up.

-- The inode of its network namespace, and its number there.
ALTER TABLE device ADD COLUMN netns INTEGER;
ALTER TABLE device ADD COLUMN ifindex INTEGER;
