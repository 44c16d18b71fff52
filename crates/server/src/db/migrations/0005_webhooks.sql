-- secret is the key that deliveries are signed with, in base64. failures counts the deliveries in a row that failed for
-- good, and failing_since is when the first of them did.
CREATE TABLE webhook_endpoints (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    enabled_events TEXT NOT NULL,
    state TEXT NOT NULL,
    disabled_reason TEXT NOT NULL,
    failures BIGINT NOT NULL,
    failing_since BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (workspace_id, id)
);

-- What every change asks: who wants events of this type. Only endpoints that are enabled are here.
CREATE TABLE webhook_subscriptions (
    workspace_id TEXT NOT NULL,
    type TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    UNIQUE (workspace_id, type, endpoint_id)
);

-- The outbox. due_at is when a delivery is sent next; while it is being sent, when it counts as lost and is sent again;
-- NULL when it is not sent. claimed_at is set while it is being sent. attempts is never reset: with it a sender says
-- which attempt it speaks of. replayed_after is how many attempts there
-- were before the last replay, or before the endpoint was enabled again.
CREATE TABLE webhook_deliveries (
    event_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    replayed_after BIGINT NOT NULL,
    due_at BIGINT,
    claimed_at BIGINT,
    attempted_at BIGINT,
    response_status BIGINT,
    response_excerpt TEXT,
    error TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (endpoint_id, event_id)
);
CREATE INDEX webhook_deliveries_age ON webhook_deliveries (event_id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_failed ON webhook_deliveries (endpoint_id, event_id) WHERE state = 'failed';
