#!/bin/bash
# Become the network of the lab: a bridge between the hosts, and the disks of these.
#
#   switch.sh <folder of the lab>
#
# Run by `unshare`, in namespaces of its own. When it ends, all the hosts end.
set -eu

folder=$1
mkdir -p "$folder/disks"
mount -t tmpfs -o mode=755 disks "$folder/disks"
mount -t tmpfs -o mode=755 run /run # for what systemd-nspawn keeps there
mount -t proc proc /proc
# what the visitors' browsers, which run here, know of the site
touch "$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts
ip link set lo up
ip link add lab type bridge forward_delay 0 mcast_snooping 0
ip link set lab up
touch "$folder/ready"
while true; do # bash reaps the dead
    sleep 1000
done
