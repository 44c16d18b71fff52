-- The workspace that the organization began with: it cannot be archived.
ALTER TABLE organization ADD COLUMN default_workspace_id TEXT;
UPDATE organization SET default_workspace_id = (SELECT min(id) FROM workspaces);

-- There is one organization, also when two servers make a store at the same time.
ALTER TABLE organization ADD COLUMN place BIGINT NOT NULL DEFAULT 1;
CREATE UNIQUE INDEX organization_place ON organization (place);
