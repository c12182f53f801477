-- Where a watcher last saw the interface behind a device. After QEMU has ended, the kernel's state of that interface
-- shows whether the device was closed.

-- The inode of the interface's network namespace, and its ifindex.
ALTER TABLE device ADD COLUMN netns INTEGER;
ALTER TABLE device ADD COLUMN ifindex INTEGER;
