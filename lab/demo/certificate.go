package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"strings"
	"time"
)

// keyPair names the files of a certificate and its key.
type keyPair struct {
	certificate string
	key         string
}

// tls is the server's configuration, nil without a certificate; a CA that it makes is printed.
func (s settings) tls(out io.Writer) (*tls.Config, error) {
	var pair tls.Certificate
	var err error
	switch {
	case s.pair.certificate != "":
		pair, err = tls.LoadX509KeyPair(s.pair.certificate, s.pair.key)
	case s.selfSigned != "":
		pair, err = selfSigned(strings.Split(s.selfSigned, ","), out)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, nil
}

// selfSigned makes a CA, writes it (PEM), and lets it sign a certificate for DNS names or addresses.
func selfSigned(names []string, out io.Writer) (tls.Certificate, error) {
	authority := template("nordmesh echo CA")
	authority.IsCA, authority.BasicConstraintsValid = true, true
	authority.KeyUsage = x509.KeyUsageCertSign
	server := template(names[0])
	server.KeyUsage = x509.KeyUsageDigitalSignature
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if address := net.ParseIP(name); address != nil {
			server.IPAddresses = append(server.IPAddresses, address)
		} else {
			server.DNSNames = append(server.DNSNames, name)
		}
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.CreateCertificate(rand.Reader, server, authority, key.Public(), authorityKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: root}); err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}, nil
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), // clocks of nodes differ
		NotAfter:     time.Now().AddDate(1, 0, 0),
	}
}
