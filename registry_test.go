package main

import "testing"

func TestPushAndPull(t *testing.T) {
	r := startRegistry(t)
	im := r.pushImage("home/app", "1.0", "{}", "layer one", "layer two")
	r.want(200, "GET", "/v2/home/app/manifests/1.0", nil).is(im.manifest)
}
