// Users who come, go, and stand in line; what they leave, and what they are shown.

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// writeUsers makes a registry's file of users anew.
func (r *registry) writeUsers(lines ...string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.cfg.dir, usersFile), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// Somebody behind the same address guesses without a pause, and the registry has just
// been started: nobody's password was seen before.
func TestRightPasswordGetsInBesideAGuesser(t *testing.T) {
	slow(t)
	t.Parallel()
	for name, c := range map[string]struct {
		guess string
		free  int
	}{"one user": {"ann", freeByUser}, "many users": {"user%d", freeByAddress}} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, guarded("", "ann"))
			r.server.gate.logins.attempts.unit = 10 * time.Millisecond
			var n atomic.Int64
			next := func() string {
				user := c.guess
				if strings.Contains(user, "%") {
					user = fmt.Sprintf(user, n.Load())
				}
				return basic(user, fmt.Sprint("guess", n.Add(1)))
			}
			for range c.free {
				r.want(401, "GET", "/v2/", nil, next())
			}
			stop := make(chan struct{})
			var guessers sync.WaitGroup
			for range 3 {
				guessers.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if re, err := r.try("GET", "/v2/", nil, next()); err != nil || re.status != 401 {
							t.Errorf("a guess in line: %v, %v; want 401 in turn", re, err)
							return
						}
					}
				})
			}
			r.want(200, "GET", "/v2/", nil, as("ann"))
			close(stop)
			guessers.Wait()
		})
	}
}

// Whose password stands in line beside a guesser is let in from elsewhere meanwhile.
func TestSamePasswordDoesNotWaitForAnotherAddress(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"), func(c *config) { c.auth.proxies, _ = parseProxies("127.0.0.1") })
	a := &r.server.gate.logins.attempts
	a.unit, a.patience = time.Hour, time.Hour
	const here, there = "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2"
	for i := range freeByUser {
		r.want(401, "GET", "/v2/", nil, basic("ann", fmt.Sprint("guess", i)), here)
	}
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", r.http.URL+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("ann", "ann-secret")
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	left := make(chan error)
	go func() {
		_, err := http.DefaultTransport.RoundTrip(req)
		left <- err
	}()
	for standing := 0; standing == 0; time.Sleep(time.Millisecond) {
		a.mu.Lock()
		standing = len(a.lines["192.0.2.1"])
		a.mu.Unlock()
	}
	time.AfterFunc(2*time.Minute, leave) // or this would wait for an hour
	r.want(200, "GET", "/v2/", nil, as("ann"), there)
	if ctx.Err() != nil {
		t.Error("only when the other had gone")
	}
	leave()
	if err := <-left; err == nil {
		t.Error("who stands in line has an answer")
	}
	r.want(200, "GET", "/v2/", nil, as("ann"), here) // it was right before
}

