-- The tokens of the repositories that a deployment mounts, sealed. place is that among its resources.
CREATE TABLE deployment_repositories (
    workspace_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    token TEXT NOT NULL,
    UNIQUE (workspace_id, deployment_id, place)
);

-- What a session mounts. path is below /workspace. token is sealed. placing_on is the server that was about to put a clone
-- there, placed_on the one that has. failure is why the last try failed, as JSON: a text, since the last replacement of the
-- token. skipped is which of its skills are not announced, as JSON.
CREATE TABLE session_repositories (
    workspace_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    resource_id TEXT NOT NULL,
    url TEXT NOT NULL,
    path TEXT NOT NULL,
    checkout TEXT,
    token TEXT NOT NULL,
    placing_on TEXT,
    placed_on TEXT,
    commit_id TEXT,
    failure TEXT,
    skipped TEXT NOT NULL,
    UNIQUE (session_id, resource_id)
);

-- The repository in which a skill was found.
ALTER TABLE session_skills ADD COLUMN resource_id TEXT;
