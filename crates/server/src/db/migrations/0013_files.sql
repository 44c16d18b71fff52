-- A file. blob_id names its bytes, which several files may share; NULL once it has expired. One of the files of a blob is
-- the counted one: its bytes are in file_usage. Of a file that belongs to a session, mount_path says where it is mounted, below
-- /mnt/session/uploads, and output_path where it was found, below /mnt/session/outputs, with what the server saw of it then.
CREATE TABLE files (
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    session_id TEXT,
    filename TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    blob_id TEXT,
    is_counted BIGINT NOT NULL,
    downloadable BIGINT NOT NULL,
    mount_path TEXT,
    output_path TEXT,
    output_state TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    UNIQUE (workspace_id, id)
);
CREATE INDEX files_uploaded ON files (workspace_id, id) WHERE session_id IS NULL;
CREATE INDEX files_of_session ON files (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX files_of_blob ON files (blob_id) WHERE blob_id IS NOT NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;

-- Bytes of all that the files of a workspace name, each counted once.
CREATE TABLE file_usage (
    workspace_id TEXT NOT NULL UNIQUE,
    bytes BIGINT NOT NULL
);

-- Sessions that came to rest and whose outputs a server has yet to take in. rests is how often one came to rest since, so
-- that the server that took them in sees whether it was once more.
CREATE TABLE session_outputs_due (
    session_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    node TEXT NOT NULL,
    rests BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    due_at BIGINT NOT NULL
);
CREATE INDEX session_outputs_due_node ON session_outputs_due (node, due_at);
