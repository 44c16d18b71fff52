-- The request that set a session to work; null where no request did.
ALTER TABLE sessions ADD COLUMN request_id TEXT;

-- An environment is not deleted while sessions use it.
CREATE INDEX sessions_environment ON sessions (workspace_id, environment_id);
