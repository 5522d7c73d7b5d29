-- The registry. The CHECKs refuse a program that is wrong about what a status means; they decide nothing. None says
-- IN of more than two: SQLite makes a table of such a list for each row that is written, which takes 2 us and 100 kB.
-- Times and durations are microseconds. What changes often (jobs) stands apart from what is large (specs,
-- outcomes): SQLite rewrites a whole row for each change, and a start reads every row of unfinished jobs.

CREATE TABLE jobs (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    version     INTEGER NOT NULL CHECK (version >= 1),
    status      TEXT NOT NULL CHECK (status = 'queued' OR status = 'running' OR status = 'completed' OR status = 'failed'
                                     OR status = 'blocked' OR status = 'scheduled' OR status = 'retrying'
                                     OR status = 'needs_input' OR status = 'cancelling' OR status = 'cancelled'
                                     OR status = 'expired' OR status = 'held'),
    created_at  INTEGER NOT NULL,
    queued_at   INTEGER CHECK (status <> 'queued' OR queued_at IS NOT NULL),
    run_at      INTEGER CHECK (status <> 'scheduled' OR run_at IS NOT NULL),
    due_at      INTEGER CHECK (status <> 'retrying' OR due_at IS NOT NULL),
    started_at  INTEGER,
    completed_at INTEGER CHECK ((completed_at IS NOT NULL) = (status = 'completed' OR status = 'failed'
                                                              OR status = 'cancelled' OR status = 'expired')),
    attempts    INTEGER NOT NULL CHECK (attempts >= 0),
    retries     INTEGER NOT NULL CHECK (retries >= 0),
    losses      INTEGER NOT NULL CHECK (losses >= 0),
    run         TEXT CHECK ((run IS NOT NULL) = (status = 'running' OR status = 'cancelling')),  -- JSON: the attempt under way
    extra       TEXT,                                    -- JSON: what few jobs have
    key         TEXT,
    parent      INTEGER CHECK ((parent IS NULL) = (ancestors IS NULL)),
    ancestors   TEXT,                                    -- ids with commas between, root first, parent last
    tier        INTEGER NOT NULL CHECK (tier BETWEEN 0 AND 3),
    boost       INTEGER NOT NULL CHECK (boost BETWEEN -49 AND 49),
    agent       TEXT NOT NULL,
    type        TEXT NOT NULL,
    source      TEXT NOT NULL CHECK (source = 'user' OR source = 'automated' OR source = 'agent'),
    grp         TEXT,
    terms       TEXT NOT NULL,                           -- JSON: all terms; the columns above it are for selecting
    pruned      INTEGER NOT NULL DEFAULT 0 CHECK (pruned = 0 OR (pruned = 1 AND completed_at IS NOT NULL))
) STRICT;

-- A pruned job still shows its key, and the key is free.
CREATE UNIQUE INDEX jobs_by_key ON jobs (key) WHERE key IS NOT NULL AND pruned = 0;
-- The unfinished are those without a value; the others are in the order in which they ended.
CREATE INDEX jobs_by_end ON jobs (completed_at, id, pruned);

CREATE TABLE specs (
    job         INTEGER PRIMARY KEY,
    digest      BLOB NOT NULL,
    title       TEXT NOT NULL,
    labels      TEXT,                                    -- JSON list, NULL when empty
    spec        TEXT NOT NULL,                           -- JSON: the fields that have no column
    prompt      TEXT
) STRICT;

CREATE TABLE outcomes (
    job         INTEGER PRIMARY KEY,
    outcome     TEXT NOT NULL                            -- JSON
) STRICT;

-- By position, for a job may name one upstream twice.
CREATE TABLE dependencies (
    job         INTEGER NOT NULL,
    position    INTEGER NOT NULL CHECK (position >= 0),
    upstream    INTEGER NOT NULL CHECK (upstream <> job),
    on_end      TEXT NOT NULL CHECK (on_end = 'success' OR on_end = 'failure' OR on_end = 'any'),
    if_unmet    TEXT NOT NULL CHECK (if_unmet = 'block' OR if_unmet = 'cancel' OR if_unmet = 'run'),
    state       TEXT NOT NULL CHECK (state = 'pending' OR state = 'satisfied' OR state = 'unmet'),
    PRIMARY KEY (job, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX dependencies_by_upstream ON dependencies (upstream);

-- One row for each ancestor of a job that has any.
CREATE TABLE ancestry (
    ancestor    INTEGER NOT NULL,
    job         INTEGER NOT NULL CHECK (job > ancestor),
    PRIMARY KEY (ancestor, job)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    job         INTEGER NOT NULL,
    attempt     INTEGER NOT NULL CHECK (attempt >= 1),
    agent       TEXT NOT NULL,
    attempt_id  TEXT NOT NULL,
    token_hash  BLOB NOT NULL,
    slot        INTEGER NOT NULL,
    over        INTEGER NOT NULL CHECK (over BETWEEN 0 AND 1),
    started_at  INTEGER NOT NULL,
    timeout_at  INTEGER,
    ending      TEXT CHECK (ending = 'cancel' OR ending = 'hold' OR ending = 'timeout' OR ending = 'ask'
                              OR ending = 'stall' OR ending = 'put_back'),
    kill_at     INTEGER,
    ending_by   TEXT,
    ending_reason TEXT,
    worker      TEXT,
    lease_until INTEGER,
    ended_at    INTEGER CHECK (ended_at IS NOT NULL OR failure IS NULL),
    failure     TEXT,
    message     TEXT,
    exit_code   INTEGER,
    signal      INTEGER,
    session_id  TEXT,
    usage       TEXT,                                    -- JSON
    log_bytes   INTEGER NOT NULL CHECK (log_bytes >= 0),
    PRIMARY KEY (job, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    cursor      INTEGER PRIMARY KEY,
    time        INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    job         INTEGER,
    attempt     INTEGER,
    from_status TEXT,
    to_status   TEXT,
    actor       TEXT NOT NULL,
    detail      TEXT                                     -- JSON
) STRICT;

CREATE INDEX events_by_job ON events (job) WHERE job IS NOT NULL;

CREATE TABLE settings (
    name        TEXT PRIMARY KEY,
    value       TEXT NOT NULL                            -- JSON
) STRICT, WITHOUT ROWID;

-- One row that a transaction of its own changes after a COMMIT that failed: see Transaction.
CREATE TABLE tombstone (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    commits     INTEGER NOT NULL
) STRICT;

INSERT INTO tombstone VALUES (1, 0);
