// The database's tables, and how an older database gets them.
//
// schema is the version of this build, with which a new database begins. upgrades lead an older
// database there, a version a step. Once a version was released, the way from it stays: its
// step is never changed, and what comes later is appended, to schema and to upgrades.
// TestUpgradedIsLikeNew holds the two against each other.
//
// Times are uptime in seconds (store.uptime), since a board without a battery clock jumps by
// years; where people read them there is Unix time beside it. Booleans are 0 and 1. A digest is
// text, as sha256:… . A column that is NULL says in its comment what that means; all others
// never are.
//
// What is stored, what of it nothing uses and what several repositories share is summed up by
// triggers, in the transaction that changes it: so the figures are exact at any time and cost
// nothing to read, whoever writes. check counts again.

package main

import (
	"errors"
	"fmt"
)

// applicationID marks a SQLite file as Berth's ("Brth").
const applicationID = 0x42727468

// oldestVersion is that of the oldest database that can be brought up to date. No earlier one
// was released.
const oldestVersion = 8

// latestVersion is that of schema.
var latestVersion = oldestVersion + len(upgrades)

// schema creates the tables. Their columns are in the order that an upgraded database has.
const schema = `
-- The registry itself, in one row.
CREATE TABLE meta (
	one            INTEGER PRIMARY KEY CHECK (one = 1),
	uptime         INTEGER NOT NULL,            -- how long this directory has been served, in seconds
	id             TEXT NOT NULL DEFAULT '',    -- random; a copy has the same
	grace          INTEGER,                     -- --grace of the server that had it last, in nanoseconds; NULL if none had
	untagged_grace INTEGER,                     -- --untagged-grace, as grace
	upload_expiry  INTEGER,                     -- --upload-expiry, as grace
	stale          INTEGER NOT NULL DEFAULT 0,  -- 1 if something has changed since the last snapshot (backup_snapshot.go)
	sparse         INTEGER NOT NULL DEFAULT 0,  -- 1 if manifests were ever taken without their content (--sparse-manifests)
	scrub_place    TEXT NOT NULL DEFAULT '',    -- the last digest that the scrub under way has read; '' if none is
	scrubbed       INTEGER NOT NULL DEFAULT 0,  -- uptime when the last whole scrub ended
	users_file     TEXT,                        -- where the server that had it last found its users
	policy_file    TEXT,                        -- and rules; NULL for the files in the data directory
	changes        INTEGER NOT NULL DEFAULT 0,  -- the highest history.change when some were forgotten
	guarded        INTEGER NOT NULL DEFAULT 0   -- 1 if there are, or were, users or rules about people: without them it is not open
) STRICT;
INSERT INTO meta (one, uptime, id) VALUES (1, 0, lower(hex(randomblob(16))));

CREATE TABLE repository (
	id              INTEGER PRIMARY KEY,
	name            TEXT NOT NULL UNIQUE,       -- of a deleted one made up: no client can ask for it, and no other has it
	tags            INTEGER NOT NULL DEFAULT 0, -- how many it has; this and the rest up to loose_bytes is counted by triggers
	manifests       INTEGER NOT NULL DEFAULT 0, -- deleted ones too
	loose_manifests INTEGER NOT NULL DEFAULT 0,
	manifest_bytes  INTEGER NOT NULL DEFAULT 0,
	blobs           INTEGER NOT NULL DEFAULT 0, -- links
	bytes           INTEGER NOT NULL DEFAULT 0, -- of those blobs
	shared_blobs    INTEGER NOT NULL DEFAULT 0, -- that other repositories have too
	shared_bytes    INTEGER NOT NULL DEFAULT 0,
	loose_blobs     INTEGER NOT NULL DEFAULT 0, -- whose link is loose
	loose_bytes     INTEGER NOT NULL DEFAULT 0,
	deleted         INTEGER,                    -- uptime when a client has deleted it; NULL if it is there
	emptying        INTEGER NOT NULL DEFAULT 0  -- 1 once the collector has taken a part of it: it cannot be restored any more
) STRICT;
-- For the collector, which of many repositories wants the few that are deleted.
CREATE INDEX repository_deleted ON repository (deleted) WHERE deleted IS NOT NULL;

-- A row implies a file with these bytes (1 in store.go); until that is synced unsynced has a row.
CREATE TABLE blob (
	id      INTEGER PRIMARY KEY,
	digest  TEXT NOT NULL UNIQUE,
	size    INTEGER NOT NULL,           -- in bytes
	damaged TEXT,                       -- what is wrong with the bytes, in words; NULL if nothing is known to be
	links   INTEGER NOT NULL DEFAULT 0, -- how many repositories have it,
	kept    INTEGER NOT NULL DEFAULT 0  -- and in how many of them it is not loose: counted by triggers
) STRICT;
-- For check and the figures, which want the few that are damaged.
CREATE INDEX blob_damaged ON blob (digest) WHERE damaged IS NOT NULL;

-- A blob that was pushed or mounted to a repository.
CREATE TABLE link (
	repository INTEGER NOT NULL REFERENCES repository,
	blob       INTEGER NOT NULL REFERENCES blob,
	loose      INTEGER, -- uptime since when nothing refers to it; NULL while something does
	hidden     INTEGER, -- uptime since when it is not there for clients: only deleted manifests use the blob, and nobody has
	                    -- pushed it since; NULL if it is there
	PRIMARY KEY (repository, blob)
) STRICT, WITHOUT ROWID;
-- Who has a blob: when it is deleted, and for its foreign key.
CREATE INDEX link_blob ON link (blob);
-- For the collector: the oldest first.
CREATE INDEX link_loose ON link (loose) WHERE loose IS NOT NULL;

CREATE TABLE manifest (
	id            INTEGER PRIMARY KEY,
	repository    INTEGER NOT NULL REFERENCES repository,
	digest        TEXT NOT NULL,
	media_type    TEXT NOT NULL,
	loose         INTEGER,                    -- uptime since when nothing refers to it, or since it was deleted; NULL while something does
	subject       TEXT,                       -- the digest this one is about; NULL for none
	artifact_type TEXT NOT NULL,              -- '' for none
	annotations   TEXT,                       -- JSON; NULL for none, and without a subject
	body          BLOB NOT NULL,              -- the bytes as they came
	damaged       TEXT,                       -- as in blob
	deleted       INTEGER,                    -- uptime when a client has deleted it; it is not there for anybody then. NULL if it is
	platform      TEXT,                       -- of an image, as JSON; '' for all else, NULL if nobody has looked
	made          INTEGER NOT NULL DEFAULT 0, -- 1 if the registry has made it (tag_platforms.go)
	met           INTEGER NOT NULL DEFAULT 0, -- 1 if its subject has been in the repository since it came
	sparse        INTEGER NOT NULL DEFAULT 0, -- 1 if it is an index that was imported without all of its members
	UNIQUE (repository, digest)
) STRICT;
-- The list of referrers, in the order of its pages.
CREATE INDEX manifest_subject ON manifest (repository, subject, digest) WHERE subject IS NOT NULL;
-- For the collector: the oldest first, and where untagged manifests are kept only the deleted.
CREATE INDEX manifest_loose ON manifest (loose) WHERE loose IS NOT NULL;
CREATE INDEX manifest_deleted ON manifest (loose, id) WHERE deleted IS NOT NULL;
-- For check.
CREATE INDEX manifest_damaged ON manifest (digest) WHERE damaged IS NOT NULL;

-- The blobs that a manifest refers to.
CREATE TABLE uses (
	repository INTEGER NOT NULL, -- the manifest's
	blob       INTEGER NOT NULL,
	manifest   INTEGER NOT NULL REFERENCES manifest,
	PRIMARY KEY (repository, blob, manifest),
	FOREIGN KEY (repository, blob) REFERENCES link
) STRICT, WITHOUT ROWID;
-- What a manifest refers to; the key tells what refers to a blob.
CREATE INDEX uses_manifest ON uses (manifest);

-- What a manifest names by digest alone: an index's members, foreign layers.
CREATE TABLE names (
	repository INTEGER NOT NULL, -- the manifest's
	digest     TEXT NOT NULL,    -- it need not be here
	manifest   INTEGER NOT NULL REFERENCES manifest,
	PRIMARY KEY (repository, digest, manifest)
) STRICT, WITHOUT ROWID;
-- What a manifest names; the key tells what names a digest.
CREATE INDEX names_manifest ON names (manifest);

CREATE TABLE tag (
	repository INTEGER NOT NULL REFERENCES repository,
	name       TEXT NOT NULL,
	manifest   INTEGER NOT NULL REFERENCES manifest,
	pushed     INTEGER NOT NULL DEFAULT 0, -- uptime of the last push,
	time       INTEGER NOT NULL DEFAULT 0, -- in Unix time, 0 if that is not known,
	change     INTEGER NOT NULL DEFAULT 0, -- and its history.change; 0 for none
	made       INTEGER NOT NULL DEFAULT 0, -- 1 if the registry has put it on an index of its own
	spared     INTEGER NOT NULL DEFAULT 0, -- uptime until which retention leaves it alone, since it was restored
	PRIMARY KEY (repository, name)
) STRICT, WITHOUT ROWID;
-- Whether a manifest has tags.
CREATE INDEX tag_manifest ON tag (manifest);

CREATE TABLE upload (
	id         TEXT PRIMARY KEY,           -- a UUID; the bytes are in uploads/<id>
	repository TEXT NOT NULL,              -- by name: it may not exist yet
	algorithm  TEXT NOT NULL,              -- of the digest the client means to use
	offset     INTEGER NOT NULL,           -- bytes acknowledged
	used       INTEGER NOT NULL,           -- uptime of the last request
	owner      TEXT NOT NULL DEFAULT '',   -- whose it is (caller.id in auth_caller.go); '' for anonymous's
	begun      INTEGER NOT NULL DEFAULT 0  -- uptime of the first request
) STRICT, WITHOUT ROWID;
-- Which has been idle longest.
CREATE INDEX upload_used ON upload (used);

-- Files whose row is gone and that are still to be removed.
CREATE TABLE trash (
	digest TEXT PRIMARY KEY,
	size   INTEGER NOT NULL DEFAULT 0 -- in bytes
) STRICT, WITHOUT ROWID;

-- Of all blobs, in one row; counted by triggers.
CREATE TABLE total (
	one          INTEGER PRIMARY KEY CHECK (one = 1),
	blobs        INTEGER NOT NULL,
	bytes        INTEGER NOT NULL,
	shared_blobs INTEGER NOT NULL, -- those in several repositories
	shared_bytes INTEGER NOT NULL,
	loose_blobs  INTEGER NOT NULL, -- those loose in all they are in
	loose_bytes  INTEGER NOT NULL
) STRICT;
INSERT INTO total (one, blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes) VALUES (1, 0, 0, 0, 0, 0, 0);

-- The tokens of robots, and of people who log in elsewhere (auth_robots.go). Their times are those of the wall clock, as
-- people count them, in Unix seconds.
CREATE TABLE token (
	id           TEXT PRIMARY KEY,
	name         TEXT NOT NULL UNIQUE,
	secret       BLOB NOT NULL,    -- SHA-256 of it
	repositories TEXT NOT NULL,    -- patterns, with spaces between
	allow        TEXT NOT NULL,    -- actions, with spaces between
	created      INTEGER NOT NULL,
	expires      INTEGER,          -- NULL for never
	used         INTEGER NOT NULL, -- the last time, to the hour; 0 for never
	owner        TEXT NOT NULL DEFAULT '',  -- whose it is, as oidc:NAME, who may do what rules say; '' for a robot's
	issuer       TEXT NOT NULL DEFAULT '',  -- who has said that; '' for a robot's
	member       TEXT NOT NULL DEFAULT '[]' -- a JSON list: the groups that the issuer has said the owner is in, and the domain (domainMark)
) STRICT, WITHOUT ROWID;

-- When a manifest was last pulled, to the hour.
CREATE TABLE pull (
	manifest INTEGER PRIMARY KEY REFERENCES manifest ON DELETE CASCADE,
	at       INTEGER NOT NULL, -- uptime
	time     INTEGER NOT NULL  -- Unix time
) STRICT;

-- What was done to tags, manifests and repositories (history.go).
CREATE TABLE history (
	change     INTEGER NOT NULL, -- what was done at once has one number
	n          INTEGER NOT NULL, -- its steps count from 1
	at         INTEGER NOT NULL, -- uptime
	time       INTEGER NOT NULL, -- Unix time, for people
	who        TEXT NOT NULL,    -- a user, token:NAME, anonymous; of a command the account
	client     TEXT NOT NULL,    -- the address; '' for a command
	action     TEXT NOT NULL,    -- push, tag, delete, retention, undo
	why        TEXT NOT NULL,    -- for people; '' if there is nothing to say
	repository TEXT NOT NULL,    -- the name it had
	tag        TEXT,             -- NULL if it is about a manifest, or the repository
	old        TEXT NOT NULL,    -- digest before; of a repository its name; '' for none
	new        TEXT NOT NULL,    -- digest after; of a repository its name, which is another one when it was deleted; '' for none
	made       INTEGER NOT NULL, -- whether the registry has made what a tag pointed at: 1 before, 2 after, 3 both
	kind       TEXT NOT NULL DEFAULT 'tag' CHECK (kind IN ('tag', 'manifest', 'repository')), -- what it is about
	undoes     INTEGER,          -- the change that this one undoes; NULL for none
	PRIMARY KEY (change, n)
) STRICT, WITHOUT ROWID;
-- The history of a repository, or of a tag.
CREATE INDEX history_name ON history (repository, tag, change);

-- Blobs whose files may not be synced yet (store_unsynced.go), and the bytes of small ones (store_small.go).
CREATE TABLE unsynced (
	blob INTEGER PRIMARY KEY REFERENCES blob ON DELETE CASCADE,
	n    INTEGER NOT NULL, -- no two of one process have the same
	body BLOB              -- NULL for those that only their files have
) STRICT;
` + eventTable + triggers

