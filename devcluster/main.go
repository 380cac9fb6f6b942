// Devcluster is a real Kubernetes control plane in one program, for tests.
//
// `devcluster up` makes a cluster's keys, starts etcd, kube-apiserver, kube-controller-manager and kube-scheduler as
// children that are this same program, and ends them all when it ends. The other commands are those components, the
// kubelet and kubectl, each as it is built from its own Go module; a link with a component's name is that component.
//
//	main.go        which command this process is
//	components.go  the components' entry points
//	up.go          `devcluster up`: from flags to a ready cluster, and to its end
//	plan.go        a cluster's settings, paths and addresses, and each component's arguments
//	pki.go         certificates and keys
//	kubeconfig.go  credentials files
//	ports.go       free ports
//	processes.go   the children
//	record.go      what is told about a running cluster
//	token.go       the bootstrap token
//	rbac.go        the objects that a cluster made by kubeadm has for nodes that join
//	ready.go       what "ready" means
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

const usage = `devcluster is a Kubernetes control plane in one program, for tests.

  devcluster up --directory DIR   run a cluster until SIGTERM or SIGINT (--help: the flags)
  devcluster kubectl ...          kubectl; likewise kube-apiserver, kube-controller-manager, kube-scheduler, etcd, kubelet
`

func main() {
	// A link named `kubectl` is kubectl.
	if run, ok := components[filepath.Base(os.Args[0])]; ok {
		os.Exit(run())
	}
	if len(os.Args) > 1 {
		name := os.Args[1]
		if run, ok := components[name]; ok {
			os.Args = os.Args[1:]
			os.Exit(run())
		}
		if name == "up" {
			os.Exit(up(os.Args[2:]))
		}
	}
	fmt.Fprint(os.Stderr, usage)
	os.Exit(2)
}
