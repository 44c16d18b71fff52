-- details is what the platform says of the entity. by_name_asc and by_name_desc order profiles by their name, those without
-- one last in either direction.
CREATE TABLE user_profiles (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    access_type TEXT NOT NULL,
    details TEXT NOT NULL,
    metadata TEXT NOT NULL,
    name TEXT,
    by_name_asc TEXT NOT NULL,
    by_name_desc TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (workspace_id, id)
);
CREATE INDEX user_profiles_by_name_asc ON user_profiles (workspace_id, by_name_asc);
CREATE INDEX user_profiles_by_name_desc ON user_profiles (workspace_id, by_name_desc);

-- token is the sealed token; it and token_id are NULL once the tunnel is archived. token_reason is why it took the place of
-- another one. A domain is never given again, so tunnels stay.
CREATE TABLE tunnels (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    display_name TEXT,
    domain TEXT NOT NULL UNIQUE,
    token_id TEXT,
    token TEXT,
    token_created_at BIGINT NOT NULL,
    token_reason TEXT,
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, id)
);

CREATE TABLE tunnel_certificates (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    tunnel_id TEXT NOT NULL,
    pem TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (workspace_id, tunnel_id, id)
);

-- due_at is when a dream is taken up next; while it is worked on, by owner, when it counts as left; NULL when it has ended.
-- epoch is raised each time: with it a worker says which of them it is. updates says that it writes into store_id. copied is
-- the last path that the new store has of that one. place is the session that it reads, after_seq the last event of it that
-- was read, part which part of it comes next. failures is how often it was taken up since it last got on.
CREATE TABLE dreams (
    id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    api_key_id TEXT NOT NULL,
    status TEXT NOT NULL,
    model TEXT NOT NULL,
    store_id TEXT NOT NULL,
    session_ids TEXT NOT NULL,
    instructions TEXT,
    updates BIGINT NOT NULL,
    output_store_id TEXT,
    place BIGINT NOT NULL,
    after_seq BIGINT NOT NULL,
    part BIGINT NOT NULL,
    copied TEXT NOT NULL,
    is_copied BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    owner TEXT,
    due_at BIGINT,
    started_at BIGINT,
    error_type TEXT,
    error_message TEXT,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_creation_tokens BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at BIGINT,
    archived_at BIGINT,
    UNIQUE (workspace_id, id)
);
CREATE INDEX dreams_due ON dreams (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX dreams_open ON dreams (workspace_id) WHERE due_at IS NOT NULL;
CREATE UNIQUE INDEX dreams_updating ON dreams (store_id) WHERE updates = 1 AND due_at IS NOT NULL;
