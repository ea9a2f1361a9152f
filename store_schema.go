// The database's tables, and how an older database gets them.
//
// schema is version 1, upgrades lead from each version to the next, and a new
// database goes the same way as an old one. Neither is ever changed once it
// was released; what comes later is appended.
//
// Version 2 counts. What is stored, what of it nothing uses and what several
// repositories share is summed up by triggers, in the transaction that changes
// it: so the figures are exact at any time and cost nothing to read, whoever
// writes. check counts again.
//
// Version 3 knows who is asking: sessions have owners, and robots have tokens.
//
// Version 4 remembers: what tags pointed at before, what was deleted, when things
// were pulled, and which indexes the registry has made.
//
// Version 5 takes the bytes of small blobs, until their files are synced.
//
// Version 6 knows which blobs only deleted manifests use, and which referrers have met
// their subject. Version 7 knows how old an upload is, version 8
// whether there ever were users or rules about people.

package main

// applicationID marks a SQLite file as Berth's ("Brth").
const applicationID = 0x42727468

// schema creates version 1. Times are uptime in seconds (see store.uptime), since a
// board without a battery clock jumps by years.
const schema = `
CREATE TABLE meta (
	one    INTEGER PRIMARY KEY CHECK (one = 1),
	uptime INTEGER NOT NULL -- how long this directory has been served, in seconds
) STRICT;
INSERT INTO meta VALUES (1, 0);

CREATE TABLE repository (
	id   INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE blob (
	id     INTEGER PRIMARY KEY,
	digest TEXT NOT NULL UNIQUE,
	size   INTEGER NOT NULL
) STRICT;

-- A blob that was pushed or mounted to a repository.
CREATE TABLE link (
	repository INTEGER NOT NULL REFERENCES repository,
	blob       INTEGER NOT NULL REFERENCES blob,
	loose      INTEGER, -- uptime since when nothing refers to it; NULL while something does
	PRIMARY KEY (repository, blob)
) STRICT, WITHOUT ROWID;
CREATE INDEX link_blob ON link (blob);
CREATE INDEX link_loose ON link (loose) WHERE loose IS NOT NULL;

CREATE TABLE manifest (
	id            INTEGER PRIMARY KEY,
	repository    INTEGER NOT NULL REFERENCES repository,
	digest        TEXT NOT NULL,
	media_type    TEXT NOT NULL,
	loose         INTEGER, -- as in link
	subject       TEXT,    -- the digest this one is about
	artifact_type TEXT NOT NULL,
	annotations   TEXT,    -- JSON, of manifests with a subject only
	body          BLOB NOT NULL,
	UNIQUE (repository, digest)
) STRICT;
CREATE INDEX manifest_subject ON manifest (repository, subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX manifest_loose ON manifest (loose) WHERE loose IS NOT NULL;

-- The blobs that a manifest refers to.
CREATE TABLE uses (
	repository INTEGER NOT NULL,
	blob       INTEGER NOT NULL,
	manifest   INTEGER NOT NULL REFERENCES manifest,
	PRIMARY KEY (repository, blob, manifest),
	FOREIGN KEY (repository, blob) REFERENCES link
) STRICT, WITHOUT ROWID;
CREATE INDEX uses_manifest ON uses (manifest);

-- What a manifest names by digest alone: an index's members, foreign layers.
CREATE TABLE names (
	repository INTEGER NOT NULL,
	digest     TEXT NOT NULL,
	manifest   INTEGER NOT NULL REFERENCES manifest,
	PRIMARY KEY (repository, digest, manifest)
) STRICT, WITHOUT ROWID;
CREATE INDEX names_manifest ON names (manifest);

CREATE TABLE tag (
	repository INTEGER NOT NULL REFERENCES repository,
	name       TEXT NOT NULL,
	manifest   INTEGER NOT NULL REFERENCES manifest,
	PRIMARY KEY (repository, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX tag_manifest ON tag (manifest);

CREATE TABLE upload (
	id         TEXT PRIMARY KEY, -- a UUID; the bytes are in uploads/<id>
	repository TEXT NOT NULL,    -- by name: it may not exist yet
	algorithm  TEXT NOT NULL,    -- of the digest the client means to use
	offset     INTEGER NOT NULL, -- bytes acknowledged
	used       INTEGER NOT NULL  -- uptime of the last request
) STRICT, WITHOUT ROWID;
CREATE INDEX upload_used ON upload (used);

-- Files whose row is gone and that are still to be removed.
CREATE TABLE trash (
	digest TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
`

