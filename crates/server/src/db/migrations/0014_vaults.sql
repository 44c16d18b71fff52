-- The fingerprint of the master key by which every data key is wrapped. One row, written when a server first starts.
CREATE TABLE vault_master (
    fingerprint TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);

-- The keys under which secrets are sealed, wrapped by the master key whose fingerprint is master.
CREATE TABLE data_keys (
    workspace_id TEXT NOT NULL UNIQUE,
    wrapped TEXT NOT NULL,
    master TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE vaults (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, id)
);

-- auth is what everybody may see. secrets is sealed, and NULL once the credential is archived. match_key is what it is
-- found by: the normalised URL of a server, or the name of a variable.
--
-- refresh_at is when its token is renewed next; NULL when it is not. While somebody renews it, claimed_until is when that
-- counts as lost, and claims, which only grows, says who. failures counts the tries in a row that did not succeed.
CREATE TABLE credentials (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    vault_id TEXT NOT NULL,
    display_name TEXT,
    auth TEXT NOT NULL,
    match_key TEXT NOT NULL,
    secrets TEXT,
    metadata TEXT NOT NULL,
    refresh_at BIGINT,
    claimed_until BIGINT,
    claims BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, vault_id, id)
);
CREATE UNIQUE INDEX credentials_match ON credentials (vault_id, match_key) WHERE archived_at IS NULL;
CREATE INDEX credentials_due ON credentials (refresh_at) WHERE refresh_at IS NOT NULL;
