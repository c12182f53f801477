# What the parts of scripts/test-packages share.
# shellcheck shell=bash disable=SC2154,SC2034

checks=0
init=
unshared=
cgroup=
auditd=
enabled=

fail() {
	echo "test-packages: $*" >&2
	exit 1
}

# The one file that a pattern names.
only() {
	[ $# -eq 1 ] && [ -e "$1" ] || fail "not one package but $*: make packages"
	realpath "$1"
}

# check WHAT COMMAND…: the command must succeed; its output is shown when it does not.
check() {
	local what=$1
	shift
	if ! "$@" >"$work/output" 2>&1; then
		cat "$work/output" >&2
		fail "${suite:-rpm}: $what: '$*' failed"
	fi
	checks=$((checks + 1))
}

# check_says WHAT PATTERN COMMAND…: the command must succeed, and its output match.
check_says() {
	local what=$1 pattern=$2
	shift 2
	check "$what" "$@"
	if ! grep -qE -- "$pattern" "$work/output"; then
		cat "$work/output" >&2
		fail "${suite:-rpm}: $what: '$*' does not say '$pattern'"
	fi
}

refused() {
	! "$@"
}

silent() {
	local said
	said=$("$@" 2>&1) && [ -z "$said" ] || { echo "$said" && false; }
}

eventually() {
	local end=$((SECONDS + 60))
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.2
	done
}

# A fresh root of this suite in $root, with $packages, or with these only.
fresh_root() {
	local kept=target/packages/roots/$1${2:+-$2}.tar
	if [ ! -e "$kept" ]; then
		echo "test-packages: making a root of Debian's $1${2:+ with $2} (once)"
		mkdir -p "${kept%/*}"
		mmdebstrap --quiet --variant=minbase --include="${2:-$packages}" "$1" "$kept.new.tar"
		mv "$kept.new.tar" "$kept"
	fi
	root=$work/$1
	rm -rf --one-file-system "$root"
	mkdir "$root"
	tar -x -f "$kept" -C "$root"
	# Debian's packages of minimal systems, and Docker's, leave these out by it.
	rm -f "$root"/etc/dpkg/dpkg.cfg.d/*
}
packages=systemd,systemd-sysv,dbus,qemu-system-x86,nftables,iproute2,man-db,libcap2-bin,bash-completion,procps

# shellcheck disable=SC2016 # It is the inner shell's.
in_root() {
	unshare --mount sh -ec '
		root=$1
		shift
		mount -t proc proc "$root/proc"
		[ -e "$root/dev/fd" ] || ln -s /proc/self/fd "$root/dev/fd"
		exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
	' in_root "$root" "$@"
}

# All files, but for the records of dpkg, rpm and apt, caches and logs.
listing() {
	(cd "$root" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/lib/rpm \
		-o -path ./var/cache -o -path ./var/log -o -path ./tmp -o -path ./run -o -path ./dev -o -path ./proc -o -path ./sys \) -prune \
		-o -printf '%p %y %m %U:%G %l\n' | sort)
}

# Nothing differs from the files before.
nothing_left() {
	diff "$work/before" <(listing)
}

# Owner, mode and capabilities of the bridge helper.
helper=/usr/libexec/taptrail-bridge-helper
rights() {
	# shellcheck disable=SC2016 # It is the inner shell's.
	in_root sh -c 'stat -c "%u:%g %a" "$1" && getcap "$1"' rights "$helper"
}
have_no_rights() {
	[ "$(rights)" = "0:0 755" ]
}

# An upgrade, by `upgrade` of the package's kind, keeps the rights of the helper, whatever they are.
# (A new owner takes capabilities and setuid, so that these come last.)
keeps_rights() {
	local give before
	# shellcheck disable=SC2016 # They are the inner shell's.
	for give in 'setcap "$2" "$1"' 'chgrp 36 "$1"; chmod 0750 "$1"; setcap "$2" "$1"' 'chown 7 "$1"; chmod 0500 "$1"' 'chmod 4755 "$1"' \
		'chgrp 36 "$1"; chmod 4750 "$1"' 'chmod 6755 "$1"; setcap cap_net_admin=ep "$1"' 'chmod 0755 "$1"'; do
		check "the helper gets rights: $give" in_root sh -ec "chown 0:0 \"\$1\"; $give" give "$helper" "$caps"
		before=$(rights)
		check "an upgrade says nothing of rights" refused says_rights upgrade
		check "it keeps them: $before" test "$(rights)" = "$before"
	done
}
says_rights() {
	"$@" 2>&1 | grep -E 'rights|capabilities'
}

# The rights are known not to be kept, or not known: an upgrade says so, and so does no later one.
loses_rights_aloud() {
	in_root sh -ec "chmod 0755 $helper; setcap $caps $helper"
	mv "$root/usr/sbin/getcap" "$root/usr/sbin/getcap.away"
	check_says "without getcap capabilities go, and it says so" "$helper may have had capabilities" upgrade
	check "an upgrade without any says nothing" refused says_rights upgrade
	mv "$root/usr/sbin/getcap.away" "$root/usr/sbin/getcap"
	check "none are left" have_no_rights

	in_root sh -ec "chmod 0750 $helper; setcap $caps $helper"
	python3 -c "$ACCESS_LIST" "$root$helper"
	check_says "an access control list goes, with the rights that it was beside, and it says so" \
		"$helper had an access control list" upgrade
	check "none are left" have_no_rights

	in_root sh -ec "chgrp 36 $helper; chmod 0750 $helper; setcap $caps $helper"
	mv "$root/usr/sbin/setcap" "$root/usr/sbin/setcap.away"
	check_says "without setcap they go, and it says so" "$helper has lost its rights: setcap $caps $helper" upgrade
	mv "$root/usr/sbin/setcap.away" "$root/usr/sbin/setcap"
	check "owner and mode are kept" test "$(rights)" = "0:36 750"
	check "a later upgrade says nothing" refused says_rights upgrade
	check "and does not give them again" test "$(rights)" = "0:36 750"
	check "they are as packaged" in_root sh -ec "chown 0:0 $helper; chmod 0755 $helper"
}
# As `setfacl -m user:1000:rx,group::-`: xattrs of linux/posix_acl_xattr.h.
ACCESS_LIST='
import os, struct, sys
nobody = 0xffffffff
entries = [(1, 7, nobody), (2, 5, 1000), (4, 0, nobody), (16, 5, nobody), (32, 0, nobody)]
text = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(sys.argv[1], "system.posix_acl_access", text)
'

clean_up() {
	power_off
	stop_auditd
	rm -rf --one-file-system "$work"
}

# Boots the root's systemd as the first process of namespaces of its own, with a bridge br0.
boot() {
	local mount own
	mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
	own=$(sed -n 's/^0:://p' /proc/self/cgroup)
	[ -n "$mount" ] && [ -n "$own" ] || fail "there is no control group of the second version"
	cgroup=$mount${own%/}/${work##*/}
	mkdir "$cgroup"
	# shellcheck disable=SC2016 # It is the inner shell's.
	sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec unshare "$@"' enter "$cgroup" \
		--cgroup --mount --pid --ipc --uts --net --fork --kill-child -- sh -ec "$INIT" init "$root" "$work/init" \
		</dev/null >"$work/boot" 2>&1 &
	unshared=$!
	eventually test -s "$work/init" || fail "$suite does not boot: $(cat "$work/boot")"
	init=$(cat "$work/init")
	eventually is_up || fail "$suite does not boot: $(on_host systemctl list-jobs 2>&1) $(cat "$work/boot")"
	on_host ip link add br0 type bridge
	on_host ip link set br0 up
}

