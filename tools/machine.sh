# What tools/debian and tools/container share, to be sourced by bash, in the folder of the checkout,
# as root on Debian: a minimal Debian 12, and what programs there are to know of this machine's
# network. The one that sources it has a function `fail`, which ends it.
# shellcheck shell=bash

# kept between runs
folder=$PWD/var/debian
# Debian's minimal packages, make and git
root=$folder/bookworm

# Install packages of this machine: install_packages PROGRAM=PACKAGE ..., if the program is missing.
install_packages() {
    local each packages=()
    for each; do
        command -v "${each%%=*}" >/dev/null || packages+=("${each#*=}")
    done
    [ ${#packages[@]} = 0 ] || {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
            "${packages[@]}" >/dev/null
    }
}

# Install a minimal Debian in a new folder, with some packages: make_root FOLDER [PACKAGE,...]
make_root() {
    local mirror
    echo "Installing a minimal Debian in $1"
    mkdir -p "$folder/archives"
    mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' | awk '$2 == "bookworm" { print $1; exit }')
    debootstrap --variant=minbase ${2:+--include="$2"} --cache-dir="$folder/archives" bookworm \
        "$1" ${mirror:+"$mirror"} >"$folder/debootstrap.log" ||
        fail "debootstrap failed: see $folder/debootstrap.log"
}

# Make the Debian that tools/debian and the lab start from, unless it is there: in $root.
make_debian() {
    [ ! -d "$root" ] || return 0
    rm -rf "$root.new"
    make_root "$root.new" make,git
    copy_apt_settings "$root.new/etc/apt"
    echo '127.0.0.1 localhost' >"$root.new/etc/hosts" # as the installer of Debian does
    chroot "$root.new" useradd --create-home --home-dir /home/hasite --shell /bin/bash hasite
    mv "$root.new" "$root"
}

# Copy what apt-get of this machine is told of mirrors and proxies to the /etc/apt of another.
copy_apt_settings() {
    local sources=/etc/apt/sources.list.d/debian.sources
    rm -f "$1/sources.list"
    if [ -e $sources ]; then
        cp $sources "$1/sources.list.d/"
    else
        cp /etc/apt/sources.list "$1/"
    fi
    apt-config dump | grep -E '^Acquire::.*Proxy' >"$1/apt.conf.d/99machine" || true
}

# Give pip and others the settings of this machine: append to the arrays `mounts`, of
# SOURCE:TARGET, and `variables`, of NAME=VALUE.
read_machine_settings() {
    local name value
    for value in /etc/pip.conf /etc/xdg/pip; do
        [ ! -e $value ] || mounts+=("$value:$value")
    done
    for name in $(compgen -e); do
        value=${!name}
        case $name in
        PIP_CERT | SSL_CERT_FILE | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE)
            # under another name: ca-certificates writes its own bundle where the machine's is
            [ -f "$value" ] || continue
            mounts+=("$value:/run/machine/$name.crt")
            value=/run/machine/$name.crt
            ;;
        PIP_* | *_proxy | *_PROXY) ;;
        *) continue ;;
        esac
        variables+=("$name=$value")
    done
}
