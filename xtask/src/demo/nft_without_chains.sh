#!/bin/sh
# An nft that sets no filter, and does everything else.
rules=$(cat)
case $rules in
*'"chain"'*)
	echo "Error: Operation not permitted" >&2
	exit 1
	;;
esac
printf %s "$rules" | exec /usr/sbin/nft "$@"
