-- memories is how many there are. changes counts all changes of memories: who has seen this many has seen them all.
CREATE TABLE memory_stores (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    metadata TEXT NOT NULL,
    memories BIGINT NOT NULL,
    changes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, id)
);

-- version_id is the version that holds the content, so that a list reads none.
CREATE TABLE memories (
    id TEXT NOT NULL UNIQUE,
    store_id TEXT NOT NULL,
    path TEXT NOT NULL,
    version_id TEXT NOT NULL,
    content_sha256 TEXT NOT NULL,
    content_size_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (store_id, path),
    UNIQUE (store_id, id)
);

-- base_id is the version before, which may be gone. Of the two columns of an actor one is set. purge_at is from when on the
-- version may be deleted: NULL while it is one of the newest of a memory that is there. content is NULL of what was deleted
-- or redacted, and stands last, so that other columns are read without it.
CREATE TABLE memory_versions (
    id TEXT NOT NULL UNIQUE,
    store_id TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    base_id TEXT,
    operation TEXT NOT NULL,
    path TEXT,
    content_sha256 TEXT,
    content_size_bytes BIGINT,
    api_key_id TEXT,
    session_id TEXT,
    created_at BIGINT NOT NULL,
    redacted_at BIGINT,
    redacted_by_api_key_id TEXT,
    purge_at BIGINT,
    content TEXT,
    UNIQUE (store_id, id),
    UNIQUE (memory_id, id)
);
CREATE INDEX memory_versions_session ON memory_versions (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX memory_versions_purge ON memory_versions (purge_at) WHERE purge_at IS NOT NULL;

-- Stores that were deleted and whose versions are not all gone yet.
CREATE TABLE deleted_memory_stores (
    store_id TEXT NOT NULL UNIQUE
);

-- The stores that a session has, each in its folder below /mnt/memory.
CREATE TABLE session_memory_stores (
    session_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    workspace_id TEXT NOT NULL,
    store_id TEXT NOT NULL,
    slug TEXT NOT NULL,
    read_only BIGINT NOT NULL,
    UNIQUE (session_id, place)
);
CREATE INDEX session_memory_stores_store ON session_memory_stores (workspace_id, store_id, session_id);
