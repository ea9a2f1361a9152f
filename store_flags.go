// Flags of the server that are remembered, for commands that run without one.

package main

import (
	"database/sql"
	"path/filepath"
	"time"
)

// rememberFlags has commands that come when no server runs collect no more than
// the server would, and know where its users and rules are.
func rememberFlags(st *store) error {
	if st.writer == nil {
		return nil
	}
	elsewhere := func(path, name string) any {
		if abs, err := filepath.Abs(path); err == nil && path != "" && path != filepath.Join(st.dir, name) {
			return abs
		}
		return nil
	}
	flags := []any{int64(st.grace), int64(st.untaggedGrace), int64(st.uploadExpiry),
		elsewhere(st.usersFile, usersFile), elsewhere(st.policyFile, policyFile)}
	var same bool
	err := st.get(`SELECT grace IS NOT DISTINCT FROM ? AND untagged_grace IS NOT DISTINCT FROM ? AND upload_expiry IS NOT DISTINCT FROM ?
		AND users_file IS NOT DISTINCT FROM ? AND policy_file IS NOT DISTINCT FROM ? FROM meta`, flags, &same)
	if err != nil || same {
		return err
	}
	return st.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE meta SET grace = ?, untagged_grace = ?, upload_expiry = ?, users_file = ?, policy_file = ?`, flags...)
		return err
	})
}

// recallFlags takes the flags of the server that had the directory last, except
// those that are given.
func recallFlags(st *store, given map[string]bool) error {
	var grace, untagged, expiry sql.NullInt64
	var users, policy sql.NullString
	if err := st.get(`SELECT grace, untagged_grace, upload_expiry, users_file, policy_file FROM meta`, nil,
		&grace, &untagged, &expiry, &users, &policy); err != nil {
		return err
	}
	if users.Valid && !given["htpasswd"] {
		st.usersFile = users.String
	}
	if policy.Valid && !given["policy"] {
		st.policyFile = policy.String
	}
	for _, x := range []struct {
		flag string
		was  sql.NullInt64
		to   *time.Duration
	}{{"grace", grace, &st.grace}, {"untagged-grace", untagged, &st.untaggedGrace}, {"upload-expiry", expiry, &st.uploadExpiry}} {
		if x.was.Valid && !given[x.flag] {
			*x.to = time.Duration(x.was.Int64)
		}
	}
	return nil
}

// rememberedFiles is where the server that had the database in path last had its users
// and rules, "" each if they were in the data directory, or if there was none.
func rememberedFiles(path string) (users, policy string, err error) {
	if there, err := isThere(path); err != nil || !there {
		return "", "", err
	}
	db, err := openToLook(path)
	if err != nil {
		return "", "", err
	}
	defer db.Close()
	var version int
	if err := db.QueryRow(`PRAGMA user_version`).Scan(&version); err != nil || version == 0 {
		return "", "", err // an empty one remembers nothing
	}
	err = db.QueryRow(`SELECT coalesce(users_file, ''), coalesce(policy_file, '') FROM meta`).Scan(&users, &policy)
	return users, policy, err
}
