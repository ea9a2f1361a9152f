package e2e

// Helm: a chart is an artifact whose tag is its version.

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestHelmChart(t *testing.T) {
	t.Parallel()
	reg := startBerth(t)
	helm := newClient(t, "helm")
	helm.run("create", "mychart")
	writeFile(t, filepath.Join(helm.dir, "pulled", "README"), "charts go here")
	helm.run("package", "mychart", "--version", "1.2.3")
	helm.run("package", "mychart", "--version", "1.3.0+build.7")

	digest := lastDigest(t, helm.said("push", "--plain-http", "mychart-1.2.3.tgz", "oci://"+reg.ref("charts")))
	reg.wantDigest("charts/mychart", "1.2.3", digest)
	if newest { // helm 4 writes the time of the file into the manifest
		if again := lastDigest(t, helm.said("push", "--plain-http", "mychart-1.2.3.tgz", "oci://"+reg.ref("charts"))); again != digest {
			t.Errorf("the same chart pushed again is %s, want %s", again, digest)
		}
	}
	helm.run("push", "--plain-http", "mychart-1.3.0+build.7.tgz", "oci://"+reg.ref("charts"))

	said := helm.said("pull", "--plain-http", "oci://"+reg.ref("charts/mychart"), "--version", "1.2.3", "--destination", helm.dir+"/pulled")
	if got := lastDigest(t, said); got != digest {
		t.Errorf("helm pulled %s, want %s", got, digest)
	}
	if read(t, filepath.Join(helm.dir, "pulled", "mychart-1.2.3.tgz")) != read(t, filepath.Join(helm.dir, "mychart-1.2.3.tgz")) {
		t.Error("the chart that helm pulled differs from the one it pushed")
	}
	// Without a version helm lists the tags and takes the newest.
	if got := helm.run("show", "chart", "--plain-http", "oci://"+reg.ref("charts/mychart")); !strings.Contains(got, "version: 1.3.0+build.7") {
		t.Errorf("helm show chart says\n%s", got)
	}
	if got := helm.run("template", "--plain-http", "oci://"+reg.ref("charts/mychart"), "--version", "1.2.3"); !strings.Contains(got, "kind: Deployment") {
		t.Errorf("helm template says\n%s", got)
	}
}
