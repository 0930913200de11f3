#!/bin/sh
# Installs Debian's packages that are not there yet, as root; else says which ones are missing. Quiet.
set -eu

missing=
for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update
        # a policy of 101 forbids what is installed to start: the tests start their own, on free ports
        policy=/usr/sbin/policy-rc.d
        [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && trap 'rm -f $policy' EXIT; }
        # shellcheck disable=SC2086 (several words)
        apt-get -qq install --yes --no-install-recommends $missing >/dev/null
    else
        echo "not installed:$missing; the tests that need them are skipped (apt-get install$missing)" >&2
    fi
fi
