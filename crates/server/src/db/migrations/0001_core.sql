-- Times are microseconds since the epoch. JSON is TEXT. Ids sort by creation time, so (workspace_id, id) serves a list
-- in the order of creation and a filter on created_at is a range of ids.

CREATE TABLE organization (
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    disabled_at BIGINT
);

CREATE TABLE workspaces (
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    compartment_id TEXT NOT NULL,
    display_color TEXT NOT NULL,
    data_residency TEXT NOT NULL,
    tags TEXT NOT NULL,
    external_key_id TEXT,
    user_profile_id TEXT,
    created_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE UNIQUE INDEX workspaces_name ON workspaces (name) WHERE archived_at IS NULL;

-- workspace_id is NULL for a key whose scope is the organization.
CREATE TABLE api_keys (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT,
    name TEXT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE,
    partial_key_hint TEXT NOT NULL,
    status TEXT NOT NULL,
    created_by TEXT,
    principal TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

CREATE TABLE agents (
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, id)
);

-- snapshot is the text of the agent inside a session of this version. Versions never change.
CREATE TABLE agent_versions (
    agent_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    model TEXT NOT NULL,
    config TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    roster TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (agent_id, version)
);

CREATE TABLE environments (
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    config TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, id)
);
CREATE UNIQUE INDEX environments_name ON environments (workspace_id, name) WHERE archived_at IS NULL;

CREATE TABLE deployments (
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    agent_id TEXT NOT NULL,
    agent_version BIGINT NOT NULL,
    environment_id TEXT NOT NULL,
    initial_events TEXT NOT NULL,
    resources TEXT NOT NULL,
    vault_ids TEXT NOT NULL,
    metadata TEXT NOT NULL,
    cron TEXT,
    timezone TEXT,
    last_run_at BIGINT,
    paused_reason TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, id)
);
CREATE INDEX deployments_agent ON deployments (agent_id, id);

-- Append-only. Exactly one of session_id and error is set; scheduled_at is set for a scheduled run.
CREATE TABLE deployment_runs (
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    agent_version BIGINT NOT NULL,
    session_id TEXT,
    error TEXT,
    scheduled_at BIGINT,
    created_at BIGINT NOT NULL,
    UNIQUE (workspace_id, id)
);
CREATE INDEX deployment_runs_deployment ON deployment_runs (deployment_id, id);
CREATE INDEX deployment_runs_error ON deployment_runs (workspace_id, id) WHERE error IS NOT NULL;
CREATE UNIQUE INDEX deployment_runs_occurrence ON deployment_runs (deployment_id, scheduled_at)
    WHERE scheduled_at IS NOT NULL;

CREATE TABLE idempotency_keys (
    deployment_id TEXT NOT NULL,
    key TEXT NOT NULL,
    run_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (deployment_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- agent is NULL while the session runs its agent's version as it is. next_seq numbers the session's log, next_input what waits. runnable_at
-- is when a runner should take the session up; NULL when there is nothing to do. waiting_on lists the events that the
-- client must answer before the session goes on. home is the server that has the files of the session's sandbox; NULL while
-- it has none.
CREATE TABLE sessions (
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    agent_version BIGINT NOT NULL,
    agent TEXT,
    environment_id TEXT NOT NULL,
    deployment_id TEXT,
    title TEXT,
    metadata TEXT NOT NULL,
    resources TEXT NOT NULL,
    vault_ids TEXT NOT NULL,
    outcomes TEXT NOT NULL,
    status TEXT NOT NULL,
    usage TEXT,
    active_micros BIGINT NOT NULL,
    running_since BIGINT,
    waiting_on TEXT,
    next_seq BIGINT NOT NULL,
    next_input BIGINT NOT NULL,
    runnable_at BIGINT,
    lease_owner TEXT,
    lease_epoch BIGINT NOT NULL,
    lease_expires_at BIGINT,
    home TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, id)
);
CREATE INDEX sessions_agent ON sessions (agent_id, id);
CREATE INDEX sessions_runnable ON sessions (runnable_at) WHERE runnable_at IS NOT NULL;

-- The log of a session: append-only, seq from 1 without gaps. hidden is what only the model sees again.
CREATE TABLE session_events (
    session_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    hidden TEXT,
    processed_at BIGINT NOT NULL,
    UNIQUE (session_id, seq)
);

-- What a client sent while its session was working: it enters the log when the agent takes it up.
CREATE TABLE session_inputs (
    session_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (session_id, place)
);

-- The servers that run sessions. Until alive_until, sessions stay with the one that has their files.
CREATE TABLE nodes (
    id TEXT NOT NULL UNIQUE,
    alive_until BIGINT NOT NULL
);
