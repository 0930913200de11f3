#!/bin/sh
# Makes the file system that check.py boots: base.sh DIRECTORY REQUIREMENTS. A Debian with Redis, and all that raytrail
# needs as wheels in /mnt/wheels, so that the machine needs no network.
set -eu
rm -rf "$1"
certificates=/etc/ssl/certs/ca-certificates.crt
# of this machine, which may know more than Debian does
mmdebstrap --quiet --mode=root --variant=minbase \
    --include=systemd,systemd-sysv,dbus,python3,python3-venv,libstdc++6,ca-certificates,procps,redis-server \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --customize-hook="upload $2 /tmp/requirements.txt" \
    --customize-hook="[ ! -e $certificates ] || cp $certificates \"\$1\"$certificates" \
    --customize-hook='chroot "$1" python3 -m venv /tmp/pip' \
    --customize-hook='chroot "$1" /tmp/pip/bin/pip download --quiet --dest /mnt/wheels --requirement /tmp/requirements.txt' \
    --customize-hook='rm -r "$1/tmp/pip" "$1/tmp/requirements.txt"' \
    bookworm "$1"