# shellcheck disable=SC2016 # It is the inner shell's.
INIT='
read -r pid _ </proc/self/stat
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
mount -t tmpfs -o mode=755 none "$1/run"
mount -t tmpfs -o mode=1777 none "$1/tmp"
mount -t tmpfs -o mode=755 none "$1/dev"
mkdir "$1/dev/net" "$1/dev/pts" "$1/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 none "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
	IFS=: read -r name major minor <<END
$device
END
	mknod -m 666 "$1/dev/$name" c "$major" "$minor"
done
echo "$pid" >"$2"
cd "$1"
exec chroot . env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
'

is_up() {
	[ "$(on_host systemctl is-active multi-user.target 2>/dev/null)" = active ]
}

# A command on the booted host.
on_host() {
	nsenter --target "$init" --mount --pid --ipc --uts --net --cgroup --root="/proc/$init/root" --wd=/ \
		env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# Ends the root's auditd, and puts the kernel's switch back.
stop_auditd() {
	[ -n "$auditd" ] || return 0
	auditctl -e "$enabled" >/dev/null
	kill "$auditd"
	wait
	auditd=
}

# Ends all processes of the booted host at once.
power_off() {
	[ -n "$unshared" ] || return 0
	kill -KILL "$unshared" 2>/dev/null || true
	wait "$unshared" 2>/dev/null || true
	unshared=
	if [ -n "$cgroup" ]; then
		eventually refused grep -q '^populated 1' "$cgroup/cgroup.events" || true
		find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
	fi
	rm -f "$work/init"
}
