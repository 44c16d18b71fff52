-- Who changed what: append-only, a row written with each change. workspace_id is NULL of what is the organization's. actor_id is the
-- key that was used. fields are the names of those that have another value since, as JSON.
CREATE TABLE audit (
    id TEXT NOT NULL,
    workspace_id TEXT,
    actor_type TEXT NOT NULL,
    actor_id TEXT,
    operation TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id TEXT,
    parent_id TEXT,
    fields TEXT,
    request_id TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE INDEX audit_workspace ON audit (workspace_id, id);
CREATE INDEX audit_operation ON audit (workspace_id, operation, id);
CREATE INDEX audit_resource ON audit (resource_id, id) WHERE resource_id IS NOT NULL;
CREATE INDEX audit_actor ON audit (actor_id, id) WHERE actor_id IS NOT NULL;
