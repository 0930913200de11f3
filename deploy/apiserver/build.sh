#!/bin/sh
# Builds Kubernetes' programs from the Go module proxy: build.sh VERSION DIRECTORY. Half an hour on two cores, once.
# The module cannot be installed as it is. It replaces the modules that it is published with by directories that are in
# its repository alone, so a module of ours replaces them by what is published.
set -eu
module=k8s.io/kubernetes
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && go mod download "$module@v$1")
source=$(cd "$work" && go list -m -f '{{.Dir}}' "$module@v$1")
cp "$source/go.sum" "$work"
sed -e 's,^module .*,module kubernetes,' -e "s,=> ./staging/src/\(.*\),=> \1 v0.${1#*.}," "$source/go.mod" >"$work/go.mod"
cd "$work"
go mod edit -require="$module@v$1"
minor=${1#*.}
version=k8s.io/component-base/version
CGO_ENABLED=0 go build -mod=mod -trimpath -o "$2/" \
    -ldflags="-s -w -X $version.gitVersion=v$1 -X $version.gitMajor=${1%%.*} -X $version.gitMinor=${minor%%.*}" \
    $module/cmd/kube-apiserver $module/cmd/kube-controller-manager $module/cmd/kubectl
