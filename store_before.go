// The database as it was before a newer version brought it up to date.
//
// An older Berth refuses a database of a newer one, so a newer one that does not come up would bar
// the way back. Before it changes the schema it therefore keeps a copy, before-upgrade.db, and removes
// that before it serves anybody. While the copy is there, nothing that was acknowledged is missing
// from it: an older Berth that finds the database too new takes the copy back by itself. Once it is
// gone, clients were told things that only the newer database has, and there is no way back.
//
// All of it is safe against a crash at any point: the copy gets its name when it is whole and
// synced; one that is there is never replaced; and it is taken back in one transaction.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
)

const beforeFile = "before-upgrade.db"

// versionOfDatabase is that of a database, of whichever Berth.
func versionOfDatabase(db *sql.DB) (version int, err error) {
	var id int
	err = db.QueryRow(`SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version)`).Scan(&id, &version)
	if err == nil && id != applicationID {
		err = errors.New("it is not a database of Berth's")
	}
	return version, err
}

// keepBefore keeps a copy of the database, unless there is one: that is of an upgrade which did not end.
func (db *database) keepBefore(ctx context.Context, conn *sql.Conn) error {
	path := filepath.Join(db.dir, beforeFile)
	if there, err := isThere(path); there || err != nil {
		return err
	}
	temp := path + ".new"
	empty, err := createAnew(temp) // SQLite fills it, and would make one that all may read
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := empty.Close(); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "VACUUM INTO ?", temp); err != nil {
		return fmt.Errorf("copying the database, as it must be before it is brought up to date: %w", err)
	}
	f, err := os.OpenFile(temp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(syncData(f), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(db.dir)
}

// forgetBefore ends the way back. The caller serves nobody before it has returned.
func (db *database) forgetBefore() error {
	if _, err := removeSynced(filepath.Join(db.dir, beforeFile)); err != nil {
		return fmt.Errorf("removing the copy of the database from before its upgrade: %w", err)
	}
	return nil
}

// takeBack makes the database what it was before a newer Berth brought it up to date, if that one has never
// served. Nobody has the database open, and the directory is this process's.
func (db *database) takeBack(ctx context.Context) error {
	path, copied := filepath.Join(db.dir, "berth.db"), filepath.Join(db.dir, beforeFile)
	if there, err := isThere(copied); !there || err != nil {
		return err
	}
	version := func(path string) (int, error) {
		db, err := openToLook(path)
		if err != nil {
			return 0, err
		}
		defer db.Close()
		return versionOfDatabase(db)
	}
	is, err := version(path)
	if err != nil || is <= latestVersion {
		return nil // what is wrong with it is said where it is opened
	}
	was, err := version(copied)
	if err != nil {
		return fmt.Errorf("%s: %w", copied, err)
	}
	if otherVersion(copied, was) != nil {
		return nil
	}
	to, err := sql.Open("sqlite", dsnOf(path, url.Values{}, "synchronous(FULL)", "fullfsync(1)", "checkpoint_fullfsync(1)"))
	if err != nil {
		return err
	}
	defer to.Close()
	conn, err := to.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		restore, err := c.(interface {
			NewRestore(string) (*sqlite.Backup, error)
		}).NewRestore(dsnOf(copied, url.Values{}))
		if err != nil {
			return err
		}
		_, err = restore.Step(-1)
		return errors.Join(err, restore.Finish())
	})
	if err != nil {
		return fmt.Errorf("taking back %s: %w", copied, err)
	}
	db.log.Warn("a newer berth has brought the database up to date and never served; it is again as it was before", "version", was, "not", is)
	return nil
}
