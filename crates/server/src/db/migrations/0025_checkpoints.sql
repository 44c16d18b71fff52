-- The checkpoint of a session's files. taken_seq is the event after which it was taken, 0 while there is none: what was changed
-- by later events it does not have. told_seq is the event with which the agent was last told that changes are lost. manifest_*
-- name the blob that lists the files, taken_on is the server that took it, stored_bytes what its blobs have together, placed what
-- the server had put among the files by then, as JSON. problem is why the last one was not taken, for people.
-- due_* say that one is to be taken: by which server, from when on, after which event. restoring_on is the server that was about
-- to put the files in their place.
CREATE TABLE session_checkpoints (
    session_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    taken_seq BIGINT NOT NULL,
    told_seq BIGINT NOT NULL,
    taken_at BIGINT,
    taken_on TEXT,
    manifest_blob TEXT,
    manifest_sha256 TEXT,
    files BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    placed TEXT,
    problem TEXT,
    due_node TEXT,
    due_at BIGINT,
    due_seq BIGINT,
    failures BIGINT NOT NULL,
    restoring_on TEXT,
    expires_at BIGINT NOT NULL
);
CREATE INDEX session_checkpoints_due ON session_checkpoints (due_node, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX session_checkpoints_expiring ON session_checkpoints (expires_at);

-- The blobs that a checkpoint needs, that of its list included. bytes is what each counts for: 0 where a file of the session has
-- it too.
CREATE TABLE session_checkpoint_blobs (
    session_id TEXT NOT NULL,
    blob_id TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    UNIQUE (session_id, blob_id)
);
CREATE INDEX session_checkpoint_blobs_named ON session_checkpoint_blobs (blob_id);