// upgrades[i] brings a database from version i+1 to i+2.
var upgrades = [...]string{
	`
-- Of this registry and of its copies.
ALTER TABLE meta ADD COLUMN id TEXT NOT NULL DEFAULT '';
UPDATE meta SET id = lower(hex(randomblob(16)));
-- The graces of the server that had it last, in nanoseconds; NULL if none had.
ALTER TABLE meta ADD COLUMN grace INTEGER;
ALTER TABLE meta ADD COLUMN untagged_grace INTEGER;
ALTER TABLE meta ADD COLUMN upload_expiry INTEGER;
-- 1 if something has changed since the last snapshot (backup_snapshot.go).
ALTER TABLE meta ADD COLUMN stale INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET stale = EXISTS (SELECT 1 FROM manifest);
-- 1 if manifests were ever taken whose content was not here (--sparse-manifests).
ALTER TABLE meta ADD COLUMN sparse INTEGER NOT NULL DEFAULT 0;
-- Scrubbing: the last digest that a pass under way has read, "" if there is none,
-- and the uptime when the last pass ended.
ALTER TABLE meta ADD COLUMN scrub_place TEXT NOT NULL DEFAULT '';
ALTER TABLE meta ADD COLUMN scrubbed INTEGER NOT NULL DEFAULT 0;

-- What is wrong with the bytes; NULL if nothing is known to be.
ALTER TABLE blob ADD COLUMN damaged TEXT;
ALTER TABLE manifest ADD COLUMN damaged TEXT;
CREATE INDEX blob_damaged ON blob (digest) WHERE damaged IS NOT NULL;
CREATE INDEX manifest_damaged ON manifest (digest) WHERE damaged IS NOT NULL;

ALTER TABLE trash ADD COLUMN size INTEGER NOT NULL DEFAULT 0;

-- The counts. A blob's links, and those of them that are not loose.
ALTER TABLE blob ADD COLUMN links INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blob ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
-- A repository's; bytes are those of blobs, shared those that others have too.
ALTER TABLE repository ADD COLUMN tags INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN manifests INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN loose_manifests INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN manifest_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN blobs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN shared_blobs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN shared_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN loose_blobs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN loose_bytes INTEGER NOT NULL DEFAULT 0;
-- Of all blobs; those in several repositories; those loose in all they are in.
CREATE TABLE total (
	one          INTEGER PRIMARY KEY CHECK (one = 1),
	blobs        INTEGER NOT NULL,
	bytes        INTEGER NOT NULL,
	shared_blobs INTEGER NOT NULL,
	shared_bytes INTEGER NOT NULL,
	loose_blobs  INTEGER NOT NULL,
	loose_bytes  INTEGER NOT NULL
) STRICT;
INSERT INTO total VALUES (1, 0, 0, 0, 0, 0, 0);
` + recount + `
CREATE TRIGGER blob_insert AFTER INSERT ON blob BEGIN
	UPDATE total SET blobs = blobs + 1, bytes = bytes + NEW.size,
		loose_blobs = loose_blobs + 1, loose_bytes = loose_bytes + NEW.size;
END;
CREATE TRIGGER blob_delete AFTER DELETE ON blob BEGIN
	UPDATE total SET blobs = blobs - 1, bytes = bytes - OLD.size,
		loose_blobs = loose_blobs - 1, loose_bytes = loose_bytes - OLD.size;
END;
-- Only a size that was wrong changes.
CREATE TRIGGER blob_size AFTER UPDATE OF size ON blob WHEN NEW.size <> OLD.size BEGIN
	UPDATE total SET bytes = bytes + NEW.size - OLD.size,
		shared_bytes = shared_bytes + iif(NEW.links > 1, NEW.size - OLD.size, 0),
		loose_bytes = loose_bytes + iif(NEW.kept = 0, NEW.size - OLD.size, 0);
	UPDATE repository SET bytes = bytes + NEW.size - OLD.size,
		shared_bytes = shared_bytes + iif(NEW.links > 1, NEW.size - OLD.size, 0),
		loose_bytes = loose_bytes + iif(l.loose IS NULL, 0, NEW.size - OLD.size)
		FROM link l WHERE l.blob = NEW.id AND l.repository = repository.id;
END;
CREATE TRIGGER blob_kept AFTER UPDATE OF kept ON blob WHEN (NEW.kept = 0) <> (OLD.kept = 0) BEGIN
	UPDATE total SET loose_blobs = loose_blobs + iif(NEW.kept = 0, 1, -1),
		loose_bytes = loose_bytes + iif(NEW.kept = 0, NEW.size, -NEW.size);
END;
CREATE TRIGGER blob_shared AFTER UPDATE OF links ON blob WHEN (NEW.links > 1) <> (OLD.links > 1) BEGIN
	UPDATE total SET shared_blobs = shared_blobs + iif(NEW.links > 1, 1, -1),
		shared_bytes = shared_bytes + iif(NEW.links > 1, NEW.size, -NEW.size);
	-- The other one.
	UPDATE repository SET shared_blobs = shared_blobs + iif(NEW.links > 1, 1, -1),
		shared_bytes = shared_bytes + iif(NEW.links > 1, NEW.size, -NEW.size)
		WHERE id IN (SELECT repository FROM link WHERE blob = NEW.id);
END;
CREATE TRIGGER link_insert AFTER INSERT ON link BEGIN
	UPDATE repository SET blobs = blobs + 1, bytes = bytes + b.size,
		loose_blobs = loose_blobs + iif(NEW.loose IS NULL, 0, 1),
		loose_bytes = loose_bytes + iif(NEW.loose IS NULL, 0, b.size),
		shared_blobs = shared_blobs + iif(b.links > 1, 1, 0), -- at 1 blob_shared counts both
		shared_bytes = shared_bytes + iif(b.links > 1, b.size, 0)
		FROM blob b WHERE b.id = NEW.blob AND repository.id = NEW.repository;
	UPDATE blob SET links = links + 1, kept = kept + (NEW.loose IS NULL) WHERE id = NEW.blob;
END;
CREATE TRIGGER link_delete AFTER DELETE ON link BEGIN
	UPDATE repository SET blobs = blobs - 1, bytes = bytes - b.size,
		loose_blobs = loose_blobs - iif(OLD.loose IS NULL, 0, 1),
		loose_bytes = loose_bytes - iif(OLD.loose IS NULL, 0, b.size),
		shared_blobs = shared_blobs - iif(b.links > 1, 1, 0),
		shared_bytes = shared_bytes - iif(b.links > 1, b.size, 0)
		FROM blob b WHERE b.id = OLD.blob AND repository.id = OLD.repository;
	UPDATE blob SET links = links - 1, kept = kept - (OLD.loose IS NULL) WHERE id = OLD.blob;
END;
CREATE TRIGGER link_loose AFTER UPDATE OF loose ON link WHEN (NEW.loose IS NULL) <> (OLD.loose IS NULL) BEGIN
	UPDATE repository SET loose_blobs = loose_blobs + iif(NEW.loose IS NULL, -1, 1),
		loose_bytes = loose_bytes + iif(NEW.loose IS NULL, -b.size, b.size)
		FROM blob b WHERE b.id = NEW.blob AND repository.id = NEW.repository;
	UPDATE blob SET kept = kept + iif(NEW.loose IS NULL, 1, -1) WHERE id = NEW.blob;
END;
CREATE TRIGGER manifest_insert AFTER INSERT ON manifest BEGIN
	UPDATE repository SET manifests = manifests + 1, manifest_bytes = manifest_bytes + length(NEW.body),
		loose_manifests = loose_manifests + (NEW.loose IS NOT NULL) WHERE id = NEW.repository;
END;
CREATE TRIGGER manifest_delete AFTER DELETE ON manifest BEGIN
	UPDATE repository SET manifests = manifests - 1, manifest_bytes = manifest_bytes - length(OLD.body),
		loose_manifests = loose_manifests - (OLD.loose IS NOT NULL) WHERE id = OLD.repository;
END;
CREATE TRIGGER manifest_loose AFTER UPDATE OF loose ON manifest WHEN (NEW.loose IS NULL) <> (OLD.loose IS NULL) BEGIN
	UPDATE repository SET loose_manifests = loose_manifests + iif(NEW.loose IS NULL, -1, 1) WHERE id = NEW.repository;
END;
CREATE TRIGGER manifest_body AFTER UPDATE OF body ON manifest BEGIN
	UPDATE repository SET manifest_bytes = manifest_bytes + length(NEW.body) - length(OLD.body) WHERE id = NEW.repository;
END;
CREATE TRIGGER tag_insert AFTER INSERT ON tag BEGIN
	UPDATE repository SET tags = tags + 1 WHERE id = NEW.repository;
END;
CREATE TRIGGER tag_delete AFTER DELETE ON tag BEGIN
	UPDATE repository SET tags = tags - 1 WHERE id = OLD.repository;
END;
`,
	`
-- Whose session it is (caller.id in auth.go); '' for anonymous's.
ALTER TABLE upload ADD COLUMN owner TEXT NOT NULL DEFAULT '';
-- Where the server that had it last found its users and rules; NULL for the
-- files in the data directory.
ALTER TABLE meta ADD COLUMN users_file TEXT;
ALTER TABLE meta ADD COLUMN policy_file TEXT;

-- The tokens of robots (auth_robots.go). Their times are those of the wall clock, as
-- people count them, in Unix seconds.
CREATE TABLE token (
	id           TEXT PRIMARY KEY,
	name         TEXT NOT NULL UNIQUE,
	secret       BLOB NOT NULL,    -- SHA-256 of it
	repositories TEXT NOT NULL,    -- patterns, with spaces between
	allow        TEXT NOT NULL,    -- actions, likewise
	created      INTEGER NOT NULL,
	expires      INTEGER,          -- NULL for never
	used         INTEGER NOT NULL  -- the last time, to the hour; 0 for never
) STRICT, WITHOUT ROWID;
`,
	`
-- When the tag was last pushed: uptime, and Unix time for people (0 if that is not
-- known); and by which change (history).
ALTER TABLE tag ADD COLUMN pushed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tag ADD COLUMN time INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tag ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
-- 1 if the registry has put it on an index of its own (tag_platforms.go).
ALTER TABLE tag ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
-- Uptime until which retention leaves it alone, since it was restored.
ALTER TABLE tag ADD COLUMN spared INTEGER NOT NULL DEFAULT 0;
UPDATE tag SET pushed = (SELECT uptime FROM meta);

-- Uptime when a client has deleted it; it is loose then, and not there for anybody.
ALTER TABLE manifest ADD COLUMN deleted INTEGER;
-- Of an image, as JSON; '' for all else, NULL if nobody has looked.
ALTER TABLE manifest ADD COLUMN platform TEXT;
-- 1 if the registry has made it.
ALTER TABLE manifest ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
-- Likewise; its name has then a # and the change after it.
ALTER TABLE repository ADD COLUMN deleted INTEGER;
CREATE INDEX manifest_deleted ON manifest (loose, id) WHERE deleted IS NOT NULL;
CREATE INDEX repository_deleted ON repository (deleted) WHERE deleted IS NOT NULL;

-- When a manifest was last pulled, to the hour; uptime and Unix time.
CREATE TABLE pull (
	manifest INTEGER PRIMARY KEY REFERENCES manifest ON DELETE CASCADE,
	at       INTEGER NOT NULL,
	time     INTEGER NOT NULL
) STRICT;

-- What was done to tags, manifests and repositories (history.go).
CREATE TABLE history (
	change     INTEGER NOT NULL, -- what was done at once has one number
	n          INTEGER NOT NULL,
	at         INTEGER NOT NULL, -- uptime
	time       INTEGER NOT NULL, -- Unix time, for people
	who        TEXT NOT NULL,
	client     TEXT NOT NULL,    -- the address; '' for a command
	action     TEXT NOT NULL,    -- push, tag, delete, retention, undo
	why        TEXT NOT NULL,
	repository TEXT NOT NULL,    -- the name it had
	tag        TEXT,             -- NULL if it is about a manifest, or the repository
	old        TEXT NOT NULL,    -- digest before; of a repository its name; '' for none
	new        TEXT NOT NULL,    -- likewise, after
	made       INTEGER NOT NULL, -- tag.made: 1 before, 2 after, 3 both
	PRIMARY KEY (change, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX history_name ON history (repository, tag, change);
`,
	`
-- The bytes of small blobs whose files are not synced yet (store_small.go).
CREATE TABLE unsynced (
	blob INTEGER PRIMARY KEY REFERENCES blob ON DELETE CASCADE,
	n    INTEGER NOT NULL, -- no two of one process have the same
	body BLOB NOT NULL
) STRICT;
`,
	`
-- Uptime since when it is not there for clients: only deleted manifests use the blob,
-- and nobody has pushed it since. NULL if it is there.
ALTER TABLE link ADD COLUMN hidden INTEGER;
UPDATE link SET hidden = (SELECT uptime FROM meta)
	WHERE blob IN (SELECT u.blob FROM manifest m JOIN uses u ON u.manifest = m.id WHERE m.deleted IS NOT NULL)
	AND EXISTS (SELECT 1 FROM uses u WHERE u.repository = link.repository AND u.blob = link.blob)
	AND NOT EXISTS (SELECT 1 FROM uses u JOIN manifest m ON m.id = u.manifest
		WHERE u.repository = link.repository AND u.blob = link.blob AND m.deleted IS NULL);

-- The last number of a change (history) when some were forgotten.
ALTER TABLE meta ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;

-- 1 if its subject has been in the repository since it came.
ALTER TABLE manifest ADD COLUMN met INTEGER NOT NULL DEFAULT 0;
UPDATE manifest SET met = 1 WHERE subject IS NOT NULL
	AND EXISTS (SELECT 1 FROM manifest s WHERE s.repository = manifest.repository AND s.digest = manifest.subject);
UPDATE manifest SET loose = NULL WHERE loose IS NOT NULL AND deleted IS NULL AND subject IS NOT NULL AND NOT met;
`,
	`
-- Uptime when it was begun, or seen first.
ALTER TABLE upload ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
UPDATE upload SET begun = used;
`,
	`
-- 1 if there are, or were, users or rules about people: without them it is not open.
ALTER TABLE meta ADD COLUMN guarded INTEGER NOT NULL DEFAULT 0;
`,
	`
ALTER TABLE history ADD COLUMN kind TEXT NOT NULL DEFAULT 'tag' CHECK (kind IN ('tag', 'manifest', 'repository'));
UPDATE history SET kind = CASE WHEN instr(old || new, ':') > 0 THEN 'manifest' ELSE 'repository' END WHERE tag IS NULL;
ALTER TABLE history ADD COLUMN undoes INTEGER;
UPDATE history SET undoes = nullif(CAST(substr(why, 4) AS INTEGER), 0) WHERE action = 'undo';
ALTER TABLE repository ADD COLUMN emptying INTEGER NOT NULL DEFAULT 0;
UPDATE repository SET emptying = 1 WHERE name LIKE '%#';
`,
}