// Who fills the line with guesses at one user's password keeps no other user out of it.
func TestGuessesAtOneUserLeavePlacesForOthers(t *testing.T) {
	slow(t)
	t.Parallel()
	r := startRegistry(t, guarded("", "ann", "bob"))
	r.freeze()
	a := &r.server.gate.logins.attempts
	a.unit, a.patience = time.Hour, time.Hour
	for _, name := range []string{"ann", "bob"} {
		for i := range freeByUser {
			r.want(401, "GET", "/v2/", nil, basic(name, fmt.Sprint("guess", i)))
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	statuses := make(chan int, 2*maxLine)
	ask := func(name, password string) {
		req, err := http.NewRequestWithContext(ctx, "GET", r.http.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(name, password)
		clients.Go(func() {
			if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
				resp.Body.Close()
				statuses <- resp.StatusCode
			}
		})
	}
	places := func(name string) (n, all int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, line := range a.lines {
			for _, w := range line {
				if all++; w.user == name {
					n++
				}
			}
		}
		return n, all
	}
	for i := range maxLine {
		ask("ann", fmt.Sprint("waits", i))
	}
	for n := 0; n < maxLine; n, _ = places("ann") {
		time.Sleep(time.Millisecond)
	}
	for i, password := range []string{"bob-secret", "an old one", "an older one"} {
		ask("bob", password)
		if status := <-statuses; status != 429 {
			t.Errorf("the guess that was last in line = %d, want 429", status)
		}
		for n := 0; n <= i; n, _ = places("bob") {
			time.Sleep(time.Millisecond)
		}
		if _, all := places("bob"); all != maxLine {
			t.Errorf("%d stand in line, want %d", all, maxLine)
		}
	}
	r.want(429, "GET", "/v2/", nil, basic("bob", "one more"))
	r.want(429, "GET", "/v2/", nil, basic("ann", "one more"))
	if n, all := places("bob"); n != maxLine/2 || all != maxLine {
		t.Errorf("%d of %d places are bob's, want half of them", n, all)
	}
	leave()
	clients.Wait()
}

func TestLineOfGuessesIsBounded(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	r.freeze()
	a := &r.server.gate.logins.attempts
	a.unit, a.patience = time.Hour, time.Hour
	for i := range freeByUser {
		r.want(401, "GET", "/v2/", nil, basic("ann", fmt.Sprint("guess", i)))
	}
	var clients sync.WaitGroup
	ctx, leave := context.WithCancel(t.Context())
	for i := range maxLine {
		req, err := http.NewRequestWithContext(ctx, "GET", r.http.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("ann", fmt.Sprint("waits", i))
		clients.Go(func() {
			if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
				resp.Body.Close()
				t.Errorf("a try in line: %s, want no answer", resp.Status)
			}
		})
	}
	line := func() (n int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, l := range a.lines {
			n += len(l)
		}
		return n
	}
	for line() < maxLine {
		time.Sleep(time.Millisecond)
	}
	r.want(429, "GET", "/v2/", nil, basic("ann", "one more")).code("TOOMANYREQUESTS").has("Retry-After", "3600")
	r.want(401, "GET", "/v2/", nil, basic("bob", "guess")) // who need not wait does not
	leave()
	clients.Wait()
	for line() > 0 { // who has left does not stand there
		time.Sleep(time.Millisecond)
	}
}

func TestPasswordOfAUserWithTwoLines(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	r.writeUsers("ann:"+hashOf("first"), "# ann again", "ann:"+hashOf("second"), "bob:"+hashOf("bob-secret"))
	err := run(t.Context(), []string{"user", "passwd", "ann", "--data", r.cfg.dir}, noEnv, strings.NewReader("brand new\n"), io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	r.want(200, "GET", "/v2/", nil, basic("ann", "brand new"))
	r.want(401, "GET", "/v2/", nil, basic("ann", "first"))
	r.want(401, "GET", "/v2/", nil, basic("ann", "second"))
	r.want(200, "GET", "/v2/", nil, as("bob"))
	if text, err := os.ReadFile(filepath.Join(r.cfg.dir, usersFile)); err != nil || strings.Count(string(text), "\nann:")+1 != 1 && !strings.HasPrefix(string(text), "ann:") || !strings.Contains(string(text), "# ann again") {
		t.Errorf("the file is now\n%s%v", text, err)
	}
}

func TestLinesOfTheUsersFileThatAreNobodys(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	good := hashOf("secret")
	r.writeUsers("\ufeffann:"+good, "bob:"+good+"x", "eve:"+good[:59], "kim:"+good+":more", "zoe", "# a comment", "", "max:{SHA}abc")
	r.want(200, "GET", "/v2/", nil, basic("ann", "secret"))
	r.want(401, "GET", "/v2/", nil, basic("bob", "secret"))
	r.want(200, "GET", "/v2/", nil, basic("ann", "secret"))
	log := r.log.String()
	if !strings.Contains(log, `lines="[2 3 4 5 8]"`) || strings.Contains(log, good[7:]) {
		t.Errorf("the log does not name the lines, or shows hashes:\n%s", log)
	}
	out, err := runOnce(t, "user", "list", "--data", r.cfg.dir)
	if err != nil || !strings.Contains(out, "nobody can log in: [2 3 4 5 8]") {
		t.Errorf("user list: %v\n%s", err, out)
	}
}

func TestCheapHashesAreWarnedOf(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann"))
	r.want(200, "GET", "/v2/", nil, as("ann"))
	warnings := func() int { return strings.Count(r.log.String(), "password hashes are weak") }
	if n := warnings(); n != 1 || !strings.Contains(r.log.String(), "users=[ann]") {
		t.Errorf("%d warnings of a hash of the least cost, want 1 that names the user\n%s", n, r.log)
	}
	r.writeUsers("ann:$2y$10$" + strings.Repeat("a", 53))
	r.want(401, "GET", "/v2/", nil, as("ann"))
	if n := warnings(); n != 1 {
		t.Errorf("a hash of the usual cost is warned of, too:\n%s", r.log)
	}
}

// Nobody can go on with it. Its bytes are given back, also if the user went while
// nobody served.
func TestUploadsEndWithTheirOwners(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded("", "ann", "bob", "eve"))
	robot := "Authorization: Bearer " + r.newRobot("ci", "**", "push")
	locations := make(map[string]string)
	for who, header := range map[string]string{"ann": as("ann"), "bob": as("bob"), "eve": as("eve"), "ci": robot} {
		loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, header).location()
		locations[who] = r.want(202, "PATCH", loc, "some bytes", header).location()
	}
	hasFile := func(who string) bool {
		return exists(filepath.Join(r.cfg.dir, "uploads", filepath.Base(locations[who])))
	}
	r.writeUsers("ann:"+hashOf("ann-secret"), "eve:"+hashOf("eve-secret"))
	r.revokeRobot("ci")
	r.want(401, "GET", locations["bob"], nil, as("bob"))
	r.pass(ownersSettle)
	if hasFile("bob") || hasFile("ci") || !hasFile("ann") || !hasFile("eve") {
		t.Errorf("after bob and ci have gone there are the uploads of ann %v, bob %v, eve %v, ci %v", hasFile("ann"), hasFile("bob"), hasFile("eve"), hasFile("ci"))
	}
	r.writeUsers("ann:"+hashOf("ann-secret"), "bob:"+hashOf("bob-secret"))
	r.restart()
	r.pass(ownersSettle)
	if hasFile("eve") || !hasFile("ann") {
		t.Errorf("after a start without eve there are the uploads of ann %v, eve %v", hasFile("ann"), hasFile("eve"))
	}
	r.want(404, "GET", locations["bob"], nil, as("bob")) // who is somebody else, by the same name
	r.want(201, "PUT", with(locations["ann"], "digest="+sum("some bytes").String()), nil, as("ann"))

	// One whose bytes are arriving.
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, as("bob")).location()
	body, bytes := io.Pipe()
	ended := make(chan *reply)
	go func() {
		re, _ := r.try("PATCH", loc, body, as("bob"))
		ended <- re
	}()
	bytes.Write([]byte("first"))
	for u, err := r.st.uploads.find("a", filepath.Base(loc), "user:bob"); err != nil || len(u.turn) == 0; {
		time.Sleep(time.Millisecond)
	}
	r.writeUsers("ann:" + hashOf("ann-secret"))
	r.want(401, "GET", loc, nil, as("bob"))
	r.pass(ownersSettle)
	go func() { // until nobody reads any more, or it is all
		for range 10000 {
			if _, err := bytes.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
		bytes.Close()
	}()
	if re := <-ended; re != nil && re.status < 400 { // nil: the connection was closed
		t.Errorf("the rest of an upload whose owner was removed: %d, want an error", re.status)
	}
	r.pass(ownersSettle)
	if exists(filepath.Join(r.cfg.dir, "uploads", filepath.Base(loc))) {
		t.Error("the bytes of an upload that was under way when its owner was removed are there still")
	}
}

// Another program that writes the users' file empties it first. Whoever looks in between
// logs nobody in, and ends no upload.
func TestUsersFileThatIsBeingWrittenEndsNoUpload(t *testing.T) {
	t.Parallel()
	r := startStill(t, guarded("", "ann", "bob"))
	bob := as("bob")
	loc := r.want(202, "POST", "/v2/a/blobs/uploads/", nil, bob).location()
	r.want(202, "PATCH", loc, "some ", bob)
	was, err := os.ReadFile(filepath.Join(r.cfg.dir, usersFile))
	if err != nil {
		t.Fatal(err)
	}
	text := string(was)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.cfg.dir, usersFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, half := range []string{"", text[:len(text)/2], "ann:" + hashOf("ann-secret") + "\n"} {
		write(half)
		r.want(401, "GET", loc, nil, bob)
		r.pass(0)
		r.pass(ownersSettle - time.Second) // the janitor looks again
		if due, err := r.st.collector.untilDue(); err != nil || due <= 0 || due > time.Second {
			t.Errorf("the owners are looked for again in %v, %v; want less than a second", due, err)
		}
		write(text) // and nobody asks for anything meanwhile
		r.pass(2 * time.Second)
		r.want(204, "GET", loc, nil, bob).has("Range", "0-4")
	}
	write("") // of which nobody but the janitor takes notice, and late
	r.st.collector.forgetOwners()
	r.pass(time.Minute)
	write(text)
	r.restart()
	r.want(202, "PATCH", loc, "bytes", bob)
	r.stop()
	write("")
	r.start()
	r.pass(0)
	write(text)
	r.pass(ownersSettle)
	r.want(201, "PUT", with(loc, "digest="+sum("some bytes").String()), nil, bob)
}

// What needed somebody's name is not for the caches that others share.
func TestPrivateAnswersAreForNobodysCache(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, guarded(`
[[rule]]
who = ["ann"]
repositories = ["**"]
allow = ["admin"]
[[rule]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
`, "ann"))
	im := r.pushAs(as("ann"), "public/app", "x", "{}")
	r.pushAs(as("ann"), "home/app", "x", "{}")
	robot := "Authorization: Bearer " + r.newRobot("ci", "home/*", "pull")
	const forever = "max-age=31536000, immutable"
	for _, header := range []string{as("ann"), robot, r.bearer(as("ann"), "repository:home/app:pull")} {
		for path, want := range map[string]string{"/manifests/x": "private", "/tags/list": "private", "/manifests/y": "private", "/referrers/" + im.digest.String(): "private",
			"/manifests/" + im.digest.String(): "private, " + forever, "/blobs/" + im.config.String(): "private, " + forever} {
			re := r.do("GET", "/v2/home/app"+path, nil, header).has("Cache-Control", want)
			if strings.HasPrefix(path, "/manifests/x") && len(re.header) > 9 { // Date is net/http's
				t.Errorf("an answer with %d headers: the ninth of the registry's own costs: %v", len(re.header), re.header)
			}
		}
	}
	r.want(200, "GET", "/v2/public/app/blobs/"+im.config.String(), nil).has("Cache-Control", forever)
	r.want(200, "GET", "/v2/public/app/manifests/x", nil).has("Cache-Control", "")
	r.want(401, "GET", "/v2/home/app/manifests/x", nil)
}

