-- Connections of sandboxes: one row each, written beside the work. duration_ms is NULL while one is open.
CREATE TABLE egress (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    host TEXT NOT NULL,
    port BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    bytes_in BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    duration_ms BIGINT,
    UNIQUE (workspace_id, session_id, id)
);

-- What the environment's network was when the session was created. NULL: what it is now, for a session of an earlier version.
ALTER TABLE sessions ADD COLUMN network TEXT;
