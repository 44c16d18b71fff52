-- A run that mounts files and memory stores adds rows here. In SQLite they are kept by their key, in one b-tree less.
CREATE TABLE files_by_key (
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
    PRIMARY KEY (workspace_id, id)
) WITHOUT ROWID;
INSERT INTO files_by_key (id, workspace_id, session_id, filename, mime_type, size_bytes, sha256, blob_id, is_counted,
    downloadable, mount_path, output_path, output_state, created_at, expires_at)
SELECT id, workspace_id, session_id, filename, mime_type, size_bytes, sha256, blob_id, is_counted,
    downloadable, mount_path, output_path, output_state, created_at, expires_at FROM files;
DROP TABLE files;
ALTER TABLE files_by_key RENAME TO files;
CREATE INDEX files_uploaded ON files (workspace_id, id) WHERE session_id IS NULL;
CREATE INDEX files_of_session ON files (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX files_of_blob ON files (blob_id) WHERE blob_id IS NOT NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE session_memory_stores_by_key (
    session_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    workspace_id TEXT NOT NULL,
    store_id TEXT NOT NULL,
    slug TEXT NOT NULL,
    read_only BIGINT NOT NULL,
    PRIMARY KEY (session_id, place)
) WITHOUT ROWID;
INSERT INTO session_memory_stores_by_key (session_id, place, workspace_id, store_id, slug, read_only)
SELECT session_id, place, workspace_id, store_id, slug, read_only FROM session_memory_stores;
DROP TABLE session_memory_stores;
ALTER TABLE session_memory_stores_by_key RENAME TO session_memory_stores;
CREATE INDEX session_memory_stores_store ON session_memory_stores (workspace_id, store_id, session_id);
