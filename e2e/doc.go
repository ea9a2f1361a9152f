// Package e2e runs Berth against the clients that people use: the Docker daemon, podman, buildah,
// skopeo, containerd, crane, regctl, oras and helm, and the conformance program of the OCI
// distribution specification. Each test is a session: a fresh berth on a loopback port, a client
// with an empty store, and what they say to each other.
//
//	go -C e2e test -timeout 20m ./...
//
// It is a module of its own so that the registry's go.mod stays short.
//
//	berth_test.go        the registry: build, start, stop, kill, check
//	clients_test.go      the clients: pinned, installed, run, stopped
//	images_test.go       images made from nothing
//	tools_test.go        the clients behind one face, for what all of them do
//	platforms_test.go    one tag from several machines, by all of them
//	tap_test.go          a proxy that remembers what a client asked
//	conformance_test.go  the official suite
//	doctor_test.go       what the doctor says of real proxies and another registry
//	powercut_test.go     what a power cut may not take, on the file system of lossyfs/
//	goinstall/           clients and registries in Go, built into Go's cache
//	newest_test.go       the clients that people have now, with NEWEST in the environment
//	imagecopy/           a program on the library of podman, buildah and skopeo
//	referring/           a program on the libraries of containerd, oras and crane, for referrers
//	docker_test.go …     one file for each family of clients
//	login_test.go        who may push and pull, and how clients log in
//	tls_test.go          the local CA, and certificates that are renewed
//	acme_test.go         certificates from a CA that speaks ACME
//	proxy_test.go        behind nginx, HAProxy, caddy and Traefik
//	image_test.go        Berth's own image, and the examples that run it
//	kubernetes/          a program that checks manifests as Kubernetes would
//	machines_test.go …   two machines, made of namespaces
//	examples_test.go     what README and docs show, run as it is written on these machines
//	pages_test.go        one test for each page
//
// bench/ is a program: Berth beside other registries, in a table. notices/ is one that writes
// THIRD_PARTY_NOTICES.
//
// The Go clients are built at pinned versions into Go's build cache; the rest comes from the
// distribution's packages (.ci/run lists them). A client that is missing skips its tests, unless CI is
// set in the environment: there it fails them. The daemons and the machines need root; they keep their data in
// temporary directories and are gone, with their mounts, when the tests end. BERTH=/path/to/berth
// tests that binary instead of building one. NEWEST=1 tests the newest clients instead of the
// distribution's, as far as they can be built from Go's modules; -timeout must be longer the first time.
package e2e
