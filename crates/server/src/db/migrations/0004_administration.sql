-- The workspace that the organization began with: it cannot be archived.
ALTER TABLE organization ADD COLUMN default_workspace_id TEXT;
UPDATE organization SET default_workspace_id = (SELECT min(id) FROM workspaces);
