-- Which sessions of a deployment are at work is told by the sessions themselves.
DROP TABLE deployment_active;
CREATE INDEX sessions_at_work ON sessions (deployment_id, id) WHERE runnable_at IS NOT NULL;
