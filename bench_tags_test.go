// How long it takes to look after tags.

package main

import (
	"fmt"
	"testing"
)

// manyTags gives a repository n tags, each of an image of its own.
func manyTags(b *testing.B, r *registry, repo string, n int) {
	b.Helper()
	r.pushBlob(repo, "{}")
	r.pushBlob(repo, "layer")
	for i := range n {
		im := newImage(typeOCIManifest, typeOCIConfig, "x/layer", fmt.Sprintf(`,"annotations":{"n":"%d"}`, i), "{}", "layer")
		m, err := parseManifest([]byte(im.manifest), typeOCIManifest, im.digest)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.st.putManifest(repo, m, []string{fmt.Sprintf("1.%d", i)}, author{}); err != nil {
			b.Fatal(err)
		}
	}
}

// A repository is deleted, and restored, however much is in it.
func BenchmarkDeleteRepository(b *testing.B) {
	for _, n := range []int{1, 10000} {
		b.Run(fmt.Sprintf("tags=%d", n), func(b *testing.B) {
			r := startRegistry(b)
			manyTags(b, r, "a", n)
			b.ResetTimer()
			for range b.N {
				number, err := r.st.removeOne(named{repository: "a"}, author{})
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := r.st.undo(number, "", "", author{overwrite: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What the rules of retention would do to 10,000 tags, of which half would go.
func BenchmarkExplainRetention(b *testing.B) {
	r := startRegistry(b, ruled("[[retain]]\nrepositories = [\"**\"]\nnewest = 5000\n"))
	manyTags(b, r, "a", 10000)
	b.ResetTimer()
	for range b.N {
		list, err := r.st.retainer.explainRetention(b.Context(), "")
		if err != nil || len(list) != 1 || list[0].Drops != 5000 {
			b.Fatal(list, err)
		}
	}
}

// A push of the last of four platforms, with and without an index made of them.
func BenchmarkPushPlatform(b *testing.B) {
	for _, rule := range []string{"", fromSameTagRule} {
		b.Run(fmt.Sprintf("index=%v", rule != ""), func(b *testing.B) {
			r := startRegistry(b)
			if rule != "" {
				r.restart(ruled(rule))
			}
			for _, p := range []string{"linux/amd64", "linux/arm64", "linux/arm/v7"} {
				r.pushFor("a", "1", p, "x")
			}
			var images []*manifest
			for i := range 2 {
				im := r.pushFor("a", fmt.Sprint("other", i), "linux/riscv64", fmt.Sprint(i))
				m, err := parseManifest([]byte(im.manifest), typeOCIManifest, im.digest)
				if err != nil {
					b.Fatal(err)
				}
				images = append(images, m)
			}
			b.ResetTimer()
			for i := range b.N {
				if err := r.st.putManifest("a", images[i%2], []string{"1"}, author{overwrite: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
