// Repositories: a row is made with the first thing that comes into one, and removed with the last.

package main

import (
	"database/sql"
	"errors"
)

// A storedRepository is a row of that table.
type storedRepository struct {
	id   int64
	name string
}

// findRepository returns a repository; errNameUnknown if there is none.
func (t *tx) findRepository(name string) (repo storedRepository, err error) {
	repo.name = name
	err = t.get(`SELECT id FROM repository WHERE name = ?`, []any{name}, &repo.id)
	if errors.Is(err, sql.ErrNoRows) {
		err = errNameUnknown.with(map[string]string{"name": name})
	}
	return repo, err
}

// makeRepository returns a repository, which it makes if need be.
func (t *tx) makeRepository(name string) (storedRepository, error) {
	repo, err := t.findRepository(name)
	if errors.Is(err, errNameUnknown) {
		err = t.get(`INSERT INTO repository (name) VALUES (?) RETURNING id`, []any{name}, &repo.id)
	}
	return repo, err
}

// dropRepository forgets a repository that has nothing left.
func (t *tx) dropRepository(repo int64) error {
	_, err := t.exec(`DELETE FROM repository WHERE id = ?1
		AND NOT EXISTS (SELECT 1 FROM link WHERE repository = ?1)
		AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository = ?1)`, repo)
	return err
}
