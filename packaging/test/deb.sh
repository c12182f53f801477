# The .deb in a root where no systemd runs; of scripts/test-packages.
# shellcheck shell=bash disable=SC2154,SC2013,SC2016

fresh_root "$suite"
mkdir -p "$root/var/lib/systemd/timers"
listing >"$work/before"
cp "$deb" "$root/tmp/taptrail.deb"
cp "$work"/taptrail-*.deb "$root/tmp"
version=$(dpkg-deb -f "$deb" Version)

echo "== $suite: install"
check "apt installs it" in_root apt-get install -y --no-install-recommends /tmp/taptrail.deb
check "its files are as packaged" silent in_root dpkg --verify taptrail
echo changed >>"$root/usr/share/taptrail/audit/taptrail.rules"
check_says "a file that was changed is noticed" '/usr/share/taptrail/audit/taptrail.rules' in_root dpkg --verify taptrail
sed -i '$d' "$root/usr/share/taptrail/audit/taptrail.rules"
check_says "the program runs" "^taptrail ${version%-*}$" in_root taptrail --version
example=/usr/share/doc/taptrail/examples/audit.log
check_says "the example's trail" '52:54:00' in_root taptrail trail --utc "$example"
check "nobody but root may write" silent find "$root/usr/bin/taptrail" "$root"/usr/libexec/taptrail* "$root/usr/lib/taptrail" \
	"$root/usr/share/taptrail" "$root/etc/taptrail" \( -perm /022 -o ! -uid 0 -o ! -gid 0 \) -print
check "the bridge helper gets no rights by itself" silent in_root getcap /usr/libexec/taptrail-bridge-helper
check "and is not setuid" test ! -u "$root/usr/libexec/taptrail-bridge-helper"
for unit in taptrail-watch.service taptrail-recover.service taptrail-archive.timer taptrail-lake.timer taptrail-prune.timer taptrail@web1.service; do
	check "$unit is not enabled" refused in_root systemctl --quiet is-enabled "$unit"
done
check "auditd is left alone" refused test -e "$root/etc/audit"
mapfile -t units < <(cd "$root/usr/lib/systemd/system" && ls taptrail*)
check "there are units" test "${#units[@]}" -ge 7
check "systemd finds no fault in the units" silent in_root systemd-analyze verify --man=no "${units[@]/@./@web1.}"
for named in $(sed -n 's/^Exec[A-Za-z]*=-\{0,1\}\([^ ]*\).*/\1/p' "$root"/usr/lib/systemd/system/taptrail*); do
	check "$named, of a unit, is there" test -x "$root$named"
done

for page in $(in_root dpkg -L taptrail | grep '^/usr/share/man/.*\.gz$'); do
	check "$page has a name" in_root man --warnings -l "$page"
	check_says "$page has a name" '^NAME' in_root man -l "$page"
done
check_says "man finds the page" '/usr/share/man/man1/taptrail\.1\.gz' in_root man -w taptrail
check_says "bash completes its commands" '^verify$' in_root bash -c '
	. /usr/share/bash-completion/bash_completion
	_completion_loader taptrail || __load_completion taptrail
	COMP_WORDS=(taptrail ver) COMP_CWORD=1 COMP_LINE="taptrail ver" COMP_POINT=12 COMP_TYPE=9
	$(complete -p taptrail | sed "s/.*-F \([^ ]*\).*/\1/") taptrail ver taptrail
	printf "%s\n" "${COMPREPLY[@]}" | sed "s/ *$//"'
check "zsh's completion is there" grep -q '#compdef' "$root/usr/share/zsh/vendor-completions/_taptrail"
check "fish's completion is there" grep -q taptrail "$root/usr/share/fish/vendor_completions.d/taptrail.fish"