// A disk that is not mounted, a file that was moved: whoever reaches the registry may
// not do everything because of that.
func TestUsersThatVanishDoNotOpenTheRegistry(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{"users": usersFile, "rules": policyFile, "users of one that is read-only": usersFile} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, func(c *config) { c.readOnly = strings.Contains(name, "read-only") })
			r.want(200, "GET", "/v2/", nil)
			content := "ann:" + hashOf("ann-secret") + "\n"
			if file == policyFile {
				content = "[[rule]]\nwho = [\"ann\"]\nrepositories = [\"**\"]\nallow = [\"push\"]\n"
			}
			path := filepath.Join(r.cfg.dir, file)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			r.want(401, "GET", "/v2/", nil)
			r.pass(0)
			r.stop()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			start := func(args ...string) error {
				return refused(t, append(args, "--data", r.cfg.dir, "--addr", "127.0.0.1:0")...)
			}
			if err := start(); err == nil || !strings.Contains(err.Error(), "this registry had users") || !strings.Contains(err.Error(), "--open") {
				t.Fatalf("a start without the file: %v; want a refusal that says what to do", err)
			}
			if err := start("--anonymous-pull"); err != nil {
				t.Errorf("a start that is open for pulls: %v", err)
			}
			if err := start(); err == nil || !strings.Contains(err.Error(), "this registry had users") {
				t.Errorf("and one without the flag again: %v", err)
			}
			if err := start("--open"); err != nil {
				t.Errorf("a start with --open: %v", err)
			}
			r.start() // it was said once
			r.want(200, "GET", "/v2/", nil)
		})
	}
}

// --open that stays, in an environment, say, is told of while there is something to lose.
func TestOpenThatIsStillGivenIsToldOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		given, told bool
		options     []func(*config)
	}{
		"users":              {true, true, []func(*config){guarded("", "ann")}},
		"rules":              {true, true, []func(*config){guarded(matrixRules)}},
		"users, not given":   {false, false, []func(*config){guarded("", "ann")}},
		"neither":            {true, false, nil},
		"open to pulls only": {true, false, []func(*config){func(c *config) { c.auth.anonymousPull = true }}},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, append(c.options, func(cfg *config) { cfg.auth.open = c.given })...)
			r.server.gate.announce()
			if told := strings.Contains(r.log.String(), "level=WARN msg=\"--open"); told != c.told {
				t.Errorf("told of --open: %v, want %v\n%s", told, c.told, r.log)
			}
		})
	}
}
