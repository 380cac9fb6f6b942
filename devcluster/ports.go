package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
)

// Ports are taken from below Linux's range for outgoing connections (32768-60999) and below Services' node ports
// (30000-32767): there, only another server can take one between the choice and its use.
const firstPort, lastPort = 20000, 29999

// ports are those that a cluster listens on. The controller manager and the scheduler serve nothing.
type ports struct {
	APIServer  int `json:"apiserver"`
	EtcdClient int `json:"etcd_client"`
	EtcdPeer   int `json:"etcd_peer"`
}

// errPortTaken means that another process was faster; other ports may do.
var errPortTaken = errors.New("a port was taken")

// choosePorts finds ports that nobody listens on now. Whoever uses one must be ready for [errPortTaken].
func choosePorts(address netip.Addr) (ports, error) {
	var chosen ports
	taken := map[int]bool{}
	for _, each := range []struct {
		host string
		port *int
	}{{address.String(), &chosen.APIServer}, {"127.0.0.1", &chosen.EtcdClient}, {"127.0.0.1", &chosen.EtcdPeer}} {
		port, err := freePort(each.host, taken)
		if err != nil {
			return ports{}, err
		}
		*each.port = port
		taken[port] = true
	}
	return chosen, nil
}

func freePort(host string, taken map[int]bool) (int, error) {
	var last error
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if taken[port] {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("no free port on %s: %w", host, last)
}
