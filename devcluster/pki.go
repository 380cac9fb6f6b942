package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"time"
)

// Certificates outlast every test, and begin a little earlier, for a clock that is set back.
const (
	validity = 365 * 24 * time.Hour
	backdate = time.Hour
)

// kubeletClientName is who the API server is to a kubelet; kubeadm's name, bound to system:kubelet-api-admin.
const kubeletClientName = "kube-apiserver-kubelet-client"

// makePKI writes every certificate and key that the components start with.
//
// etcd has an authority of its own: with the cluster's, each node's certificate would open the whole store.
func makePKI(p plan) error {
	if err := os.MkdirAll(p.path("pki"), 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(p, "ca", "kubernetes")
	if err != nil {
		return err
	}
	etcdCA, err := newAuthority(p, "etcd-ca", "etcd-ca")
	if err != nil {
		return err
	}
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, each := range []struct {
		authority    *authority
		file         string
		name         string
		organization string
		usages       []x509.ExtKeyUsage
		hosts        []string
		addresses    []netip.Addr
	}{
		{etcdCA, "etcd", "etcd", "", both, []string{"localhost"}, loopback},
		{etcdCA, "etcd-client", "kube-apiserver", "", client, nil, nil},
		{
			ca, "apiserver", "kube-apiserver", "", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			[]string{
				"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc.cluster.local",
			},
			append(loopback, p.address, p.serviceIP()),
		},
		{ca, "apiserver-kubelet-client", kubeletClientName, "", client, nil, nil},
		{ca, "admin", "kubernetes-admin", "system:masters", client, nil, nil},
		{ca, kubeControllerManager, "system:kube-controller-manager", "", client, nil, nil},
		{ca, kubeScheduler, "system:kube-scheduler", "", client, nil, nil},
	} {
		template := leaf(each.name, each.organization, each.usages, each.hosts, each.addresses)
		if err := each.authority.issue(p, each.file, template); err != nil {
			return err
		}
	}
	return makeServiceAccountKeys(p)
}

// makeServiceAccountKeys writes the pair that signs service accounts' tokens.
func makeServiceAccountKeys(p plan) error {
	key, err := newKey(p, "service-account")
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return writePEM(p.serviceAccountPublicKey(), "PUBLIC KEY", public)
}

// caHash is the pin of kubeadm's --discovery-token-ca-cert-hash: over the authority's public key.
func caHash(p plan) (string, error) {
	text, err := os.ReadFile(p.certificate("ca"))
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func newAuthority(p plan, file, name string) (*authority, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	key, err := newKey(p, file)
	if err != nil {
		return nil, err
	}
	der, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{certificate, key}, writePEM(p.certificate(file), "CERTIFICATE", der)
}

func leaf(
	name, organization string, usages []x509.ExtKeyUsage, hosts []string, addresses []netip.Addr,
) *x509.Certificate {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: usages,
		DNSNames:    hosts,
	}
	if organization != "" {
		template.Subject.Organization = []string{organization}
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(address.AsSlice()))
	}
	return template
}

func (a *authority) issue(p plan, file string, template *x509.Certificate) error {
	key, err := newKey(p, file)
	if err != nil {
		return err
	}
	der, err := sign(template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	return writePEM(p.certificate(file), "CERTIFICATE", der)
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-backdate)
	template.NotAfter = time.Now().Add(validity)
	return x509.CreateCertificate(rand.Reader, template, parent, public, key)
}

func newKey(p plan, file string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(p.key(file), "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
