-- What stands in a session's sandbox for a secret that the gate puts into its requests. credential_id is that of a credential, or of
-- a repository among the session's resources.
CREATE TABLE session_placeholders (
    workspace_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    placeholder TEXT NOT NULL,
    UNIQUE (workspace_id, session_id, credential_id)
);

-- Which credentials were put into the requests of a connection, as JSON: a list of objects with credential_id and times.
ALTER TABLE egress ADD COLUMN credentials TEXT;
