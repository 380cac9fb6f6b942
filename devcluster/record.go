package main

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"
	"time"

	"k8s.io/component-base/version"
)

// A record tells how to use a running cluster. It is the line on standard output, and DIR/cluster.json for the next run.
type record struct {
	Server                   string         `json:"server"`
	CAFile                   string         `json:"ca_file"`
	CAHash                   string         `json:"ca_hash"`
	CAKeyFile                string         `json:"ca_key_file"`
	AdminKubeconfig          string         `json:"admin_kubeconfig"`
	BootstrapKubeconfig      string         `json:"bootstrap_kubeconfig"`
	BootstrapToken           string         `json:"bootstrap_token"`
	KubeletClientCertificate string         `json:"kubelet_client_certificate"`
	KubeletClientKey         string         `json:"kubelet_client_key"`
	KubernetesVersion        string         `json:"kubernetes_version"`
	EmulatedVersion          string         `json:"emulated_version,omitempty"`
	ClusterCIDR              string         `json:"cluster_cidr"`
	ServiceCIDR              string         `json:"service_cidr"`
	Ports                    ports          `json:"ports"`
	Processes                map[string]int `json:"processes"`
	ReadySeconds             float64        `json:"ready_seconds"`
}

// announce writes the record, and says on standard output that the cluster is ready.
func announce(p plan, f *family, token string, after time.Duration) error {
	hash, err := caHash(p)
	if err != nil {
		return err
	}
	line, err := json.Marshal(record{
		Server:                   p.server(),
		CAFile:                   p.certificate("ca"),
		CAHash:                   hash,
		CAKeyFile:                p.key("ca"),
		AdminKubeconfig:          p.kubeconfig("admin"),
		BootstrapKubeconfig:      p.kubeconfig("bootstrap"),
		BootstrapToken:           token,
		KubeletClientCertificate: p.certificate("apiserver-kubelet-client"),
		KubeletClientKey:         p.key("apiserver-kubelet-client"),
		KubernetesVersion:        version.Get().GitVersion,
		EmulatedVersion:          p.emulatedVersion,
		ClusterCIDR:              p.clusterCIDR.String(),
		ServiceCIDR:              p.serviceCIDR.String(),
		Ports:                    p.ports,
		Processes:                f.processes(),
		ReadySeconds:             after.Seconds(),
	})
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if err := os.WriteFile(p.record()+".new", line, 0o600); err != nil {
		return err
	}
	if err := os.Rename(p.record()+".new", p.record()); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "ready after %.1f s: export KUBECONFIG=%s\n", after.Seconds(), p.kubeconfig("admin"))
	_, err = os.Stdout.Write(line)
	return err
}

// previous reads the record of a cluster that ran in the directory before; without one, a new cluster is made.
func previous(p plan) (token string, found ports, ok bool) {
	text, err := os.ReadFile(p.record())
	if err != nil {
		return "", ports{}, false
	}
	var last record
	if err := json.Unmarshal(text, &last); err != nil {
		return "", ports{}, false
	}
	return last.BootstrapToken, last.Ports, true
}

// lock makes this process the only one on the directory.
func lock(p plan) (unlock func(), err error) {
	file, err := os.OpenFile(p.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("a cluster runs in %s already", p.directory)
	}
	return func() { file.Close() }, nil
}
