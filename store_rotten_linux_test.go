package main

import (
	"errors"
	"os"
	"testing"
)

// On a disk that cannot be written, too.
func TestRottenManifestOnAReadOnlyDiskIsNotServed(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	im := r.pushImage("a", "x", "{}", "layer")
	r.rot("schemaVersion", "schemaVersi0n", "1")
	disk := mountDisk(t, "size=32m")
	if err := os.CopyFS(disk+"/data", os.DirFS(r.cfg.dir)); err != nil {
		t.Fatal(err)
	}
	makeReadOnly(t, disk)
	cfg := directoryConfig(t, disk+"/data")
	st, err := openStore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	for range 2 {
		if _, err := st.findManifest("a", reference{digest: im.digest}, false); !errors.Is(err, errManifestUnknown) {
			t.Errorf("%v, want that it is unknown", err)
		}
	}
	r.want(201, "PUT", "/v2/a/manifests/x", im.manifest, "Content-Type: "+typeOCIManifest)
}
