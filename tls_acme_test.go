// Certificates by ACME, from a CA of the test's own.

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
)

// acmeCA is a CA that speaks ACME (RFC 8555) as far as a client needs, and
// validates by TLS-ALPN-01, or by HTTP-01, at the addresses given.
func acmeCA(t testing.TB, ca *issuer, challenge, addr string) *httptest.Server {
	var mu sync.Mutex // guards the rest
	var issued []byte
	var thumbprint, name string
	valid := false
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	reply := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Replay-Nonce", rand.Text())
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	order := func() map[string]any {
		status := "pending"
		if valid {
			status = "ready"
		}
		o := map[string]any{"status": status, "authorizations": []string{server.URL + "/authorization"}, "finalize": server.URL + "/finalize",
			"identifiers": []any{map[string]string{"type": "dns", "value": name}}}
		if issued != nil {
			o["status"], o["certificate"] = "valid", server.URL+"/certificate"
		}
		return o
	}
	validate := func() error {
		const token = "token"
		if challenge == "http-01" {
			req, _ := http.NewRequest("GET", "http://"+addr+"/.well-known/acme-challenge/"+token, nil)
			req.Host = name + ":80" // as some do
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); string(body) != token+"."+thumbprint {
				return fmt.Errorf("the challenge is %q", body)
			}
			return nil
		}
		conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, NextProtos: []string{acme.ALPNProto}, InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		defer conn.Close()
		want := sha256.Sum256([]byte(token + "." + thumbprint))
		for _, e := range conn.ConnectionState().PeerCertificates[0].Extensions {
			var got []byte
			if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) {
				asn1.Unmarshal(e.Value, &got)
			}
			if bytes.Equal(got, want[:]) {
				return nil
			}
		}
		return errors.New("the certificate does not answer the challenge")
	}
	mux.HandleFunc("GET /directory", func(w http.ResponseWriter, r *http.Request) {
		if agent := r.UserAgent(); !strings.HasPrefix(agent, "berth") {
			t.Errorf("User-Agent %q", agent)
		}
		reply(w, 200, map[string]string{"newNonce": server.URL + "/nonce", "newAccount": server.URL + "/account", "newOrder": server.URL + "/order"})
	})
	mux.HandleFunc("HEAD /nonce", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, nil) })
	mux.HandleFunc("POST /{what}", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var jws struct{ Protected, Payload string }
		json.NewDecoder(r.Body).Decode(&jws)
		protected, _ := base64.RawURLEncoding.DecodeString(jws.Protected)
		payload, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
		switch r.PathValue("what") {
		case "account":
			var p struct{ JWK map[string]string }
			json.Unmarshal(protected, &p)
			key, _ := json.Marshal(p.JWK) // in the order of RFC 7638
			sum := sha256.Sum256(key)
			thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
			if !bytes.Contains(payload, []byte("me@example.com")) {
				t.Errorf("an account without the address: %s", payload)
			}
			w.Header().Set("Location", server.URL+"/account/1")
			reply(w, 201, map[string]any{"status": "valid"})
		case "order":
			var p struct{ Identifiers []struct{ Value string } }
			json.Unmarshal(payload, &p)
			name = p.Identifiers[0].Value
			w.Header().Set("Location", server.URL+"/order-1")
			reply(w, 201, order())
		case "order-1":
			w.Header().Set("Location", server.URL+"/order-1")
			reply(w, 200, order())
		case "authorization", "challenge":
			status := "pending"
			if r.PathValue("what") == "challenge" {
				if err := validate(); err != nil {
					t.Errorf("%s: %v", challenge, err)
				}
				valid = true
			}
			if valid {
				status = "valid"
			}
			c := map[string]string{"type": challenge, "url": server.URL + "/challenge", "token": "token", "status": status}
			if r.PathValue("what") == "challenge" {
				reply(w, 200, c)
				return
			}
			reply(w, 200, map[string]any{"status": status, "challenges": []any{c},
				"identifier": map[string]string{"type": "dns", "value": name}})
		case "finalize":
			var p struct{ CSR string }
			json.Unmarshal(payload, &p)
			der, _ := base64.RawURLEncoding.DecodeString(p.CSR)
			csr, err := x509.ParseCertificateRequest(der)
			if err != nil {
				t.Error(err)
				return
			}
			leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Hour),
				NotAfter: time.Now().AddDate(0, 3, 0)}, ca.cert, csr.PublicKey, ca.key)
			if err != nil {
				t.Error(err)
			}
			issued = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})
			w.Header().Set("Location", server.URL+"/order-1")
			reply(w, 200, order())
		case "certificate":
			w.Header().Set("Replay-Nonce", rand.Text())
			w.Header().Set("Content-Type", "application/pem-certificate-chain")
			w.Write(append(issued, ca.pem()...))
		}
	})
	return server
}

func TestACMEThatFailsIsTold(t *testing.T) {
	t.Parallel()
	s := startSecure(t, tlsOptions{mode: "acme", names: []string{"registry.example.com"}, acmeDirectory: "http://127.0.0.1:1/directory"})
	for range 3 {
		for _, name := range []string{"registry.example.com", "other.example.com"} {
			if _, err := s.get(&tls.Config{}, "https://"+name+"/"); err == nil {
				t.Errorf("%s has a certificate", name)
			}
		}
	}
	if n := strings.Count(s.log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log, want 1:\n%s", n, s.log)
	}
}

func TestCertificateByACME(t *testing.T) {
	t.Parallel()
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		t.Run(challenge, func(t *testing.T) {
			ca := newIssuer(t)
			s := newSecure(t, tlsOptions{mode: "acme", names: []string{"registry.example.com"}, acmeEmail: "me@example.com"})
			// Both know the other's address.
			front := httptest.NewUnstartedServer(nil)
			s.o.acmeDirectory = "http://" + front.Listener.Addr().String() + "/directory"
			if challenge == "http-01" {
				s.o.httpAddr = "127.0.0.1:0"
			}
			s.start()
			addr := s.addr
			if challenge == "http-01" {
				addr = s.c.open.Addr().String()
			}
			authority := acmeCA(t, ca, challenge, addr)
			front.Config.Handler = authority.Config.Handler
			front.Start()
			defer front.Close()

			config := &tls.Config{RootCAs: ca.pool()}
			if body, err := s.get(config, "https://registry.example.com/x"); err != nil || !strings.HasPrefix(body, "HTTP/2.0 /x") {
				t.Errorf("%q, %v", body, err)
			}
			if _, err := s.get(config, "https://other.example.com/x"); err == nil {
				t.Error("there is a certificate for a name that was not asked for")
			}
			if s.c.trust() != nil || s.c.fingerprint() != "" {
				t.Error("there is a local CA")
			}
			re := rawHTTP(t, addr, "GET /trust HTTP/1.1\r\nHost: registry.example.com\r\nConnection: close\r\n\r\n")
			if re.status != 308 {
				t.Errorf("GET /trust = %d, want a redirect", re.status)
			}

			// The certificate is kept.
			s.stop()
			front.Close()
			authority.Close()
			s = newSecure(t, s.o)
			s.start()
			if _, err := s.get(config, "https://registry.example.com/x"); err != nil {
				t.Error(err)
			}
		})
	}
}
