# The .rpm, by the real rpm, in a root without its dependencies' packages; of scripts/test-packages.
# shellcheck shell=bash disable=SC2154,SC2034

suite=
fresh_root bookworm
# They belong to packages of systems with rpm: filesystem, zsh, fish.
mkdir -p "$root"/usr/share/{licenses,zsh/site-functions,fish/vendor_completions.d} "$root/var/lib/systemd/timers"
listing >"$work/before"
newer=$work/newer
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)} cargo generate-rpm -p crates/taptrail \
	--target x86_64-unknown-linux-gnu --auto-req builtin --set-metadata 'release = "2"' --output "$newer" >/dev/null
in_rpm() {
	rpm --root "$root" --dbpath /var/lib/rpm "$@"
}

echo "== rpm: what it says"
check_says "its licence" 'MIT OR Apache-2.0' rpm -qp --qf '%{LICENSE}\n' "$rpm"
check "digests" rpm --checksig --nosignature "$rpm"
check "both packages have the same files" diff \
	<(dpkg-deb -c "$deb" | awk '$1 ~ /^-/ { print substr($6, 2), substr($1, 2) }' |
		grep -vE '^/usr/share/(zsh|licenses)/|/copyright |/changelog\.Debian\.gz ' | sort) \
	<(rpm -qp --qf '[%{FILENAMES} %{FILEMODES:perms}\n]' "$rpm" | awk '$2 ~ /^-/ { print $1, substr($2, 2) }' |
		grep -vE '^/usr/share/(zsh|licenses)/' | sort)

echo "== rpm: install, upgrade, remove"
check "rpm installs it" in_rpm -i --nodeps "$rpm"
check "its files are as packaged" silent in_rpm -V --nodeps taptrail
check_says "the program runs" '^taptrail [0-9]' in_root taptrail --version
caps=cap_net_admin,cap_audit_write=ep
check "the helper gets rights, as asked" in_root setcap "$caps" "$helper"
check "rpm upgrades it" in_rpm -U --nodeps "$newer"
check_says "the helper keeps its rights" "$caps" in_root getcap "$helper"
check_says "the newer one is there alone" '^2$' in_rpm -q --qf '%{RELEASE}\n' taptrail
upgrade() {
	in_rpm -U --nodeps --replacepkgs "$newer"
}
keeps_rights
loses_rights_aloud
echo "0:36 4750 $caps" >"$root/var/lib/taptrail-bridge-helper.rights"
check "an upgrade takes no rights but the helper's own" upgrade
check "none" have_no_rights
echo "0:36 4750 $caps" >"$root/var/lib/taptrail-bridge-helper.rights"
touch "$root/var/lib/systemd/timers/stamp-taptrail-prune.timer"
check "rpm removes it" in_rpm -e --nodeps taptrail
check "nothing is left" nothing_left
