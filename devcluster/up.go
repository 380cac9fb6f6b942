package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
)

// portAttempts is how often a new cluster tries other ports.
const portAttempts = 5

// up is `devcluster up`. It returns the exit status.
func up(arguments []string) int {
	p, untilStdinCloses, err := parse(arguments)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "devcluster:", err)
		}
		return 2
	}
	runtime.LockOSThread() // see family.start
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	// After the first signal the next one has its usual effect: it ends this process at once, and the kernel the children.
	context.AfterFunc(ctx, cancel)
	if untilStdinCloses {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	if err := run(ctx, p); err != nil {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		return 1
	}
	return 0
}

func parse(arguments []string) (p plan, untilStdinCloses bool, err error) {
	p.extra = map[string][]string{}
	flags := flag.NewFlagSet("devcluster up", flag.ContinueOnError)
	flags.StringVar(&p.directory, "directory", "",
		"where the cluster's files lie; one that a cluster ran in before goes on with its objects, on its ports")
	flags.StringVar(&p.emulatedVersion, "emulated-version", "",
		"an older minor version to behave as, such as 1.34; the default is the components' own")
	flags.TextVar(&p.address, "address", netip.MustParseAddr("127.0.0.1"), "where the API server listens")
	flags.TextVar(&p.clusterCIDR, "cluster-cidr", netip.MustParsePrefix("10.244.0.0/16"), "the nodes' pod ranges are cut from it")
	flags.TextVar(&p.serviceCIDR, "service-cidr", netip.MustParsePrefix("10.96.0.0/12"), "Services' addresses")
	flags.Func("extra", "an argument for a component, such as kube-controller-manager=--node-monitor-grace-period=8s; repeatable",
		p.addExtra)
	flags.BoolVar(&untilStdinCloses, "until-stdin-closes", false,
		"end at the end of standard input too: a pipe from the caller ends the cluster however the caller ends")
	if err := flags.Parse(arguments); err != nil {
		return p, false, err
	}
	if flags.NArg() > 0 {
		return p, false, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if p.directory == "" {
		return p, false, errors.New("--directory is missing")
	}
	p.directory, err = filepath.Abs(p.directory)
	return p, untilStdinCloses, err
}

// run runs a cluster until the context ends (nil) or something fails.
func run(ctx context.Context, p plan) error {
	started := time.Now()
	syscall.Umask(0o077)
	if err := os.MkdirAll(p.path("logs"), 0o700); err != nil {
		return err
	}
	unlock, err := lock(p)
	if err != nil {
		return err
	}
	defer unlock()
	if token, ports, ok := previous(p); ok {
		p.ports = ports
		return runOnce(ctx, p, token, started)
	}
	for attempt := 1; ; attempt++ {
		token, err := makeNew(&p)
		if err != nil {
			return err
		}
		err = runOnce(ctx, p, token, started)
		if attempt == portAttempts || !errors.Is(err, errPortTaken) {
			return err
		}
	}
}

// makeNew prepares a directory for a new cluster on free ports, and returns its token.
func makeNew(p *plan) (token string, err error) {
	for _, path := range []string{p.etcdData(), p.path("pki")} {
		if err := os.RemoveAll(path); err != nil {
			return "", err
		}
	}
	if p.ports, err = choosePorts(p.address); err != nil {
		return "", err
	}
	return newToken(), makePKI(*p)
}

// runOnce starts the components on the plan's ports, says when they are ready, and ends them at the end.
func runOnce(ctx context.Context, p plan, token string, started time.Time) error {
	if err := writeKubeconfigs(p, token); err != nil {
		return err
	}
	f := newFamily(ctx)
	// What has failed, or was not ready yet, is not worth waiting for.
	grace := time.Duration(0)
	defer func() { f.stop(grace) }()
	if err := startAll(p, f, token); err != nil {
		if ctx.Err() != nil {
			return nil // told to end before it was ready
		}
		return err
	}
	if err := announce(p, f, token, time.Since(started)); err != nil {
		return err
	}
	<-f.alive.Done()
	if ctx.Err() == nil {
		return context.Cause(f.alive) // a component has ended
	}
	grace = stopGrace
	return nil
}

// startAll returns when the cluster is ready.
func startAll(p plan, f *family, token string) error {
	ctx, cancel := context.WithTimeout(f.alive, readyTimeout)
	defer cancel()
	client, err := connect(p, "admin")
	if err != nil {
		return err
	}
	bootstrap, err := connect(p, "bootstrap")
	if err != nil {
		return err
	}
	for _, component := range []string{etcd, kubeAPIServer} {
		if err := f.start(p, component); err != nil {
			return err
		}
	}
	if err := waitUntil(ctx, isServing(client)); err != nil {
		return err
	}
	// These two give up when the API server does not answer within ten seconds, so they come after it.
	for _, component := range []string{kubeControllerManager, kubeScheduler} {
		if err := f.start(p, component); err != nil {
			return err
		}
	}
	// The namespaces that they go to appear a little after the API server is ready.
	objects := func(ctx context.Context) error { return makeObjects(ctx, client, p, token) }
	if err := waitUntil(ctx, objects); err != nil {
		return err
	}
	return waitUntil(ctx, isUsable(client, bootstrap))
}

func connect(p plan, name string) (*kubernetes.Clientset, error) {
	config, err := loadKubeconfig(p, name)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