// recount sets every count from the rows it sums up. It runs once, before there
// are triggers; after them repair uses it, when something was found wrong.
const recount = `
UPDATE blob SET links = (SELECT count(*) FROM link WHERE blob = blob.id),
	kept = (SELECT count(*) FROM link WHERE blob = blob.id AND loose IS NULL);
UPDATE repository SET
	tags = (SELECT count(*) FROM tag WHERE repository = repository.id),
	(manifests, loose_manifests, manifest_bytes) =
		(SELECT count(*), count(loose), coalesce(sum(length(body)), 0) FROM manifest WHERE repository = repository.id),
	(blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes) =
		(SELECT count(*), coalesce(sum(b.size), 0),
			coalesce(sum(b.links > 1), 0), coalesce(sum(iif(b.links > 1, b.size, 0)), 0),
			count(l.loose), coalesce(sum(iif(l.loose IS NULL, 0, b.size)), 0)
		FROM link l JOIN blob b ON b.id = l.blob WHERE l.repository = repository.id);
UPDATE total SET (blobs, bytes, shared_blobs, shared_bytes, loose_blobs, loose_bytes) =
	(SELECT count(*), coalesce(sum(size), 0),
		coalesce(sum(links > 1), 0), coalesce(sum(iif(links > 1, size, 0)), 0),
		coalesce(sum(kept = 0), 0), coalesce(sum(iif(kept = 0, size, 0)), 0)
	FROM blob);
`

const latestVersion = 1 + len(upgrades)
