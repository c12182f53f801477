#!/bin/sh
# Makes the directory `evidence`: what was collected from eleven hosts, with what goes wrong when
# logs are collected. Guests are those of real libvirts, at other times; the lines before and after
# are a cron job's, every six hours from 16 to 28 November 2026.
#   heap.sh LOGS    LOGS is tests/data/libvirt
set -e
logs=$1
# Before anything is written.
for program in awk bzip2 gzip; do command -v "$program" >/dev/null || { echo "heap.sh: $program is needed" >&2; exit 1; }; done

# host TIME LOG: the log of a host whose guests ran at TIME (in seconds since 1970).
host() {
	awk -v at="$1" -v from="${from:-1794805200}" -v to=1795903200 '
	function cron(time, serial) {
		printf "type=USER_ACCT msg=audit(%d.100:%d): pid=4242 uid=0 auid=4294967295 ses=4294967295 ", time, serial
		print "msg='\''op=PAM:accounting acct=\"root\" exe=\"/usr/sbin/cron\" hostname=? addr=? terminal=cron res=success'\''"
	}
	match($0, /audit\([0-9]+\.[0-9]+:[0-9]+\)/) {
		split(substr($0, RSTART + 6, RLENGTH - 7), stamp, /[.:]/)
		if (!begin) {
			begin = stamp[1]
			for (time = from; time < at; time += 21600) cron(time, ++serial)
			before = serial + 1 - stamp[3]
		}
		serial = before + stamp[3]
		if (serial > last) last = serial
		printf "%saudit(%d.%s:%d)%s\n", substr($0, 1, RSTART - 1), stamp[1] - begin + at, stamp[2], serial, \
			substr($0, RSTART + RLENGTH)
	}
	END { for (; time < to; time += 21600) if (time > at) cron(time, ++last) }' "$logs/$2/audit.log"
}

# The records of guests, as `journalctl -o export` writes them.
journal() {
	sed -nE 's/^type=(VIRT_[A-Z_]+) msg=audit\(([0-9]+)\.([0-9]+):([0-9]+)\): ([^\x1d]*).*/\1 \2\3000 \4 \5/p' |
		while read -r type time serial text; do
			case $type in VIRT_CONTROL) number=2500 ;; VIRT_RESOURCE) number=2501 ;; *) number=2502 ;; esac
			printf '__CURSOR=s=68017cd5;i=%x\n__REALTIME_TIMESTAMP=%s\n' "$serial" "$time"
			printf '_BOOT_ID=a0a1a2a3a4a5a6a7a8a9aaabacadaeaf\n_MACHINE_ID=b0b1b2b3b4b5b6b7b8b9babbbcbdbebf\n'
			printf '_TRANSPORT=audit\n_AUDIT_TYPE=%s\n_AUDIT_TYPE_NAME=%s\n_AUDIT_ID=%s\n' "$number" "$type" "$serial"
			printf '_SOURCE_REALTIME_TIMESTAMP=%s\n_HOSTNAME=hv07\nMESSAGE=%s %s\n\n' "$time" "$type" "$text"
		done
}

mkdir evidence && cd evidence
mkdir hv01 hv02 hv03 hv04 hv05 hv06 hv07 hv08 hv09 'hv10 (Berlin)' hv11

host 1795014379 libvirt-9.0-vhost-plug/07-two-guests >all
head -n 45 all | gzip -n >hv01/audit.log.1.gz
tail -n +46 all >hv01/audit.log

host 1795120000 libvirt-9.0-vhost-plug/02-hotplug-queues >all
head -n 20 all | bzip2 >hv02/audit.log.1.bz2
tail -n +21 all >hv02/audit.log

host 1795300000 libvirt-9.0/05-two-nics-model >all
head -n 60 all >hv03/audit.log.1
gzip -nk hv03/audit.log.1
tail -n +61 all >hv03/audit.log

host 1795529062 libvirt-9.0-vhost-plug/14-save-restore >hv04/audit.log

# The logs of one host, delivered twice; none of another; a journal.
cp hv01/* hv05
echo 'The disk was full. We are looking for a backup.' >hv06/mail.txt
host 1795210000 libvirt-9.0-vhost-plug/01-three-nics | journal >hv07/journal.export

host 1795400000 libvirt-11.3/11-hotplug-fails | sed 's/^/node=kvm08.example.com /' >hv08/audit.log

# Lines are missing.
host 1795529300 libvirt-9.0/13-save-restore | sed 58,86d >hv09/audit.log

host 1795600000 libvirt-9.0-vhost-plug/12-same-mac >'hv10 (Berlin)/audit.log'

# A host that is new.
from=1795597200
host 1795700000 libvirt-12.9/13-save-restore >hv11/audit.log
rm all
