//go:build unix

package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

func TestMetricsOfTheCertificate(t *testing.T) {
	t.Parallel()
	const expiry = "berth_tls_certificate_expiry_timestamp_seconds"
	r := startRegistry(t)
	if _, ok := r.metric(expiry); ok {
		t.Error("there is a certificate without TLS")
	}
	ca := newIssuer(t)
	dir := t.TempDir()
	cert, key := ca.issue("localhost")
	writeFile(t, filepath.Join(dir, "cert"), cert)
	writeFile(t, filepath.Join(dir, "key"), key)
	for _, args := range [][]string{{"--tls", "auto"}, {"--tls-cert", filepath.Join(dir, "cert"), "--tls-key", filepath.Join(dir, "key")}} {
		serveFor(t, func(url string) {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
			resp, err := client.Get(url + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{expiry + " " + strconv.FormatInt(resp.TLS.PeerCertificates[0].NotAfter.Unix(), 10), `berth_connections [1-9]\d*`, `berth_connections_limit [1-9]\d*`} {
				if !regexp.MustCompile("(?m)^" + want + "$").Match(text) {
					t.Errorf("%s: no %s in\n%s", args[0], want, text)
				}
			}
		}, append([]string{"--data", t.TempDir()}, args...)...)
	}
}
