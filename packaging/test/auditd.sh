# The packaged plugin in the real auditd of a root; of scripts/test-packages.
# shellcheck shell=bash disable=SC2154,SC2016

# One record as libvirt's daemon writes it, into the kernel's audit (linux/audit.h: AUDIT_VIRT_RESOURCE).
WRITE_RECORD='
import os, socket, struct, sys
text = sys.argv[1].encode() + b"\0"
audit = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
audit.bind((0, 0))
audit.send(struct.pack("=IHHII", 16 + len(text), 2501, 5, 1, 0) + text + b"\0" * (-len(text) % 4))
answer = audit.recv(8192)
sys.exit(-struct.unpack_from("=i", answer, 16)[0])
'

echo "== $suite: auditd's plugin"
fresh_root "$suite" auditd
cp "$deb" "$root/taptrail.deb"
check "it is installed beside auditd" in_root dpkg -i /taptrail.deb
check "the plugin is enabled" in_root install -m 640 /usr/share/taptrail/audit/taptrail-auditd.conf /etc/audit/plugins.d/taptrail.conf

# The switch belongs to the whole machine: as tests/e2e/world/auditing.rs.
exec 7>/run/lock/taptrail-audit.lock
flock 7
# stop_auditd puts it back.
# shellcheck disable=SC2034
enabled=$(auditctl -s | awk '$1 == "enabled" { print $2 }')
daemon=$(auditctl -s | awk '$1 == "pid" { print $2 }')
# The kernel forgets a daemon that was killed with the next record.
if [ "$daemon" != 0 ] && kill -0 "$daemon" 2>/dev/null; then
	echo "test-packages: an auditd runs here: its plugin is not tried"
	flock -u 7
	return
fi
in_root auditd -n 7>&- >"$work/auditd" 2>&1 &
runs() {
	auditd=$(auditctl -s | awk '$1 == "pid" && $2 != 0 { print $2 }')
	[ -n "$auditd" ] && [ "$auditd" != "$daemon" ]
}
plugin() {
	pgrep --parent "$auditd" --full '^/usr/bin/taptrail watch --stdin'
}
in_ledger() {
	in_root taptrail ledger export | grep 'net=52:54:00:aa:00:01'
}
check "auditd runs" eventually runs
check "it started the plugin" eventually plugin
plugin=$(plugin)
auditctl -e 1 >/dev/null
check "a record of libvirt's" python3 -c "$WRITE_RECORD" 'virt=kvm resrc=net reason=open vm="web1" uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e net=52:54:00:aa:00:01 path="/dev/net/tun" rdev=0A:C8 exe="/usr/sbin/libvirtd" hostname=? addr=? terminal=? res=success'
check "the plugin has it in the ledger" eventually in_ledger
stop_auditd
check "the plugin ends with auditd" eventually refused kill -0 "$plugin"
flock -u 7
