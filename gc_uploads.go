// Upload sessions that were abandoned, or whose owner is no more.
//
// First the row is removed, then the file, and only while no request has the session.

package main

import (
	"database/sql"
	"errors"
)

// dropUploads ends the sessions of owners who are no more: nobody can go on with
// them. It looks only when there may be some. A request that is at work on one ends
// with its next bytes.
func (gc *collector) dropUploads(c *tally) (err error) {
	if !gc.ownersGone.CompareAndSwap(true, false) {
		return nil
	}
	defer func() {
		if err != nil {
			gc.ownersGone.Store(true)
		}
	}()
	for after := ""; ; {
		list, err := listRows(gc, scanSession, `SELECT id, repository, owner FROM upload WHERE id > ? ORDER BY id LIMIT ?`, after, collectAtOnce)
		if err != nil {
			return err
		}
		for _, x := range list {
			after = x.id
			may, sure := gc.host.mayUpload(x.owner)
			if !may && !sure {
				gc.ownersGone.Store(true)
			}
			if may || !sure {
				continue
			}
			if err := gc.dropUpload(x.id, x.repository, x.owner, c); err != nil {
				return err
			}
		}
		if len(list) < collectAtOnce {
			return nil
		}
	}
}

type sessionRow struct{ id, repository, owner string }

func scanSession(rows *sql.Rows) (x sessionRow, err error) {
	err = rows.Scan(&x.id, &x.repository, &x.owner)
	return x, err
}

// dropUpload ends a session whose owner is no more.
func (gc *collector) dropUpload(id, repository, owner string, c *tally) error {
	u, err := gc.uploads.find(repository, id, owner)
	if errors.Is(err, errBlobUploadUnknown) {
		return nil // ended meanwhile
	}
	if err != nil {
		return err
	}
	select {
	case u.turn <- struct{}{}:
	default: // the request that is at work stops, and has this looked at again
		gc.at("at work")
		u.given.Store(true)
		gc.ownersGone.Store(true)
		select {
		case u.turn <- struct{}{}: // it has ended, perhaps before it could see that
		default:
			return nil
		}
	}
	defer func() { <-u.turn }()
	if u.ended {
		return nil
	}
	if err := gc.uploads.end(u); err != nil {
		return err
	}
	c.Uploads++
	gc.log.Info("upload ended with its owner", "repository", repository, "upload", id, "owner", owner)
	return nil
}

// expireUploads ends sessions that were idle for the expiry.
func (gc *collector) expireUploads(_ *steps, g graces, c *tally) error {
	if err := gc.dropUploads(c); err != nil {
		return err
	}
	cutoff := gc.cutoff(g.upload)
	for {
		n, err := gc.expireSome(cutoff, c)
		if err != nil || n < collectAtOnce {
			return err
		}
	}
}

// expireSome looks at some of the sessions that nobody has used since the cutoff, and
// returns at how many: each has ended then, or was used after all.
func (gc *collector) expireSome(cutoff int64, c *tally) (n int, err error) {
	due, err := listRows(gc, scanSession, `SELECT id, repository, owner FROM upload WHERE used < ? ORDER BY used LIMIT ?`, cutoff, collectAtOnce)
	if err != nil {
		return 0, err
	}
	for _, x := range due {
		u, err := gc.uploads.find(x.repository, x.id, x.owner)
		if errors.Is(err, errBlobUploadUnknown) {
			continue // ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		select {
		case u.turn <- struct{}{}:
		default:
			// A request has been at work on it all the time.
			if err := gc.touchUpload(u); err != nil {
				return 0, err
			}
			continue
		}
		expired, bytes := false, u.offset.Load()
		if !u.ended {
			expired, err = gc.expireUpload(u, cutoff)
		}
		<-u.turn
		if err != nil {
			return 0, err
		}
		if !expired {
			continue // used again, or ended, meanwhile
		}
		c.Uploads++
		c.Uploaded += bytes
		gc.log.Info("upload expired", "repository", x.repository, "upload", x.id)
	}
	return len(due), nil
}

// expireUpload ends a session if it is still idle. The caller holds the turn.
func (gc *collector) expireUpload(u *upload, cutoff int64) (expired bool, err error) {
	err = gc.updateLazy(func(t *tx) error {
		n, err := t.exec(`DELETE FROM upload WHERE id = ? AND used < ?`, u.id, cutoff)
		expired = n > 0
		return err
	})
	if err == nil && expired {
		gc.uploads.dropFile(u)
		gc.uploads.forget(u)
	}
	return expired, err
}

// touchUpload starts a session's expiry anew.
func (gc *collector) touchUpload(u *upload) error {
	return gc.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE upload SET used = ? WHERE id = ?`, t.clock, u.id)
		return err
	})
}