// eventTable has what endpoints have still to get.
const eventTable = `
-- Events on their way (events_queue.go).
CREATE TABLE event (
	n          INTEGER PRIMARY KEY, -- their order
	endpoint   TEXT NOT NULL,       -- the one that is to get it, by name
	repository TEXT NOT NULL,       -- by name: it may be gone
	body       TEXT NOT NULL        -- JSON
) STRICT;
`

// triggers count: the columns of repository, blob and total that say so.
const triggers = `
-- A new blob has no link: it is loose.
CREATE TRIGGER blob_insert AFTER INSERT ON blob BEGIN
	UPDATE total SET blobs = blobs + 1, bytes = bytes + NEW.size,
		loose_blobs = loose_blobs + 1, loose_bytes = loose_bytes + NEW.size;
END;
-- Only a blob without links is deleted.
CREATE TRIGGER blob_delete AFTER DELETE ON blob BEGIN
	UPDATE total SET blobs = blobs - 1, bytes = bytes - OLD.size,
		loose_blobs = loose_blobs - 1, loose_bytes = loose_bytes - OLD.size;
END;
-- Only a size that was wrong changes.
CREATE TRIGGER blob_size AFTER UPDATE OF size ON blob WHEN NEW.size <> OLD.size BEGIN
	UPDATE total SET bytes = bytes + NEW.size - OLD.size,
		shared_bytes = shared_bytes + CASE WHEN NEW.links > 1 THEN NEW.size - OLD.size ELSE 0 END,
		loose_bytes = loose_bytes + CASE WHEN NEW.kept = 0 THEN NEW.size - OLD.size ELSE 0 END;
	UPDATE repository SET bytes = bytes + NEW.size - OLD.size,
		shared_bytes = shared_bytes + CASE WHEN NEW.links > 1 THEN NEW.size - OLD.size ELSE 0 END,
		loose_bytes = loose_bytes + CASE WHEN l.loose IS NULL THEN 0 ELSE NEW.size - OLD.size END
		FROM link l WHERE l.blob = NEW.id AND l.repository = repository.id;
END;
-- When the last link turns loose, or the first is not any more.
CREATE TRIGGER blob_kept AFTER UPDATE OF kept ON blob WHEN (NEW.kept = 0) <> (OLD.kept = 0) BEGIN
	UPDATE total SET loose_blobs = loose_blobs + CASE WHEN NEW.kept = 0 THEN 1 ELSE -1 END,
		loose_bytes = loose_bytes + CASE WHEN NEW.kept = 0 THEN NEW.size ELSE -NEW.size END;
END;
-- When a second repository has it, or no second any more.
CREATE TRIGGER blob_shared AFTER UPDATE OF links ON blob WHEN (NEW.links > 1) <> (OLD.links > 1) BEGIN
	UPDATE total SET shared_blobs = shared_blobs + CASE WHEN NEW.links > 1 THEN 1 ELSE -1 END,
		shared_bytes = shared_bytes + CASE WHEN NEW.links > 1 THEN NEW.size ELSE -NEW.size END;
	-- The other one.
	UPDATE repository SET shared_blobs = shared_blobs + CASE WHEN NEW.links > 1 THEN 1 ELSE -1 END,
		shared_bytes = shared_bytes + CASE WHEN NEW.links > 1 THEN NEW.size ELSE -NEW.size END
		WHERE id IN (SELECT repository FROM link WHERE blob = NEW.id);
END;
-- A link counts for its repository, and then for its blob, whose triggers count on.
CREATE TRIGGER link_insert AFTER INSERT ON link BEGIN
	UPDATE repository SET blobs = blobs + 1, bytes = bytes + b.size,
		loose_blobs = loose_blobs + CASE WHEN NEW.loose IS NULL THEN 0 ELSE 1 END,
		loose_bytes = loose_bytes + CASE WHEN NEW.loose IS NULL THEN 0 ELSE b.size END,
		shared_blobs = shared_blobs + CASE WHEN b.links > 1 THEN 1 ELSE 0 END, -- at 1 blob_shared counts both
		shared_bytes = shared_bytes + CASE WHEN b.links > 1 THEN b.size ELSE 0 END
		FROM blob b WHERE b.id = NEW.blob AND repository.id = NEW.repository;
	UPDATE blob SET links = links + 1, kept = kept + CASE WHEN NEW.loose IS NULL THEN 1 ELSE 0 END WHERE id = NEW.blob;
END;
CREATE TRIGGER link_delete AFTER DELETE ON link BEGIN
	UPDATE repository SET blobs = blobs - 1, bytes = bytes - b.size,
		loose_blobs = loose_blobs - CASE WHEN OLD.loose IS NULL THEN 0 ELSE 1 END,
		loose_bytes = loose_bytes - CASE WHEN OLD.loose IS NULL THEN 0 ELSE b.size END,
		shared_blobs = shared_blobs - CASE WHEN b.links > 1 THEN 1 ELSE 0 END,
		shared_bytes = shared_bytes - CASE WHEN b.links > 1 THEN b.size ELSE 0 END
		FROM blob b WHERE b.id = OLD.blob AND repository.id = OLD.repository;
	UPDATE blob SET links = links - 1, kept = kept - CASE WHEN OLD.loose IS NULL THEN 1 ELSE 0 END WHERE id = OLD.blob;
END;
CREATE TRIGGER link_loose AFTER UPDATE OF loose ON link WHEN (NEW.loose IS NULL) <> (OLD.loose IS NULL) BEGIN
	UPDATE repository SET loose_blobs = loose_blobs + CASE WHEN NEW.loose IS NULL THEN -1 ELSE 1 END,
		loose_bytes = loose_bytes + CASE WHEN NEW.loose IS NULL THEN -b.size ELSE b.size END
		FROM blob b WHERE b.id = NEW.blob AND repository.id = NEW.repository;
	UPDATE blob SET kept = kept + CASE WHEN NEW.loose IS NULL THEN 1 ELSE -1 END WHERE id = NEW.blob;
END;
-- Manifests and tags count for their repository.
CREATE TRIGGER manifest_insert AFTER INSERT ON manifest BEGIN
	UPDATE repository SET manifests = manifests + 1, manifest_bytes = manifest_bytes + length(NEW.body),
		loose_manifests = loose_manifests + CASE WHEN NEW.loose IS NOT NULL THEN 1 ELSE 0 END WHERE id = NEW.repository;
END;
CREATE TRIGGER manifest_delete AFTER DELETE ON manifest BEGIN
	UPDATE repository SET manifests = manifests - 1, manifest_bytes = manifest_bytes - length(OLD.body),
		loose_manifests = loose_manifests - CASE WHEN OLD.loose IS NOT NULL THEN 1 ELSE 0 END WHERE id = OLD.repository;
END;
CREATE TRIGGER manifest_loose AFTER UPDATE OF loose ON manifest WHEN (NEW.loose IS NULL) <> (OLD.loose IS NULL) BEGIN
	UPDATE repository SET loose_manifests = loose_manifests + CASE WHEN NEW.loose IS NULL THEN -1 ELSE 1 END WHERE id = NEW.repository;
END;
-- Only damaged bytes are replaced.
CREATE TRIGGER manifest_body AFTER UPDATE OF body ON manifest BEGIN
	UPDATE repository SET manifest_bytes = manifest_bytes + length(NEW.body) - length(OLD.body) WHERE id = NEW.repository;
END;
CREATE TRIGGER tag_insert AFTER INSERT ON tag BEGIN
	UPDATE repository SET tags = tags + 1 WHERE id = NEW.repository;
END;
CREATE TRIGGER tag_delete AFTER DELETE ON tag BEGIN
	UPDATE repository SET tags = tags - 1 WHERE id = OLD.repository;
END;
`

