package e2e

// Debian's Prometheus, with what examples/ has for it: it reads a registry over TLS with a token, takes the alerts, and
// knows every metric that an alert or the dashboard asks for.

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// ofBerth are metrics in an expression.
var ofBerth = regexp.MustCompile(`\b(?:berth|go|process)_[a-z_]+\b`)

func TestPrometheusReadsTheMetrics(t *testing.T) {
	t.Parallel()
	need(t, "prometheus", "promtool")
	b := newBerth(t, "--tls", "auto")
	b.start()
	b.admin("long enough\n", "user", "add", "ann")
	token := b.createToken("prometheus", "--allow", "metrics")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(read(t, filepath.Join(b.data, "tls", "ca.crt"))))
	b.client = clientTrusting(pool)
	b.user, b.password = "ann", "long enough"
	b.admin("", "backup", filepath.Join(tempDir(t), "backup"))
	b.get("GET", "/v2/") // a request that is counted
	_, _, text := b.get("GET", "/metrics")
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(string(text))
	if out := must(t, lint); out != "" {
		t.Errorf("promtool check metrics:\n%s", out)
	}
	for _, query := range append(dashboardQueries(t), alertQueries(t)...) {
		for _, name := range ofBerth.FindAllString(query, -1) {
			if !regexp.MustCompile(`(?m)^` + name + `[ {]`).Match(text) {
				t.Errorf("there is no metric %s, of %s", name, query)
			}
		}
	}

	alerts, err := filepath.Abs("../examples/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	p := startPrometheus(t, fmt.Sprintf(`global: { scrape_interval: 1s }
rule_files: [%q]
scrape_configs:
  - job_name: berth
    scheme: https
    tls_config: { ca_file: %q }
    basic_auth: { username: prometheus, password: %q }
    static_configs: [{ targets: [%q] }]
`, alerts, filepath.Join(b.data, "tls", "ca.crt"), token, b.addr))
	await(t, p.exited, p.log, "Prometheus to have read the registry twice", func() bool { return p.count(`count_over_time(up{job="berth"}[5m]) > 1 and up == 1`) == 1 })
	for _, query := range dashboardQueries(t) {
		if n := p.count(query); n < 0 {
			t.Errorf("Prometheus refuses %s", query)
		} else if n == 0 && !strings.Contains(query, "rate(") && !strings.Contains(query, "increase(") {
			t.Errorf("Prometheus knows nothing of %s", query)
		}
	}
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health string }
			}
		}
	}
	await(t, p.exited, p.log, "Prometheus to have evaluated the alerts", func() bool {
		p.get("/api/v1/rules", &rules)
		return len(rules.Data.Groups) == 1 && rules.Data.Groups[0].Rules[len(rules.Data.Groups[0].Rules)-1].Health != "unknown"
	})
	for _, r := range rules.Data.Groups[0].Rules {
		if r.Health != "ok" {
			t.Errorf("the alert %s is %s", r.Name, r.Health)
		}
	}
	if n := p.count(`ALERTS`); n != 0 {
		t.Errorf("%d alerts of a registry that is well", n)
	}
}

// What the alerts say of a registry that is well, and of one that is not.
func TestAlertsAreRaised(t *testing.T) {
	t.Parallel()
	need(t, "promtool")
	dir := tempDir(t)
	for _, file := range []string{"../examples/alerts.yml", "testdata/alerts.test.yml"} {
		writeFile(t, filepath.Join(dir, filepath.Base(file)), read(t, file))
	}
	cmd := exec.Command("promtool", "test", "rules", "alerts.test.yml")
	cmd.Dir = dir
	must(t, cmd)
}

// dashboardQueries are those of the dashboard, as Grafana would send them.
func dashboardQueries(t *testing.T) (list []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "../examples/grafana.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			list = append(list, strings.NewReplacer("$instance", ".*", "$__rate_interval", "5m").Replace(target.Expr))
		}
	}
	if len(list) < 30 {
		t.Fatalf("the dashboard asks %d things, want at least 30", len(list))
	}
	return list
}

// alertQueries are the expressions of the alerts.
func alertQueries(t *testing.T) (list []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^ +expr: (\|(?:\n {10}.*)+|.*)`).FindAllStringSubmatch(read(t, "../examples/alerts.yml"), -1) {
		list = append(list, m[1])
	}
	if len(list) < 10 {
		t.Fatalf("there are %d alerts, want at least 10", len(list))
	}
	return list
}

// A prometheus is one that runs.
type prometheus struct {
	t      *testing.T
	url    string
	exited chan struct{}
	log    *output
}

func startPrometheus(t *testing.T, config string) *prometheus {
	t.Helper()
	dir := tempDir(t)
	writeFile(t, filepath.Join(dir, "prometheus.yml"), config)
	must(t, exec.Command("promtool", "check", "config", filepath.Join(dir, "prometheus.yml")))
	free, err := net.Listen("tcp", "127.0.0.1:0") // Prometheus does not say which port it took
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t: t, url: "http://" + free.Addr().String(), log: new(output)}
	free.Close()
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "tsdb"),
		"--web.listen-address="+free.Addr().String())
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if p.exited, err = startGroup(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { killGroup(cmd.Process.Pid); <-p.exited })
	await(t, p.exited, p.log, "Prometheus to be ready", func() bool {
		resp, err := http.Get(p.url + "/-/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return p
}

// get asks for a value of the API; it reports whether there was a good answer.
func (p *prometheus) get(path string, to any) bool {
	p.t.Helper()
	client := &http.Client{Timeout: time.Minute}
	resp, err := client.Get(p.url + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK && json.NewDecoder(resp.Body).Decode(to) == nil
}

// count returns how many series a query finds, -1 if it is refused.
func (p *prometheus) count(query string) int {
	p.t.Helper()
	var answer struct {
		Data struct{ Result []json.RawMessage }
	}
	if !p.get("/api/v1/query?query="+url.QueryEscape(query), &answer) {
		return -1
	}
	return len(answer.Data.Result)
}
