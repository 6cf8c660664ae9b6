#!/bin/bash
# Print the layers of the root of a host, uppermost first, separated by colons.
#
#   lab/layers.sh [COMMAND]
#
#   COMMAND    a command of the shell that installs packages, such as apt-get install squid
#
# A layer is what a command has changed, by overlayfs: it is made once, and kept in var/hosts. The
# lowest is the minimal Debian of tools/debian. Run by `unshare`, in namespaces of its own, so that
# nothing is left of one that is interrupted.
set -euo pipefail

cd "$(dirname "$0")/.."
. tools/machine.sh
layers=$PWD/var/hosts

fail() {
    echo "lab/layers.sh: $*" >&2
    exit 2
}

# What each Debian has that was installed from a disk; libfaketime is the lab's.
host='
echo "APT::Get::Assume-Yes true;" >/etc/apt/apt.conf.d/99yes
apt-get update
apt-get install --no-install-recommends systemd-sysv dbus iproute2 procps openssh-server libfaketime
systemctl enable systemd-networkd
rm -f /etc/machine-id /var/lib/dbus/machine-id
'

# Print the folder of a layer above others, which is made in memory: layer LOWER COMMAND
layer() {
    local key made memory=/mnt arguments mounts=() variables=() each
    key=$(printf '%s\n' "$@" | sha256sum | cut -c 1-16)
    made=$layers/$key
    echo "$made"
    [ ! -d "$made" ] || return 0
    echo "Installing on a host of the lab: $2" >&2
    mount -t tmpfs -o mode=755 hasite $memory
    mkdir $memory/upper $memory/work $memory/root
    mount -t overlay -o "lowerdir=$1,upperdir=$memory/upper,workdir=$memory/work" hasite $memory/root
    # Debian starts what it installs: at the next boot
    printf '#!/bin/sh\nexit 101\n' >$memory/root/usr/sbin/policy-rc.d
    chmod +x $memory/root/usr/sbin/policy-rc.d
    read_machine_settings
    arguments=(--bind-ro=/etc/resolv.conf --bind="$folder/archives:/var/cache/apt/archives")
    for each in "${mounts[@]}"; do arguments+=(--bind-ro="$each"); done
    for each in "${variables[@]}"; do arguments+=(--setenv="$each"); done
    SYSTEMD_NSPAWN_TMPFS_TMP=0 systemd-nspawn -q --directory=$memory/root --machine="layer-$key" \
        --register=no --keep-unit --as-pid2 --pipe --setenv=DEBIAN_FRONTEND=noninteractive \
        --setenv=LANG=C.UTF-8 "${arguments[@]}" sh -ec "$2" </dev/null >"$made.log" 2>&1 ||
        fail "failed: $2: see $made.log"
    rm $memory/root/usr/sbin/policy-rc.d
    umount $memory/root
    rm -rf "$made.new"
    cp -a $memory/upper "$made.new"
    umount $memory
    mv "$made.new" "$made"
}

mount -t proc proc /proc
mkdir -p "$layers"
exec 9>"$layers/lock"
flock 9
make_debian >&2
found=$root
for command in "$host" "$@"; do
    found=$(layer "$found" "$command"):$found
done
echo "$found"