// upgrades[i] brings a database from version oldestVersion+i to the next.
var upgrades = []string{
	// To 9: what an undo undoes, and what a step is about, was read from words, and that a
	// repository is being emptied from its name.
	`
ALTER TABLE history ADD COLUMN kind TEXT NOT NULL DEFAULT 'tag' CHECK (kind IN ('tag', 'manifest', 'repository'));
UPDATE history SET kind = CASE WHEN instr(old || new, ':') > 0 THEN 'manifest' ELSE 'repository' END WHERE tag IS NULL;
ALTER TABLE history ADD COLUMN undoes INTEGER;
UPDATE history SET undoes = nullif(CAST(substr(why, 4) AS INTEGER), 0) WHERE action = 'undo';
ALTER TABLE repository ADD COLUMN emptying INTEGER NOT NULL DEFAULT 0;
UPDATE repository SET emptying = 1 WHERE name LIKE '%#';
DROP TRIGGER blob_insert;
DROP TRIGGER blob_delete;
DROP TRIGGER blob_size;
DROP TRIGGER blob_kept;
DROP TRIGGER blob_shared;
DROP TRIGGER link_insert;
DROP TRIGGER link_delete;
DROP TRIGGER link_loose;
DROP TRIGGER manifest_insert;
DROP TRIGGER manifest_delete;
DROP TRIGGER manifest_loose;
DROP TRIGGER manifest_body;
DROP TRIGGER tag_insert;
DROP TRIGGER tag_delete;
` + triggers,
	// To 10: all tokens were robots', and there were no events.
	`
ALTER TABLE token ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE token ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE token ADD COLUMN member TEXT NOT NULL DEFAULT '[]';
` + eventTable,
	// To 11: the database had the bytes of all blobs whose files were not synced, and only a registry as a
	// whole could have indexes without all of their members.
	`
ALTER TABLE unsynced RENAME TO unsynced_before;
CREATE TABLE unsynced (
	blob INTEGER PRIMARY KEY REFERENCES blob ON DELETE CASCADE,
	n    INTEGER NOT NULL,
	body BLOB
) STRICT;
INSERT INTO unsynced (blob, n, body) SELECT blob, n, body FROM unsynced_before;
DROP TABLE unsynced_before;
ALTER TABLE manifest ADD COLUMN sparse INTEGER NOT NULL DEFAULT 0;
`,
}

