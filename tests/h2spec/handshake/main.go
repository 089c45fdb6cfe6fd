// Command handshake asks a server for a page over TLS by Go's own implementation, and prints what was agreed on:
// version, key exchange, protocol of the application, status of the answer.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) != 4 {
		fail("usage: handshake ADDRESS NAME CERTIFICATE")
	}
	pem, err := os.ReadFile(os.Args[3])
	if err != nil {
		fail(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		fail("no certificate in " + os.Args[3])
	}
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: os.Args[2]},
		ForceAttemptHTTP2: true,
	}
	request, err := http.NewRequest("GET", "https://"+os.Args[1]+"/", nil)
	if err != nil {
		fail(err)
	}
	request.Host = os.Args[2]
	response, err := transport.RoundTrip(request)
	if err != nil {
		fail(err)
	}
	defer response.Body.Close()
	state := response.TLS
	fmt.Println(tls.VersionName(state.Version), state.CurveID, state.NegotiatedProtocol, response.Proto, response.StatusCode)
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(1)
}
