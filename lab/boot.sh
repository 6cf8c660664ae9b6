#!/bin/bash
# Become a host of the lab: a machine that systemd boots, in a container of systemd-nspawn.
#
#   boot.sh <folder of the lab> <host> <layers of its root> <address> ...
#
# Run in the namespaces of the network. The host's disk, what differs from the layers, is
# <folder>/disks/<host>: it outlives a power cut of the host, and ends with the lab.
set -eu

folder=$1 host=$2 layers=$3
shift 3
disk=$folder/disks/$host
wheels=$(dirname "$0")/../var/hosts/wheels

if [ ! -d "$disk" ]; then
    mkdir -p "$disk/upper" "$disk/work" "$disk/root"
    mount -t overlay "hasite-$host" "$disk/root" \
        -o "lowerdir=$layers,upperdir=$disk/upper,workdir=$disk/work,index=off"
    echo "$host" >"$disk/root/etc/hostname"
    echo "127.0.1.1 $host" >>"$disk/root/etc/hosts"
    # without it, systemd would enable all units, as on a machine that boots for the first time
    tr -d - </proc/sys/kernel/random/uuid >"$disk/root/etc/machine-id"
    printf '[global]\nno-index = true\nfind-links = /srv/wheels /usr/share/python-wheels\n' >"$disk/root/etc/pip.conf"
    {
        printf '[Match]\nName=eth0\n\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n'
        printf 'Address=%s\n' "$@"
    } >"$disk/root/etc/systemd/network/eth0.network"
fi

# systemd-nspawn would put all the hosts in one control group
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    if [ -e "$hierarchy/cgroup.procs" ]; then
        mkdir -p "$hierarchy/${folder//\//-}/$host"
        echo $$ >"$hierarchy/${folder//\//-}/$host/cgroup.procs"
    fi
done

binds=()
for device in /dev/loop*; do
    [ ! -e "$device" ] || binds+=(--bind="$device")
done
# pip takes packages from there
[ ! -d "$wheels" ] || binds+=(--bind-ro="$wheels:/srv/wheels")
SYSTEMD_NSPAWN_TMPFS_TMP=0 exec systemd-nspawn -q --boot --directory="$disk/root" \
    --machine="$host" --hostname="$host" --register=no --keep-unit --link-journal=no --resolv-conf=off \
    --timezone=off --private-network --network-veth-extra="to-$host:eth0" "${binds[@]}"
