// People whom somebody else knows: login.toml says where.
//
// A directory (auth_ldap.go) is asked when somebody logs in with a password. A provider of
// single sign-on (auth_oidc.go) sends people to the page /login, where they get a token.
// Neither is asked at a start, nor without a login.
//
// Whatever comes from there keeps its origin in its name. In rules a person is ldap:ann or
// oidc:ann@example.org, and a group is group:ldap:developers. No local user, token or group of
// policy.toml can have a colon in its name, so nobody who may name people or groups elsewhere
// can make one that a rule means for somebody else. For the same reason a group counts only if
// login.toml names it, and "users" in rules are those of the htpasswd file alone.

package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"
)

// loginFile is the file in the data directory that says who else knows people.
const loginFile = "login.toml"

// The origins of people, as their names begin.
const (
	fromLDAP = "ldap"
	fromOIDC = "oidc"
)

// maxMapped bounds the groups of one origin: a token carries those of its person.
const maxMapped = 100

// markOf tells configurations apart, by what is written in them. Tokens of those who logged in by
// one are worth nothing under another.
func markOf(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and truth values
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// within makes a file's name one that does not depend on the working directory; "" stays.
func within(dir, file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// isGroupName reports whether login.toml may give a group a name.
func isGroupName(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(c rune) bool {
		return c != '.' && c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	})
}

// checkGroups refuses groups that cannot be.
func checkGroups(groups map[string]string) error {
	if len(groups) > maxMapped {
		return fmt.Errorf("%d groups, at most %d", len(groups), maxMapped)
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		switch {
		case !isGroupName(name):
			return fmt.Errorf("%q cannot be a group's name: use letters, digits and . _ -", name)
		case strings.ContainsFunc(groups[name], unicode.IsControl):
			return fmt.Errorf("group %s: %q cannot be a group: it has a character that cannot be seen", name, groups[name])
		case groups[name] == "":
			return fmt.Errorf("group %s: say which group it is there", name)
		}
	}
	return nil
}

// personOf is somebody whom an origin calls name. The error says why nobody can have it.
func personOf(origin, name string) (person, error) {
	if name != "" && inSmallLetters(name) == "" {
		return person{}, fmt.Errorf("%.80q cannot be a person's name here: it has a letter that looks like another", name)
	}
	name = inSmallLetters(name)
	if err := checkPersonName(name); err != nil {
		return person{}, err
	}
	return person{user: origin + ":" + name}, nil
}

// inSmallLetters is a text in small letters; "" if another text with other letters would be the
// same then, as the sign for kelvin becomes a k. Otherwise somebody could take another's name.
func inSmallLetters(text string) string {
	if strings.ContainsFunc(text, func(c rune) bool { return c > unicode.MaxASCII && unicode.ToLower(c) <= unicode.MaxASCII }) {
		return ""
	}
	return strings.ToLower(text)
}

// checkPersonName refuses what cannot be the name of somebody whom others know.
func checkPersonName(name string) error {
	if err := checkUserName(name); err != nil {
		return err
	}
	strange := func(c rune) bool {
		return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("._-+@'~", c)
	}
	if strings.ContainsFunc(name, strange) || strings.ToLower(name) != name {
		return fmt.Errorf("%.80q cannot be a person's name here: names from a directory have small letters, digits and . _ - + @ ' ~", name)
	}
	return nil
}

// parsePerson reads a person of a rule, as ldap:ann; whole is set for ldap:*, which is everybody
// from there. ok is false for what begins with no origin.
func parsePerson(text string) (origin string, whole, ok bool, err error) {
	origin, name, found := strings.Cut(text, ":")
	if !found || origin != fromLDAP && origin != fromOIDC {
		return "", false, false, nil
	}
	if name == "*" {
		return origin, true, true, nil
	}
	return origin, false, true, checkPersonName(name)
}

// isMapped reports whether a group of a rule, without its "group:", is one of login.toml.
func isMapped(group string) bool {
	origin, name, _ := strings.Cut(group, ":")
	return (origin == fromLDAP || origin == fromOIDC) && isGroupName(name)
}

// mappedGroups are the names that rules have for the groups of an origin, of which has says
// whether a person is in one.
func mappedGroups(origin string, groups map[string]string, has func(theirs string) bool) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if has(groups[name]) {
			list = append(list, "group:"+origin+":"+name)
		}
	}
	return list
}

// maxSecret bounds a secret in a file, in bytes.
const maxSecret = 4 << 10

// readSecret reads a secret that stands in a file of its own, without the line's end. It refuses
// a file that everybody on the machine may read.
func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("the secret %s is not a file", file)
	}
	if runtime.GOOS != "windows" && info.Mode()&0o007 != 0 {
		return "", fmt.Errorf("the secret %s may be read by every user of this machine: chmod 600 %[1]s", file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("the secret %s is empty", file)
	}
	return secret, nil
}

// readCAs reads the certificates in a PEM file; nil, for those of the system, if file is "".
func readCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, _, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("ca-file: there is no certificate in %s", file)
	}
	return pool, nil
}

// askEvery is how long an origin that could not be asked is left alone. Meanwhile whoever wants
// to log in is told so at once.
const askEvery = 5 * time.Second
