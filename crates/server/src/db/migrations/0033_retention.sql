-- How long a workspace keeps what it has, in days, where that differs from the configuration; with a deployment_id that is not
-- empty, a deployment of it. NULL: as it is above.
CREATE TABLE retention (
    workspace_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    sessions_days BIGINT,
    outputs_days BIGINT,
    runs_days BIGINT,
    deliveries_days BIGINT,
    egress_days BIGINT,
    PRIMARY KEY (workspace_id, deployment_id)
) WITHOUT ROWID;

-- When one of the servers looks next for what is kept no longer. One row.
CREATE TABLE retention_sweeps (
    place BIGINT NOT NULL UNIQUE,
    next_at BIGINT NOT NULL
);

-- Sessions that were kept no longer and whose events are not all gone yet.
CREATE TABLE forgotten_sessions (
    session_id TEXT NOT NULL UNIQUE
);

-- What became of the occurrences up to this one is no longer known; NULL while all of it is.
ALTER TABLE deployments ADD COLUMN history_from BIGINT;
