package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// secrets are one cluster's keys and its administrator's token. They live as long as the cluster.
type secrets struct {
	authority                      *x509.CertPool
	caFile                         string
	servingCertificate, servingKey string
	serviceAccountKey              string
	tokenFile, token               string
}

func makeSecrets(directory string) (secrets, error) {
	file := func(name string) string { return filepath.Join(directory, name) }
	s := secrets{
		authority:          x509.NewCertPool(),
		caFile:             file("ca.crt"),
		servingCertificate: file("apiserver.crt"),
		servingKey:         file("apiserver.key"),
		serviceAccountKey:  file("service-account.key"),
		tokenFile:          file("tokens.csv"),
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test cluster"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return s, err
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return s, err
	}
	if authority, err = x509.ParseCertificate(authorityDER); err != nil {
		return s, err
	}
	s.authority.AddCert(authority)

	serving := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "kubernetes.default.svc"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	servingKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return s, err
	}
	servingDER, err := x509.CreateCertificate(rand.Reader, serving, authority, servingKey.Public(), authorityKey)
	if err != nil {
		return s, err
	}
	serviceAccountKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return s, err
	}

	token := make([]byte, 16)
	if _, err := rand.Read(token); err != nil {
		return s, err
	}
	s.token = hex.EncodeToString(token)

	for _, write := range []func() error{
		func() error { return writePEM(s.caFile, "CERTIFICATE", authorityDER) },
		func() error { return writePEM(s.servingCertificate, "CERTIFICATE", servingDER) },
		func() error { return writeKey(s.servingKey, servingKey) },
		func() error { return writeKey(s.serviceAccountKey, serviceAccountKey) },
		func() error {
			return os.WriteFile(s.tokenFile, fmt.Appendf(nil, "%s,admin,admin,system:masters\n", s.token), 0o600)
		},
	} {
		if err := write(); err != nil {
			return s, err
		}
	}
	return s, nil
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// kubeconfig is the administrator's.
func kubeconfig(server string, s secrets) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: admin, user: {token: %q}}]
`, server, s.caFile, s.token)
}

// auditPolicy records who wrote what, and nothing of the contents: a test can count the writes of an idle hour.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
- level: None
  users: [admin]
- level: Metadata
`
