#!/bin/sh
# Become a host of the lab: a copy of this machine's files of its own, then its first process.
#
#   boot.sh <folder of the lab> <host>
#
# Run by `unshare`, in namespaces of its own. The host's disk, what differs from this machine, is
# <folder>/disks/<host>: it outlives a power cut of the host, and ends with the lab.
set -eu

folder=$1 host=$2
checkout=$(cd "$(dirname "$0")/.." && pwd)
disk=$folder/disks/$host
root=$disk/root

hostname "$host"
first=true
[ ! -d "$disk" ] || first=false
mkdir -p "$disk/upper" "$disk/work" "$root"
mount -t overlay "hasite-$host" "$root" \
    -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work,index=off"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
# devices: no others than a container has, and a log of the host's own
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/loop*; do
    [ -e "$device" ] || continue
    touch "$root$device"
    mount --bind "$device" "$root$device"
done
mkdir -m 1777 "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"

# the checkout, where it is not on this machine's root or is hidden by a mount above
for path in "$checkout" "$(readlink -f "$checkout/.venv/bin/python" | sed 's,/bin/[^/]*$,,')"; do
    if [ ! "$path" -ef "$root$path" ] && [ ! -e "$root$path/bin/python3" ] &&
        [ ! -e "$root$path/lab/init.py" ]; then
        mkdir -p "$root$path"
        mount --bind "$path" "$root$path"
    fi
    # the users of the host's programs may go there
    while [ "$path" != / ]; do
        chmod o+x "$root$path"
        path=$(dirname "$path")
    done
done

if $first; then
    rm -rf "$root/etc/systemd/system/multi-user.target.wants" "$root/var/log/journal"
    for name in systemctl journalctl; do
        cp --remove-destination "$checkout/lab/systemctl" "$root/usr/bin/$name"
    done
fi

cd "$root"
mkdir -p .machine
pivot_root . .machine
umount -l /.machine
cd /
# the folders of /run that packages expect
systemd-tmpfiles --create --remove --boot --prefix=/run --prefix=/var 2>/dev/null || true
exec /usr/bin/python3 -E -s "$checkout/lab/init.py" "$folder" "$host"
