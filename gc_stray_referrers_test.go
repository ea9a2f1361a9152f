//go:build unix

// Signatures, and all else that has a subject, in a repository that does not have the
// subject.

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signatureOf is a referrer of what a manifest's bytes are.
func signatureOf(manifest, note string) image {
	return newImage(typeOCIManifest, "x/sig", "x/y", `,"subject":`+descriptorJSON(typeOCIManifest, manifest)+`,"annotations":{"note":"`+note+`"}`, "{}")
}

func (r *registry) pushSignature(repo string, sig image) {
	r.t.Helper()
	r.pushBlob(repo, "{}")
	r.want(201, "PUT", "/v2/"+repo+"/manifests/"+sig.digest.String(), sig.manifest, "Content-Type: "+typeOCIManifest)
}

// wantReferrer insists that a signature is there, whole, and listed.
func (r *registry) wantReferrer(repo, manifest string, sig image) {
	r.t.Helper()
	r.wantImage(repo, sig.digest.String(), sig)
	if re := r.want(200, "GET", "/v2/"+repo+"/referrers/"+sum(manifest).String(), nil); !strings.Contains(string(re.body), sig.digest.String()) {
		r.t.Errorf("%s is no referrer: %s", sig.digest, re.body)
	}
}

// later lets so much time pass that all garbage has gone.
func (r *registry) later() {
	r.t.Helper()
	for range 3 {
		r.pass(r.cfg.untaggedGrace + 2*time.Second)
		r.pass(r.cfg.grace + 2*time.Second)
	}
}

func TestReferrerWithoutItsSubjectStays(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := r.pushImage("home/app", "1.0", "{}", "layer")
	sig := signatureOf(im.manifest, "1")
	r.pushSignature("signatures", sig)
	onTop := signatureOf(sig.manifest, "on top") // its subject is here
	r.pushSignature("signatures", onTop)
	r.later()
	r.wantReferrer("signatures", im.manifest, sig)
	r.wantReferrer("signatures", sig.manifest, onTop)
	r.collect(collectNow)
	r.restart()
	r.freeze()
	r.later()
	r.wantReferrer("signatures", im.manifest, sig)
	r.wantReferrer("signatures", sig.manifest, onTop)

	// Its owner can delete it, and have it back.
	r.want(202, "DELETE", "/v2/signatures/manifests/"+sig.digest.String(), nil)
	deleted := r.last("signatures")
	r.want(404, "GET", "/v2/signatures/manifests/"+sig.digest.String(), nil)
	r.undo(200, "signatures", deleted, sig.digest.String())
	r.later()
	r.wantReferrer("signatures", im.manifest, sig)
	r.wantReferrer("signatures", sig.manifest, onTop)
	r.want(202, "DELETE", "/v2/signatures/manifests/"+sig.digest.String(), nil)
	r.later()
	r.want(404, "GET", "/v2/signatures/tags/list", nil).code("NAME_UNKNOWN")
}

// From when its subject is there, a referrer goes with it.
func TestReferrerThatCameFirstGoesWithItsSubject(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := ociImage("{}", "layer")
	sig := signatureOf(im.manifest, "first")
	r.pushSignature("a", sig)
	r.later()
	r.pushImage("a", "x", "{}", "layer")
	r.later()
	r.wantReferrer("a", im.manifest, sig)
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	deleted := r.last("a")
	r.wantReferrer("a", im.manifest, sig)
	r.undo(200, "a", deleted, im.digest.String())
	r.later()
	r.wantReferrer("a", im.manifest, sig)
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	r.later()
	r.want(404, "GET", "/v2/a/manifests/"+sig.digest.String(), nil)
	r.want(404, "GET", "/v2/a/tags/list", nil).code("NAME_UNKNOWN")
}

// Whoever pushes a referrer when its subject has gone means to keep it.
func TestReferrerThatIsPushedAfterItsSubjectWent(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	im := r.pushImage("a", "x", "{}", "layer")
	r.pushImage("a", "y", "{}", "other")
	sig, next := signatureOf(im.manifest, "1"), signatureOf(im.manifest, "2")
	r.want(202, "DELETE", "/v2/a/manifests/"+im.digest.String(), nil)
	r.moved.Add(int64(r.cfg.untaggedGrace) - int64(time.Hour))
	r.pushSignature("a", sig) // which goes, since its subject does
	r.pass(2 * time.Hour)
	r.undo(409, "a", r.last("a"), "no longer exist")
	r.want(200, "GET", "/v2/a/manifests/"+sig.digest.String(), nil)
	r.pushSignature("a", sig)
	r.pushSignature("a", next)
	r.later()
	r.wantReferrer("a", im.manifest, sig)
	r.wantReferrer("a", im.manifest, next)
}

// A dry run knows it too: of an index that goes, a member with a subject that was
// never here stays.
func TestPlanKnowsReferrersWithoutTheirSubject(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	r.freeze()
	sig := signatureOf("elsewhere", "1")
	r.pushSignature("a", sig)
	index, indexDigest := ociIndex(sig.manifest)
	r.want(201, "PUT", "/v2/a/manifests/x", index, "Content-Type: "+typeOCIIndex)
	r.want(202, "DELETE", "/v2/a/manifests/x", nil)
	planned, err := r.st.plan(t.Context(), collectNow, false, func(d doomed) error {
		if d.Digest != indexDigest {
			t.Errorf("%s would go: %s", d.name(inFull), d.Why)
		}
		return nil
	})
	r.st.noPromises = true
	if got := r.collect(collectNow); err != nil || got != planned {
		t.Errorf("%+v would go (%v), and %+v has gone", planned, err, got)
	}
	r.wantReferrer("a", "elsewhere", sig)
}

// check finds a referrer of which it is not known that its subject is there.
func TestCheckFindsForgottenSubjects(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	sig := signatureOf(im.manifest, "1")
	r.pushSignature("a", sig)
	r.off()
	inDatabase(t, filepath.Join(r.cfg.dir, "berth.db"), `UPDATE manifest SET met = 0`)
	r.start()
	report, err := r.st.check(t.Context(), false, func(int64) {})
	if err != nil || len(report.findings) != 1 || !strings.Contains(report.findings[0].problem, sig.digest.String()) {
		t.Fatalf("check finds %v (%v)", report.findings, err)
	}
	if _, err := report.findings[0].repair(r.st); err != nil {
		t.Error(err)
	}
}
