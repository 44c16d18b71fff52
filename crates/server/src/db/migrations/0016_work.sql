-- Keys with which workers take up the work of an environment. The secret is stored as its hash. A revoked key is kept for a
-- while, so that whoever still uses it is told so.
CREATE TABLE environment_keys (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    name TEXT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE,
    partial_key_hint TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    UNIQUE (workspace_id, environment_id, id)
);

-- A session of a self-hosted environment, as work for a worker: one row from when it first needs one. due_at is when a poll
-- may hand it out: at once while it is queued, when its lease has run out while a worker has it, NULL once it is stopped.
-- polled_at is set while it is handed out and not acknowledged. lease counts how often it was queued: the token of an earlier
-- time reaches nothing. halted is 1 when somebody asked for the stop, and not its worker: it is then queued by the next input
-- of a client only.
CREATE TABLE work (
    session_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    state TEXT NOT NULL,
    metadata TEXT NOT NULL,
    lease BIGINT NOT NULL,
    halted BIGINT NOT NULL,
    ttl_seconds BIGINT NOT NULL,
    due_at BIGINT,
    polled_at BIGINT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    acknowledged_at BIGINT,
    latest_heartbeat_at BIGINT,
    lease_updated_at BIGINT,
    stop_requested_at BIGINT,
    stopped_at BIGINT,
    UNIQUE (workspace_id, environment_id, session_id)
);
CREATE INDEX work_due ON work (environment_id, due_at) WHERE due_at IS NOT NULL;

-- What the secret of work holds, as hashes: a token for each time that it was handed out.
CREATE TABLE work_tokens (
    token_hash TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    environment_key_id TEXT NOT NULL,
    lease BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX work_tokens_session ON work_tokens (session_id, created_at);

-- Who asked for work lately, for whoever counts.
CREATE TABLE work_pollers (
    environment_id TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    polled_at BIGINT NOT NULL,
    UNIQUE (environment_id, worker_id)
);

-- Whether the tools of a session run at a worker. It stays so when the environment is deleted.
ALTER TABLE sessions ADD COLUMN self_hosted BIGINT NOT NULL DEFAULT 0;

-- Such an environment is not deleted while sessions use it.
CREATE INDEX sessions_environment ON sessions (workspace_id, environment_id) WHERE self_hosted = 1;
UPDATE sessions SET self_hosted = 1
WHERE environment_id IN (SELECT id FROM environments WHERE config LIKE '%"type":"self_hosted"%');

-- Those that are at work or wait for a worker need one now.
INSERT INTO work (session_id, workspace_id, environment_id, state, metadata, lease, halted, ttl_seconds, due_at, created_at,
    started_at)
SELECT id, workspace_id, environment_id, 'queued', '{}', 1, 0, 300, created_at, created_at, created_at FROM sessions
WHERE self_hosted = 1 AND (runnable_at IS NOT NULL OR waiting_on LIKE '%"tool_result"%');
