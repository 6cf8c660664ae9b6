#!/bin/sh
# Become the network of the lab: a bridge between the hosts, and the disks of these.
#
#   switch.sh <folder of the lab>
#
# Run by `unshare`, in namespaces of its own. When it ends, all the hosts end.
set -eu

folder=$1
mkdir "$folder/disks"
mount -t tmpfs -o mode=755 disks "$folder/disks"
mount -t proc proc /proc
ip link set lo up
ip link add lab type bridge forward_delay 0 mcast_snooping 0
ip link set lab up
exec /usr/bin/python3 -E -s "$(dirname "$0")/init.py" "$folder" switch
