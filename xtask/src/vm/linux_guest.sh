#!/bin/sh
# A guest's whole system. It gives each NIC an address derived from its MAC, brings it up, and
# prints on the console:
#
#   ready                                           all of the system is there
#   nic eth1 52:54:00:00:01:02 10.0.1.2 queues=2    a NIC that was plugged is in use
#   gone eth1 52:54:00:00:01:02                     a NIC that was unplugged is gone
#
# A second serial port, if there is one, has a shell.
#
# A command that fails unforeseen ends the shell, and the kernel panics: the console has why.
set -eu
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "/modules/$module"
done </modules/order

# A NIC answers for its own address only, and to every datagram.
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
echo 0 >/proc/sys/net/ipv4/icmp_ratelimit

# 52:54:00:00:NN:HH has 10.0.NN.HH.
address() {
	last=${1##*:}
	net=${1%:*}
	net=${net##*:}
	echo "10.0.$((0x$net)).$((0x$last))"
}

# The queues that the driver uses: all that the NIC has, if there are as many processors.
queues() {
	set -- "/sys/class/net/$1/queues/rx-"*
	echo $#
}

# A NIC may be unplugged at any moment: what fails here is tried again if it is still there.
use() {
	name=$1 index=$2
	read -r mac <"/sys/class/net/$name/address" || return 0
	ip=$(address "$mac")
	ip address replace "$ip/24" dev "$name" || return 0
	ip link set "$name" up || return 0
	echo "$name $mac" >"/nics/$index"
	echo "nic $name $mac $ip queues=$(queues "$name")"
}

acpid -d >/dev/null 2>&1 &
{ sh </dev/ttyS1 >/dev/ttyS1 2>&1; } 2>/dev/null &
echo ready
# A link's index is never given again, its name is.
while :; do
	present=" "
	for nic in /sys/class/net/*; do
		[ -e "$nic/device" ] || continue
		read -r index <"$nic/ifindex" || continue
		present="$present$index "
		[ -e "/nics/$index" ] || use "${nic##*/}" "$index"
	done
	for known in /nics/*; do
		[ -e "$known" ] || continue
		case $present in
		*" ${known##*/} "*) ;;
		*)
			read -r name_and_mac <"$known"
			rm "$known"
			echo "gone $name_and_mac"
			;;
		esac
	done
	sleep 0.2
done
