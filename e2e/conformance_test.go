package e2e

// The conformance program of the OCI distribution specification, with every feature of the next
// version on. Nothing may fail, and nothing may be skipped but what is listed here with its reason.

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	conform(t, startBerth(t))
}

// Manifests that refer to what was never pushed are accepted with --sparse-manifests.
func TestConformanceSparse(t *testing.T) {
	t.Parallel()
	conform(t, startBerth(t, "--sparse-manifests"), "OCI_DATA_SPARSE=true")
}

// maySkip has the cases that may be skipped, by the end of their name, with the reason.
var maySkip = map[string]string{
	"/mount anonymous/blob-mount-anonymous": "a blob is seen only where it was pushed or mounted to, " +
		"so a mount that does not say from where begins an upload, as the specification allows",
}

// conform runs the program against the registry.
func conform(t *testing.T, b *berth, env ...string) {
	t.Helper()
	c := newClient(t, "conformance")
	results := filepath.Join(c.dir, "results")
	c.env = append(c.env, "OCI_CONFIGURATION=/dev/null", "OCI_RESULTS_DIR="+results, "OCI_LOG=error", "OCI_VERSION=dev",
		"OCI_REGISTRY="+b.addr, "OCI_TLS=disabled", "OCI_REPO1=conformance/one", "OCI_REPO2=conformance/two")
	c.env = append(c.env, env...)
	err := c.try()
	report, readErr := os.ReadFile(filepath.Join(results, "junit.xml"))
	if readErr != nil {
		t.Fatalf("%v, and no report: %v", err, readErr)
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Name    string `xml:"name,attr"`
				Status  string `xml:"status,attr"`
				Message string `xml:"system-out"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(report, &suites); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, suite := range suites.Suites {
		for _, c := range suite.Cases {
			count[c.Status]++
			if c.Status == "passed" || c.Status == "skipped" && mayBeSkipped(c.Name) {
				continue
			}
			t.Errorf("%s: %s\n%s", c.Name, c.Status, strings.TrimSpace(c.Message))
		}
	}
	t.Logf("conformance: %v", count)
	if count["passed"] < 700 {
		t.Errorf("only %d cases passed: was everything on?", count["passed"])
	}
	if err != nil && !t.Failed() {
		t.Error(err)
	}
}

func mayBeSkipped(name string) bool {
	for end := range maySkip {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}
