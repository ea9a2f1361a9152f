// Upload sessions that were abandoned, or whose owner is no more.
//
// First the row is removed, then the file, and only while no request has the session.

package main

import (
	"database/sql"
	"errors"
	"time"
)

// dropUploads ends the sessions of owners who are no more: nobody can go on with
// them. It looks only when there may be some. A request that is at work on one ends
// with its next bytes.
func (st *store) dropUploads(c *tally) (err error) {
	if !st.ownersGone.CompareAndSwap(true, false) {
		return nil
	}
	defer func() {
		if err != nil {
			st.ownersGone.Store(true)
		}
	}()
	for after := ""; ; {
		list, err := listRows(st, scanSession, `SELECT id, repository, owner FROM upload WHERE id > ? ORDER BY id LIMIT ?`, after, atOnce)
		if err != nil {
			return err
		}
		for _, x := range list {
			after = x.id
			may, sure := st.host.mayUpload(x.owner)
			if !may && !sure {
				st.ownersGone.Store(true)
			}
			if may || !sure {
				continue
			}
			if err := st.dropUpload(x.id, x.repository, x.owner, c); err != nil {
				return err
			}
		}
		if len(list) < atOnce {
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
func (st *store) dropUpload(id, repository, owner string, c *tally) error {
	u, err := st.findUpload(repository, id, owner)
	if errors.Is(err, errBlobUploadUnknown) {
		return nil // ended meanwhile
	}
	if err != nil {
		return err
	}
	select {
	case u.turn <- struct{}{}:
	default: // the request that is at work stops, and has this looked at again
		st.at("at work")
		u.given.Store(true)
		st.ownersGone.Store(true)
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
	if err := st.endUpload(u); err != nil {
		return err
	}
	c.Uploads++
	st.log.Info("upload ended with its owner", "repository", repository, "upload", id, "owner", owner)
	return nil
}

// forgetOwners has the uploads of owners who are no more ended.
func (st *store) forgetOwners() {
	st.ownersGone.Store(true)
	notify(st.trashed)
}

// ownersSettle is for how long the users' file must have said the same before uploads end
// by it: longer than it takes to write one.
const ownersSettle = 10 * time.Second

// doubtOwners is forgetOwners for what the users' file says, which is looked at again
// before it is believed.
func (st *store) doubtOwners() {
	st.ownersSure.Store(int64(st.uptime() + ownersSettle))
	st.forgetOwners()
}

// untilSure is how long it is until the users' file is believed.
func (st *store) untilSure() time.Duration {
	return max(0, time.Duration(st.ownersSure.Load())-st.uptime())
}

// expireUploads ends sessions that were idle for the expiry.
func (st *store) expireUploads(g graces, c *tally) error {
	if err := st.dropUploads(c); err != nil {
		return err
	}
	cutoff := st.cutoff(g.upload)
	for {
		n, err := st.expireSome(cutoff, c)
		if err != nil || n < atOnce {
			return err
		}
	}
}

// expireSome looks at some of the sessions that nobody has used since the cutoff, and
// returns at how many: each has ended then, or was used after all.
func (st *store) expireSome(cutoff int64, c *tally) (n int, err error) {
	due, err := listRows(st, scanSession, `SELECT id, repository, owner FROM upload WHERE used < ? ORDER BY used LIMIT ?`, cutoff, atOnce)
	if err != nil {
		return 0, err
	}
	for _, x := range due {
		u, err := st.findUpload(x.repository, x.id, x.owner)
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
			if err := st.touchUpload(u); err != nil {
				return 0, err
			}
			continue
		}
		expired, bytes := false, u.offset.Load()
		if !u.ended {
			expired, err = st.expireUpload(u, cutoff)
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
		st.log.Info("upload expired", "repository", x.repository, "upload", x.id)
	}
	return len(due), nil
}

// expireUpload ends a session if it is still idle. The caller holds the turn.
func (st *store) expireUpload(u *upload, cutoff int64) (expired bool, err error) {
	err = st.updateLazy(func(t *tx) error {
		n, err := t.exec(`DELETE FROM upload WHERE id = ? AND used < ?`, u.id, cutoff)
		expired = n > 0
		return err
	})
	if err == nil && expired {
		st.dropFile(u)
		st.forget(u)
	}
	return expired, err
}

// touchUpload starts a session's expiry anew.
func (st *store) touchUpload(u *upload) error {
	return st.updateLazy(func(t *tx) error {
		_, err := t.exec(`UPDATE upload SET used = ? WHERE id = ?`, t.clock, u.id)
		return err
	})
}

// idleNow is how long nobody must have continued an upload for `berth gc --now` to
// end it: longer than a push takes from one request to the next.
const idleNow = 10 * time.Second

// gracesNow are those of `berth gc --now`. Where nobody serves, no push is under way.
func (st *store) gracesNow() graces {
	g := st.graces()
	g.now = true
	if g.upload = min(g.upload, idleNow); !st.host.serves() {
		g.upload = -time.Second // this second's too
	}
	return g
}
