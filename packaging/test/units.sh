# The .deb on a host with systemd and guests that run; of scripts/test-packages.
# shellcheck shell=bash disable=SC2154

fresh_root "$suite"
mkdir -p "$root/var/log/audit" "$root/etc/taptrail/guests" "$root/debs"
cp "$work"/taptrail-*.deb "$root/debs"
: >"$root/var/log/audit/audit.log"
# No console, no network of its own, no timers.
for unit in console-getty getty@tty1 systemd-logind systemd-networkd systemd-timesyncd systemd-udevd e2scrub_reap; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
ln -sf /dev/null "$root/etc/systemd/system/timers.target"
cat >"$root/etc/taptrail/guests/web1.toml" <<'END'
nics = ["bridge=br0,mac=52:54:00:00:00:01,vhost=off"]
user = "nobody"
stop-timeout = "1s"
command = ["qemu-system-x86_64", "-machine", "q35", "-m", "64", "-nodefaults", "-display", "none"]
END

property() {
	on_host systemctl show --property="$2" --value "$1"
}
qemu_of() {
	property taptrail@web1 StatusText | sed -n 's/^web1 runs, QEMU has pid \([0-9]*\):.*/\1/p'
}
lives() {
	on_host kill -0 "$1"
}
# The program of the unit's main process is the installed one.
is_current() {
	[ "$(on_host stat -L -c %d:%i "/proc/$(property "$1" MainPID)/exe")" = "$(on_host stat -c %d:%i /usr/bin/taptrail)" ]
}

echo "== $suite: start"
boot
check "the older version is installed" on_host dpkg -i /debs/taptrail-0.0.1-1.deb
check "nothing was started" silent on_host systemctl list-units --plain --no-legend 'taptrail*'
check "units start" on_host systemctl enable --now taptrail-recover taptrail-watch taptrail@web1
check "a guest without a unit" on_host taptrail run --background --name web2 --nic bridge=br0,mac=52:54:00:00:00:02,vhost=off -- \
	qemu-system-x86_64 -machine q35 -m 64 -nodefaults -display none
qemu=$(qemu_of)
supervisor=$(property taptrail@web1 MainPID)
watcher=$(property taptrail-watch MainPID)
check "web1 runs" lives "${qemu:-of web1}"

echo "== $suite: a user's QEMU, by the bridge helper"
mkdir -p "$root/etc/qemu"
echo 'allow br0' >"$root/etc/qemu/bridge.conf"
check "the helper gets its rights" on_host setcap cap_net_admin,cap_audit_write+ep /usr/libexec/taptrail-bridge-helper
check "it gets a tap, and the watcher answers" silent on_host setpriv --reuid=65534 --regid=65534 --clear-groups \
	qemu-system-x86_64 -name guest=mine -machine q35 -m 64 -nodefaults -display none -daemonize -pidfile /tmp/mine.pid \
	-netdev bridge,id=n0,br=br0,helper=/usr/libexec/taptrail-bridge-helper -device virtio-net-pci,netdev=n0
mine=$(on_host cat /tmp/mine.pid)
check_says "its tap has an account" '"state": *"held"' on_host taptrail who mine --format json

echo "== $suite: upgrade with a guest that none could adopt"
goes_on() {
	check_says "a supervisor that can't come back, $1, is left" \
		'taptrail@web1.service goes on as the older version, for no other could adopt' on_host dpkg -i /debs/taptrail-0.0.1-1.deb
	check "it goes on" test "$(property taptrail@web1 MainPID)" = "$supervisor" -a "$(qemu_of)" = "$qemu"
}
file=$root/etc/taptrail/guests/web1.toml
mv "$file" "$file.away"
goes_on "whose guest has no file"
sed 's/^user/usr/' "$file.away" >"$file"
goes_on "whose guest's file has a misspelt key"
mv "$file.away" "$file"
watcher=$(property taptrail-watch MainPID)

echo "== $suite: upgrade with guests that run"
check_says "a guest without a unit is named" 'process [0-9]+ goes on as the older version: .*web2' on_host dpkg -i /debs/taptrail-999.0-1.deb
check "QEMU lives on" lives "$qemu"
check "another supervisor adopted it" test "$(property taptrail@web1 MainPID)" != "$supervisor" -a "$(qemu_of)" = "$qemu"
check "it is of the new version" is_current taptrail@web1
check "the watcher is another" test "$(property taptrail-watch MainPID)" != "$watcher"
check "and of the new version" is_current taptrail-watch
check_says "the device is still on record as held" '"state": *"held"' on_host taptrail nics web1 --json
check_says "both guests run" 'web2' on_host taptrail list
check "trail and processes agree" on_host taptrail verify
check "the adopted guest obeys: a NIC is plugged" on_host taptrail attach web1 --nic bridge=br0,mac=52:54:00:00:00:03,vhost=off
check "the other, too" on_host taptrail stop web2 --force

tap_is_released() {
	on_host taptrail who mine --format json | grep -qE '"ended_by": *"close"'
}
check "the helper's tap is still accounted for" refused tap_is_released
check "the user's QEMU ends" on_host kill "$mine"
check "the new watcher records the close" eventually tap_is_released

echo "== $suite: remove with a guest that runs"
check_says "it is named" 'taptrail@web1.service runs on' on_host dpkg --remove taptrail
check "QEMU lives on" lives "$qemu"
check "the watcher has ended" refused on_host systemctl --quiet is-active taptrail-watch
check "the guest is stopped in order" on_host systemctl stop taptrail@web1
check "QEMU has ended" refused lives "$qemu"
check "the programs are gone" test ! -e "$root/usr/bin/taptrail"
check "installed again" on_host dpkg -i /debs/taptrail-999.0-1.deb
check_says "the trail goes on: web1 held, and released" '52:54:00:00:00:03.*definitive' on_host taptrail trail --utc
check "the ledger's chain is whole" on_host taptrail ledger check
check "what was enabled still is" on_host systemctl --quiet is-enabled taptrail-watch taptrail@web1
check "purge" on_host dpkg --purge taptrail
check "no link is left" silent find "$root/etc/systemd/system" -lname '*taptrail*' -print
check "the ledger is kept" test -s "$root/var/lib/taptrail/ledger.sqlite"
power_off
