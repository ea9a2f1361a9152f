// The environment: a variable for each flag, and none that means nothing.
//
// Who mistypes BERTH_DATA starts another registry than the one that was meant, so a variable
// that begins with BERTH_ and is no flag's is refused, as a flag would be. Kubernetes and Docker
// make variables of their own for a service or container that is called berth; these are told by
// their form. Variables of registry:2, which Berth does not read, are left over from a move: a server warns of them.

package main

import (
	"flag"
	"runtime"
	"slices"
	"strings"
)

// An environment is the variables of a process, as NAME=VALUE.
type environment []string

// lookup returns the value of a variable, and whether it is set.
func (env environment) lookup(name string) (value string, ok bool) {
	for _, variable := range env {
		if key, value, _ := strings.Cut(variable, "="); sameVariable(key, name) {
			return value, true
		}
	}
	return "", false
}

// sameVariable reports whether two names are of the same variable: on Windows, case does not matter.
func sameVariable(a, b string) bool {
	return a == b || runtime.GOOS == "windows" && strings.EqualFold(a, b)
}

// variableOf is the variable of a flag.
func variableOf(flag string) string {
	return "BERTH_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// flagName matches a flag in an error.
var flagName = expression(`--[a-z][a-z-]*`)

// asGiven has an error about flags name the variables of those that only a variable has set. nil stays nil.
func (cfg *config) asGiven(err error) error {
	if err == nil {
		return nil
	}
	text := flagName().ReplaceAllStringFunc(err.Error(), func(flag string) string {
		if name := strings.TrimPrefix(flag, "--"); cfg.byEnv[name] {
			return variableOf(name)
		}
		return flag
	})
	if text == err.Error() {
		return err
	}
	return plainError{text, err}
}

// serviceVariable has the form of what Kubernetes sets for a Service called berth, or berth-…,
// and Docker for a linked container: with the latter's names and environment.
var serviceVariable = expression(`^BERTH_(\w+_)?(` +
	`SERVICE_HOST=|SERVICE_PORT(_\w+)?=\d+$|` +
	`PORT=(tcp|udp|sctp)://|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|NAME=/|ENV_\w+=)`)

// distributionVariable has the form of what registry:2 (distribution) reads. Others have variables that
// begin with REGISTRY_, too: REGISTRY_AUTH_FILE is of Podman and skopeo.
var distributionVariable = expression(`^REGISTRY_(AUTH|AUTH_(HTPASSWD|TOKEN|SILLY)_\w+|STORAGE|LOGLEVEL|` +
	`(CATALOG|COMPATIBILITY|HEALTH|HTTP|LOG|MIDDLEWARE|NOTIFICATIONS|POLICY|PROXY|REDIS|REPORTING|STORAGE|VALIDATION)_\w+)$`)

// distributionLoss has the form of the variables without which something is missing or unprotected that
// registry:2 did: it was a mirror, kept images elsewhere than in files, sent events, or took tokens of others.
var distributionLoss = expression(`^REGISTRY_(PROXY_|NOTIFICATIONS_|AUTH_TOKEN_|AUTH_SILLY_|REDIS_|MIDDLEWARE_|` +
	`STORAGE_(S3|AZURE|GCS|SWIFT|OSS|INMEMORY)_|AUTH=(token|silly)$|STORAGE=(s3|azure|gcs|swift|oss|inmemory))`)

// losses are those of the variables of registry:2 that mean a loss, by their names.
func (env environment) losses(names []string) (lost []string) {
	for _, name := range names {
		if value, _ := env.lookup(name); distributionLoss().MatchString(name + "=" + value) {
			lost = append(lost, name)
		}
	}
	return lost
}

// ofDistribution returns the names of the variables that are for registry:2.
func (env environment) ofDistribution() (names []string) {
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		if value != "" && strings.HasPrefix(name, "REGISTRY_") && distributionVariable().MatchString(name) && !serviceVariable().MatchString("BERTH_"+variable) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// refuseUnknown returns an error if a variable begins with BERTH_ and is no flag's, of
// whichever command.
func (env environment) refuseUnknown() error {
	var known []string // without the prefix
	for _, c := range commands {
		newFlags(c.name, &config{}, &textFlags{}).VisitAll(func(f *flag.Flag) { known = append(known, strings.TrimPrefix(variableOf(f.Name), "BERTH_")) })
	}
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		if runtime.GOOS == "windows" { // where case does not matter
			name = strings.ToUpper(name)
		}
		if !strings.HasPrefix(name, "BERTH_") || strings.HasPrefix(name, eventVariable) || value == "" || slices.Contains(known, strings.TrimPrefix(name, "BERTH_")) || serviceVariable().MatchString(name+"="+value) {
			continue
		}
		if name == "BERTH_PORT" { // which is nearer to others than to what it means
			return usageErrorf("the environment variable BERTH_PORT is unknown: the port is part of BERTH_ADDR, such as BERTH_ADDR=:5001")
		}
		if near := similar(strings.TrimPrefix(name, "BERTH_"), known); near != "" {
			return usageErrorf("the environment variable %s is unknown; is it meant to be BERTH_%s?", name, near)
		}
		return usageErrorf("the environment variable %s is unknown: Berth has none but those of its flags, such as BERTH_DATA for --data (see berth -h). Unset it", name)
	}
	return nil
}
