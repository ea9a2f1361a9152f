// Tags that belong to an image: signatures and what else clients keep beside it.
//
// Clients that do not use the referrers list put what they know of an image under a
// tag made from its digest: sha256-HEX.sig, .att and .sbom (cosign), sha256-HEX for an
// index of them (specification: "Referrers Tag Schema"). Such a tag is nobody's
// release. It stays while its image does, whatever rules of retention say of others,
// and goes when that is collected. It may move, although all tags of the repository
// are immutable: that is how an image is signed a second time. Only a rule that names
// such tags keeps them as they are.

package main

import (
	"slices"

	"github.com/opencontainers/go-digest"
)

// signatureForm is the algorithm and the digest, of which 64 letters are used, and
// what it is.
var signatureForm = expression(`^(sha256|sha512)-([0-9a-f]{64})(?:\.[A-Za-z0-9._-]+)?$`)

// signatureTag is what the tags of an image's signatures begin with.
func signatureTag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded()[:64]
}

// signatureTags finds the tags of a repository that belong to an image, by what they
// begin with.
const signatureTags = `SELECT name FROM tag WHERE repository = ?1 AND name >= ?2 AND name < ?2 || '/' AND (name = ?2 OR substr(name, length(?2) + 1, 1) = '.')`

// dropSignatures takes away the tags that belong to an image which has just been
// collected, but for those that a rule names. The error is errMustLast if there are some and
// the transaction does not wait for the disk.
func (t *tx) dropSignatures(repo storedRepository, d digest.Digest, rules *tagRules) error {
	tags, err := listRows(t, scanOne[string], signatureTags, repo.id, signatureTag(d))
	tags = slices.DeleteFunc(tags, func(tag string) bool { return rules.immutableBy(repo.name, tag) != nil })
	if err != nil || len(tags) == 0 {
		return err
	}
	if !t.durable { // whoever hears of it may not hear the same again
		return errMustLast
	}
	c := author{who: "retention", overwrite: true}.change("retention", "with its image")
	for _, tag := range tags {
		was, err := t.findTag(repo.id, tag)
		if err != nil {
			return err
		}
		if err := t.moveTag(c, repo, tag, was, target{}); err != nil {
			return err
		}
	}
	return nil
}