echo "== $suite: upgrade"
caps=cap_net_admin,cap_audit_write=ep
check "the helper gets rights, as asked" in_root setcap "$caps" "$helper"
check "dpkg upgrades it" in_root dpkg -i /tmp/taptrail-999.0-1.deb
check_says "the helper keeps its rights" "$caps" in_root getcap "$helper"
check_says "the newer version is there" '^999.0-1$' in_root dpkg-query -W -f '${Version}\n' taptrail
check "and the older again" in_root dpkg -i --force-downgrade /tmp/taptrail.deb
check_says "with the helper's rights" "$caps" in_root getcap "$helper"
check "its files are as packaged" silent in_root dpkg --verify taptrail
in_root timeout 120 taptrail watch "--state-dir=/tmp/${work##*/}" --log /etc/hostname >/dev/null 2>&1 &
watcher() {
	in_root pgrep -f "^taptrail watch --state-dir=/tmp/${work##*/} "
}
check "something runs" eventually watcher
check_says "a process is named, without systemd, too" "process $(watcher) goes on as the older version: taptrail watch" \
	in_root dpkg -i /tmp/taptrail-999.0-1.deb
check "it ends" kill "$(watcher)"
wait $! || true

echo "== $suite: rights of the helper"
upgrade() {
	in_root dpkg -i /tmp/taptrail.deb
}
keeps_rights
loses_rights_aloud
check "it gets rights" in_root sh -ec "chgrp 36 $helper; chmod 0750 $helper; setcap $caps $helper"
before=$(rights)
check "unpacked, it has none" in_root dpkg --unpack /tmp/taptrail.deb
check "none" have_no_rights
check "unpacked again, and configured" in_root sh -ec 'dpkg --unpack /tmp/taptrail.deb; dpkg --configure taptrail'
check "it keeps the first" test "$(rights)" = "$before"
check "an override" in_root dpkg-statoverride --add root nogroup 0710 "$helper"
check "is upgraded" upgrade
check "the override holds, with the capabilities" test "$(rights)" = "0:65534 710
$helper $caps"
check "no override" in_root dpkg-statoverride --remove "$helper"
check "the program of a diversion" in_root dpkg-divert --quiet --local --rename --divert "$helper.distrib" --add "$helper"
check "is upgraded" upgrade
helper=$helper.distrib
check "it keeps its rights" test "$(rights)" = "0:65534 710
$helper $caps"
helper=${helper%.distrib}
check "and the local one's name is free" refused test -e "$root$helper"
check "no diversion" in_root dpkg-divert --quiet --local --rename --remove "$helper"
echo "0:36 4750 $caps" >"$root/var/lib/taptrail-bridge-helper.rights"
check "the package is removed" in_root dpkg --remove taptrail
check "they are gone" refused test -e "$root/var/lib/taptrail-bridge-helper.rights"
echo "0:36 4750 $caps" >"$root/var/lib/taptrail-bridge-helper.rights"
check "and installed" upgrade
check "with no rights" have_no_rights

echo "== $suite: remove and purge"
check "the package's files go" in_root apt-get purge -y taptrail
check "nothing is left" nothing_left
check "it is installed again" in_root dpkg -i /tmp/taptrail.deb
echo 'command = ["true"]' >"$root/etc/taptrail/guests/mine.toml"
mkdir -p "$root/var/lib/taptrail"
cp target/packages/files/doc/changelog.gz "$root/var/lib/taptrail/ledger.sqlite"
touch "$root"/var/lib/systemd/timers/stamp-taptrail-{archive,lake,prune}.timer
check "it is removed" in_root dpkg --remove taptrail
check "the ledger and the guests' files stay" test -e "$root/var/lib/taptrail/ledger.sqlite" -a -e "$root/etc/taptrail/guests/mine.toml"
check_says "a purge keeps the ledger, and says so" 'ledger is kept in /var/lib/taptrail' in_root dpkg --purge taptrail
check "it is there" test -e "$root/var/lib/taptrail/ledger.sqlite"
rm -r "$root/var/lib/taptrail" "$root/etc/taptrail"
check "nothing else is left" nothing_left
