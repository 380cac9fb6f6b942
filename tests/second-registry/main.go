// A registry of another make than Debian's, for tests: go-containerregistry's, in memory, with the referrers API. It
// listens on a free port of loopback, prints its address, and serves until it is killed; over TLS with -certificate and
// -key.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	certificate := flag.String("certificate", "", "PEM file")
	key := flag.String("key", "", "PEM file")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	quiet := registry.Logger(log.New(io.Discard, "", 0))
	handler := registry.New(quiet, registry.WithReferrersSupport(true))
	if *certificate != "" {
		log.Fatal(http.ServeTLS(listener, handler, *certificate, *key))
	}
	log.Fatal(http.Serve(listener, handler))
}
