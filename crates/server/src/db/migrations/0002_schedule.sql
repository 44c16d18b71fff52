-- next_fire_at is when the scheduler looks at the deployment next; NULL when there is nothing to fire. Each occurrence up to
-- settled_at, inclusive, has a run, or a row that says why it has none.
ALTER TABLE deployments ADD COLUMN next_fire_at BIGINT;
ALTER TABLE deployments ADD COLUMN settled_at BIGINT;
CREATE INDEX deployments_due ON deployments (next_fire_at, id) WHERE next_fire_at IS NOT NULL;

-- Append-only: which schedule counted in which state (active, paused, archived) from when on, so that the occurrences of
-- any past range can be computed. seq counts the changes of a deployment from 1. When the clock was set back before a
-- change, since is earlier than that of the row before, which then ends there.
CREATE TABLE deployment_spans (
    deployment_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    since BIGINT NOT NULL,
    cron TEXT,
    timezone TEXT,
    state TEXT NOT NULL,
    UNIQUE (deployment_id, seq)
);

-- Occurrences, from the first to the last, that did not fire although the deployment was active, and why. An occurrence in
-- such a range that has a run all the same fired after the clock had been set back.
CREATE TABLE deployment_skips (
    deployment_id TEXT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX deployment_skips_deployment ON deployment_skips (deployment_id, last_at);