// otherVersion says why a database, of which what is the name, cannot be opened; nil if it is
// of a version that can.
func otherVersion(what string, version int) error {
	switch {
	case version > latestVersion:
		return fmt.Errorf("%s is of version %d, and this berth knows versions up to %d: %w", what, version, latestVersion, errNewer)
	case version < oldestVersion:
		return fmt.Errorf("%s is of version %d, and this berth opens versions %d to %d: %w", what, version, oldestVersion, latestVersion, errOlder)
	}
	return nil
}

var (
	errNewer = errors.New("use a newer berth")
	errOlder = errors.New("it was made before the first release; open it once with a build of 2026-11-29, which brings it to version 8")
)

// recount sets every count from the rows it sums up. repair uses it, when something was found
// wrong.
const recount = `
UPDATE blob SET links = (SELECT count(*) FROM link WHERE blob = blob.id),
	kept = (SELECT count(*) FROM link WHERE blob = blob.id AND loose IS NULL);
UPDATE repository SET
	tags = (SELECT count(*) FROM tag WHERE repository = repository.id),
	(manifests, loose_manifests, manifest_bytes) =
		(SELECT count(*), count(loose), coalesce(sum(length(body)), 0) FROM manifest WHERE repository = repository.id),
	(blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes) =
		(SELECT count(*), coalesce(sum(b.size), 0),
			coalesce(sum(CASE WHEN b.links > 1 THEN 1 ELSE 0 END), 0), coalesce(sum(CASE WHEN b.links > 1 THEN b.size ELSE 0 END), 0),
			count(l.loose), coalesce(sum(CASE WHEN l.loose IS NULL THEN 0 ELSE b.size END), 0)
		FROM link l JOIN blob b ON b.id = l.blob WHERE l.repository = repository.id);
UPDATE total SET (blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes) =
	(SELECT count(*), coalesce(sum(size), 0),
		coalesce(sum(CASE WHEN links > 1 THEN 1 ELSE 0 END), 0), coalesce(sum(CASE WHEN links > 1 THEN size ELSE 0 END), 0),
		coalesce(sum(CASE WHEN kept = 0 THEN 1 ELSE 0 END), 0), coalesce(sum(CASE WHEN kept = 0 THEN size ELSE 0 END), 0)
	FROM blob);
`
