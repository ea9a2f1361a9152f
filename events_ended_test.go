package main

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// deliveries are the goroutines of this process that send events.
func deliveries() int {
	text := make([]byte, 16<<20)
	return strings.Count(string(text[:runtime.Stack(text, true)]), ".(*delivery).run(")
}

// An endpoint that is taken out of events.toml has no goroutine any more, and one that is put in again has one.
func TestDeliveryEndsWithItsEndpoint(t *testing.T) {
	alone(t, "the goroutines of the whole process are counted")
	one, two := newHook(t), newHook(t)
	const both = "[[endpoint]]\nname = \"one\"\nurl = \"%s\"\n[[endpoint]]\nname = \"two\"\nurl = \"%s\"\n"
	r := startRegistry(t, hooked(t, both, one.http.URL, two.http.URL))
	r.sendEvents()
	count := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); deliveries() != want; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%d goroutines send events, want %d", deliveries(), want)
			}
		}
	}
	count(2)
	for i := range 2 {
		hooked(t, "[[endpoint]]\nname = \"one\"\nurl = \"%s\"\n", one.http.URL)(&r.cfg)
		r.pushBlob("a", "without "+string(rune('0'+i)))
		one.next()
		count(1)
		hooked(t, both, one.http.URL, two.http.URL)(&r.cfg)
		r.pushBlob("a", "with both "+string(rune('0'+i)))
		one.next()
		two.next()
		count(2)
	}
}
