package main

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	etcd                  = "etcd"
	kubeAPIServer         = "kube-apiserver"
	kubeControllerManager = "kube-controller-manager"
	kubeScheduler         = "kube-scheduler"
)

// serviceAccountIssuer is kubeadm's; tokens carry it, nobody has to reach it.
const serviceAccountIssuer = "https://kubernetes.default.svc.cluster.local"

// A plan is one cluster as it will run: what the command line says, and the ports that were found free.
type plan struct {
	// directory holds everything that the cluster writes; absolute.
	directory string
	// address is where the API server listens. Only one that other machines could reach can stand in the Endpoints of
	// the Service `kubernetes`: on loopback that Service has none, because validation refuses such an address there.
	address netip.Addr
	// emulatedVersion is an older minor version that the components behave as, such as "1.34"; empty: their own.
	emulatedVersion string
	clusterCIDR     netip.Prefix
	serviceCIDR     netip.Prefix
	// extra are arguments for a component after ours, which win where they set the same flag.
	extra map[string][]string
	ports ports
}

func (p plan) path(elements ...string) string {
	return filepath.Join(append([]string{p.directory}, elements...)...)
}

func (p plan) certificate(name string) string  { return p.path("pki", name+".crt") }
func (p plan) key(name string) string          { return p.path("pki", name+".key") }
func (p plan) serviceAccountPublicKey() string { return p.path("pki", "service-account.pub") }
func (p plan) kubeconfig(name string) string   { return p.path(name + ".kubeconfig") }
func (p plan) log(component string) string     { return p.path("logs", component+".log") }
func (p plan) etcdData() string                { return p.path("etcd") }
func (p plan) record() string                  { return p.path("cluster.json") }

// server is the API server's URL.
func (p plan) server() string {
	return "https://" + netip.AddrPortFrom(p.address, uint16(p.ports.APIServer)).String()
}

// serviceIP is the cluster IP of the Service `kubernetes`: the first of the range.
func (p plan) serviceIP() netip.Addr {
	return p.serviceCIDR.Masked().Addr().Next()
}

// arguments are those of one component, without the program's name.
func (p plan) arguments(component string) []string {
	var arguments []string
	switch component {
	case etcd:
		arguments = p.etcdArguments()
	case kubeAPIServer:
		arguments = p.apiServerArguments()
	case kubeControllerManager:
		arguments = p.controllerManagerArguments()
	case kubeScheduler:
		arguments = p.schedulerArguments()
	}
	if p.emulatedVersion != "" && component != etcd {
		arguments = append(arguments, "--emulated-version="+p.emulatedVersion)
	}
	return append(arguments, p.extra[component]...)
}

func (p plan) etcdArguments() []string {
	client, peer := loopbackURL(p.ports.EtcdClient), loopbackURL(p.ports.EtcdPeer)
	return []string{
		"--name=devcluster",
		"--data-dir=" + p.etcdData(),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=devcluster=" + peer,
		"--client-cert-auth",
		"--trusted-ca-file=" + p.certificate("etcd-ca"),
		"--cert-file=" + p.certificate("etcd"),
		"--key-file=" + p.key("etcd"),
		"--peer-client-cert-auth",
		"--peer-trusted-ca-file=" + p.certificate("etcd-ca"),
		"--peer-cert-file=" + p.certificate("etcd"),
		"--peer-key-file=" + p.key("etcd"),
		// What a crash of the machine would lose, a test does not need.
		"--unsafe-no-fsync",
		"--log-level=warn",
	}
}

func (p plan) apiServerArguments() []string {
	arguments := []string{
		"--etcd-servers=" + loopbackURL(p.ports.EtcdClient),
		"--etcd-cafile=" + p.certificate("etcd-ca"),
		"--etcd-certfile=" + p.certificate("etcd-client"),
		"--etcd-keyfile=" + p.key("etcd-client"),
		"--bind-address=" + p.address.String(),
		"--advertise-address=" + p.address.String(),
		"--secure-port=" + strconv.Itoa(p.ports.APIServer),
		"--tls-cert-file=" + p.certificate("apiserver"),
		"--tls-private-key-file=" + p.key("apiserver"),
		"--client-ca-file=" + p.certificate("ca"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth",
		"--service-account-issuer=" + serviceAccountIssuer,
		"--service-account-key-file=" + p.serviceAccountPublicKey(),
		"--service-account-signing-key-file=" + p.key("service-account"),
		"--service-cluster-ip-range=" + p.serviceCIDR.String(),
		"--kubelet-client-certificate=" + p.certificate("apiserver-kubelet-client"),
		"--kubelet-client-key=" + p.key("apiserver-kubelet-client"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--profiling=false",
	}
	if p.address.IsLoopback() {
		arguments = append(arguments, "--endpoint-reconciler-type=none")
	}
	return arguments
}

func (p plan) controllerManagerArguments() []string {
	return []string{
		"--kubeconfig=" + p.kubeconfig(kubeControllerManager),
		"--allocate-node-cidrs",
		"--cluster-cidr=" + p.clusterCIDR.String(),
		"--service-cluster-ip-range=" + p.serviceCIDR.String(),
		"--controllers=*,bootstrapsigner,tokencleaner",
		"--cluster-signing-cert-file=" + p.certificate("ca"),
		"--cluster-signing-key-file=" + p.key("ca"),
		"--root-ca-file=" + p.certificate("ca"),
		"--service-account-private-key-file=" + p.key("service-account"),
		"--use-service-account-credentials",
		"--leader-elect=false",
		// At the default of 20 requests a second, making the controllers' own service accounts takes five seconds.
		"--kube-api-qps=1000",
		"--kube-api-burst=1000",
		"--secure-port=0",
		"--profiling=false",
	}
}

func (p plan) schedulerArguments() []string {
	return []string{
		"--kubeconfig=" + p.kubeconfig(kubeScheduler),
		"--leader-elect=false",
		"--secure-port=0",
		"--profiling=false",
	}
}

// addExtra takes one value of the flag --extra, such as "kube-controller-manager=--node-monitor-grace-period=8s".
func (p *plan) addExtra(value string) error {
	component, argument, ok := strings.Cut(value, "=")
	switch component {
	case etcd, kubeAPIServer, kubeControllerManager, kubeScheduler:
	default:
		return fmt.Errorf("%q starts with no component's name", value)
	}
	if !ok || argument == "" {
		return fmt.Errorf("%q has no argument after the component's name and =", value)
	}
	p.extra[component] = append(p.extra[component], argument)
	return nil
}

func loopbackURL(port int) string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
