#!/bin/sh
# The virtual machine's first steps, before it sees the host's files. A step that fails ends the
# shell, and with it the virtual machine: the console has why.
set -eu
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "/modules/$module"
done </modules/order

# The host's root, which the host lets nobody write, and a file system in memory that takes what is
# written.
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /host
mount -t tmpfs -o size=50% memory /memory
mkdir /memory/written /memory/work
# With another root (xtask/src/vm/root.rs), that one is the lower layer, and the host's files are at
# /host.
lower=$(cat /lower)
mount -t overlay -o "lowerdir=$lower,upperdir=/memory/written,workdir=/memory/work" overlay /root
host=
if [ "$lower" != /host ]; then
	host=/host
	mkdir -p /root/host
	mount -o move /host /root/host
fi
umount /dev

# Goes on as `cargo xtask agent`, the very program that started the virtual machine.
exec switch_root /root "$host$(cat /agent)" agent
