#!/bin/sh
# Writes go.mod and go.sum for the Kubernetes version in the file KUBERNETES_VERSION: change that line, run this.
#
# k8s.io/kubernetes names its staging modules (k8s.io/api and so on) as v0.0.0 and replaces them by its own folders,
# which only works inside its repository; outside, each is replaced by its published version: v1.36.3 is v0.36.3 there.
set -eu
cd "$(dirname "$0")"
version=$(cat KUBERNETES_VERSION)
staging=v0.${version#v1.}

directory=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
language=$(sed -n 's/^go //p' "$directory/go.mod")
etcd=$(sed -n 's|.*go.etcd.io/etcd/server/v3 \(v[^ ]*\).*|\1|p' "$directory/go.mod")

{
    echo "// Written by update.sh from KUBERNETES_VERSION."
    echo
    echo "module wasmlet/devcluster"
    echo
    echo "go $language"
    echo
    echo "require k8s.io/kubernetes $version"
    echo "require go.etcd.io/etcd/server/v3 $etcd"
    echo
    echo "replace ("
    sed -n 's|^.*\(k8s.io/[a-z-]*\) => ./staging/.*|\1|p' "$directory/go.mod" | while read -r module; do
        echo "	$module => $module $staging"
    done
    echo ")"
} >go.mod
go mod tidy
