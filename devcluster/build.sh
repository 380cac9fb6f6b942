#!/bin/sh
# Builds devcluster when its sources have no binary yet, and prints the binary's path.
#
# Cold it takes a quarter of an hour on two cores. The binary and Go's build cache lie outside the clone, so that a
# second clone, and a checkout of an earlier commit, find theirs; binaries of other sources that nobody used for two
# weeks go.
set -eu
cd "$(dirname "$0")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet
mkdir -p "$cache"

version=$(cat KUBERNETES_VERSION)
hash=$(cat build.sh KUBERNETES_VERSION go.mod go.sum ./*.go | sha256sum | cut -c1-16)
binary=$cache/devcluster-$hash

# One builder at a time: the second finds the first one's binary.
exec 9>"$cache/devcluster.lock"
flock 9

if [ ! -x "$binary" ]; then
    command -v go >/dev/null || {
        echo "devcluster: Go is missing ($(sed -n 's/^go //p' go.mod) or newer)" >&2
        exit 1
    }
    grep -q "k8s.io/kubernetes $version\$" go.mod || {
        echo "devcluster: go.mod is not for the version in KUBERNETES_VERSION; run devcluster/update.sh" >&2
        exit 1
    }
    echo "building devcluster for Kubernetes $version (a quarter of an hour the first time; kept in $cache)" >&2
    export GOCACHE="${GOCACHE:-$cache/go-build}" CGO_ENABLED=0
    # Clients cannot parse the version that a module's build carries by itself.
    symbols="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/client-go/pkg/version.gitVersion=$version"
    nice -n 19 go build -trimpath -mod=readonly -tags grpcnotrace -ldflags "-s -w $symbols" -o "$binary.new" . >&2
    mv "$binary.new" "$binary"
    find "$cache" -maxdepth 1 -name 'devcluster-*' -mtime +14 ! -name "devcluster-$hash" -exec rm -f {} +
fi
touch "$binary" # it is in use
echo "$binary"
