// The users' file is a mount by itself, as in a container, or in a directory that is
// read-only: no other file can take its place.

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"
)

func userLine(t testing.TB, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(hash) + "\n"
}

func TestUsersFileThatCannotBeReplaced(t *testing.T) {
	slow(t)
	t.Parallel()
	needRoot(t)
	for name, mount := range map[string]func(t testing.TB, outside, users string){
		"a mount": func(t testing.TB, outside, users string) {
			if err := os.WriteFile(users, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(outside, users, "", unix.MS_BIND, ""); err != nil {
				skip(t, err.Error())
			}
			unmountAtEnd(t, users)
		},
		"a mount in a read-only directory": func(t testing.TB, outside, users string) {
			if err := os.WriteFile(users, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Dir(users)
			if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
				skip(t, err.Error())
			}
			unmountAtEnd(t, dir)
			if err := unix.Mount(outside, users, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			unmountAtEnd(t, users)
			if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			outside, users := filepath.Join(t.TempDir(), "outside"), filepath.Join(t.TempDir(), "htpasswd")
			if err := os.WriteFile(outside, []byte("# ours\n"+userLine(t, "kim", "pw")), 0o640); err != nil {
				t.Fatal(err)
			}
			mount(t, outside, users)
			r := startRegistry(t, func(cfg *config) { cfg.auth.usersFile = users })
			user := func(args ...string) {
				t.Helper()
				args = append(append([]string{"user"}, args...), "--data", r.cfg.dir, "--htpasswd", users)
				if err := run(t.Context(), args, noEnv, strings.NewReader("brand new\n"), io.Discard, io.Discard); err != nil {
					t.Errorf("%v: %v", args, err)
				}
			}
			may := func(want int, name, password string) {
				t.Helper()
				r.want(want, "GET", "/v2/", nil, basic(name, password))
			}
			may(200, "kim", "pw")
			user("add", "ann")
			may(200, "kim", "pw")
			may(200, "ann", "brand new")
			user("passwd", "kim")
			may(401, "kim", "pw")
			may(200, "kim", "brand new")
			may(200, "ann", "brand new")
			user("remove", "kim")
			may(401, "kim", "brand new")
			may(200, "ann", "brand new")
			text, err := os.ReadFile(outside)
			if err != nil || strings.Count(string(text), "\n") != 2 || !strings.HasPrefix(string(text), "# ours\nann:") {
				t.Errorf("%q, %v", text, err)
			}
			user("remove", "ann", "--force")
			may(401, "ann", "brand new")
			r.want(401, "GET", "/v2/", nil) // and it is not open
		})
	}
}

// The disk is full: nothing has changed, and nobody is locked out.
func TestUsersFileThatCannotGrow(t *testing.T) {
	t.Parallel()
	disk := mountDisk(t, "size=1m")
	outside := filepath.Join(disk, "outside")
	before := userLine(t, "kim", "pw") + strings.Repeat("#", 4000) + "\n"
	if err := os.WriteFile(outside, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(users, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(outside, users, "", unix.MS_BIND, ""); err != nil {
		skip(t, err.Error())
	}
	unmountAtEnd(t, users)
	fill(t, disk)
	err := run(t.Context(), []string{"user", "add", "ann", "--data", t.TempDir(), "--htpasswd", users}, noEnv, strings.NewReader("brand new\n"), io.Discard, io.Discard)
	if !isNoSpace(err) {
		t.Errorf("a user for whom there is no room: %v", err)
	}
	if text, err := os.ReadFile(users); err != nil || string(text) != before {
		t.Errorf("%d bytes, %v; want the %d from before", len(text), err, len(before))
	}
}

// Whenever the writing ends, and whatever becomes of the part that was being written,
// all who should be able to log in are.
func TestUsersFileRewrittenHalfway(t *testing.T) {
	t.Parallel()
	kim, ann, bob := userLine(t, "kim", "1"), userLine(t, "ann", "1"), userLine(t, "bob", "1")
	changed := userLine(t, "kim", "2")
	for _, x := range []struct{ name, before, after string }{
		{"added", kim + ann, kim + ann + bob},
		{"to none", "", kim},
		{"changed", kim + ann, changed + ann},
		{"removed", kim + ann + bob, ann + bob},
		{"removed all", kim, ""},
		{"without a line's end", kim + strings.TrimSuffix(ann, "\n"), kim + ann + bob},
	} {
		want, _ := parseUsers([]byte(x.after))
		path := filepath.Join(t.TempDir(), "htpasswd")
		if err := os.WriteFile(path, []byte(x.before), 0o600); err != nil {
			t.Fatal(err)
		}
		look := func(point string, torn int) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			copy(text, strings.Repeat("x", torn))
			got, _ := parseUsers(text)
			for name, hash := range want {
				if got[name] != hash {
					t.Errorf("%s, %s, %d bytes torn: %s cannot log in", x.name, point, torn, name)
				}
			}
		}
		err := rewriteInPlace(path, x.after, func(point string) {
			torn := 0
			if point == "behind" { // the front is written next
				torn = len(x.after)
			}
			for n := range torn + 1 {
				look(point, n)
			}
		})
		if text, e := os.ReadFile(path); err != nil || e != nil || string(text) != x.after {
			t.Errorf("%s: %q, %v, %v", x.name, text, err, e)
		}
	}
}
