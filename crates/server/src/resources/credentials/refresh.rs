//! Renews access tokens: one exchange at a time per credential, whichever server makes it.
//!
//! A credential is claimed with a lease, the exchange is made, and its outcome is recorded. The old refresh token stays in
//! the store until the new one is in its place, in one statement. A server that is killed in between leaves the old one and
//! a claim that runs out, and the exchange is made again: an endpoint that takes a refresh token only once may refuse that,
//! and the refusal is told as any other.

use reqwest::Client;
use rota_api::{
    Time,
    credential::{Auth, McpOauth, RefreshAttempt, RefreshStatus, Secrets},
    id::{CredentialId, VaultId, WorkspaceId},
    webhook::EventType,
};
use tokio::time::{sleep, timeout};

use super::store;
use crate::{
    app::App,
    backoff::Backoff,
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::{
        REFRESH_LEASE_MICROS, REFRESH_LOOK, REFRESH_PATIENCE, REFRESH_RECORD_RETRY, REFRESH_RETRY_FIRST,
        REFRESH_RETRY_MAX, REFRESH_TRIES,
    },
    telemetry,
    vault::{
        DataKey,
        oauth::{self, Exchanged, Tokens},
        sealed,
    },
};

/// A credential whose token this server renews, until the claim runs out.
#[derive(Clone)]
pub struct Claim {
    workspace: WorkspaceId,
    pub(super) vault: VaultId,
    pub(super) id: CredentialId,
    claims: i64,
    auth: Auth,
    sealed: String,
    /// Whether it was claimed because it was due.
    is_due: bool,
}

const CLAIMED: &str = "workspace_id, vault_id, id, claims, auth, secrets";

fn claim_from_row(row: &Row<'_>, is_due: bool) -> Result<Claim> {
    Ok(Claim {
        workspace: row.id("workspace_id")?,
        vault: row.id("vault_id")?,
        id: row.id("id")?,
        claims: row.int("claims")?,
        auth: row.json("auth")?,
        sealed: row.text("secrets")?,
        is_due,
    })
}

/// Credentials whose tokens are due at the time `$1`. In an archived workspace nothing is renewed: nobody uses it any more.
macro_rules! due {
    () => {
        "refresh_at <= $1 AND (claimed_until IS NULL OR claimed_until <= $1) AND NOT EXISTS (SELECT 1 FROM workspaces w
             WHERE w.id = credentials.workspace_id AND w.archived_at IS NOT NULL)"
    };
}

/// Whether any token is due that nobody renews.
pub fn is_due(tx: &mut Tx<'_>) -> Result<bool> {
    let sql = concat!("SELECT 1 FROM credentials WHERE ", due!(), " LIMIT 1");
    Ok(tx.one(sql, vals![tx.now()], |_| Ok(()))?.is_some())
}

/// Claims at most `count` credentials whose tokens are due, those first that have waited longest.
pub fn claim_due(tx: &mut Tx<'_>, count: usize) -> Result<Vec<Claim>> {
    let sql = format!(
        "WITH due AS MATERIALIZED (
             SELECT id FROM credentials WHERE {} ORDER BY refresh_at LIMIT $3{})
         UPDATE credentials SET claimed_until = $2, claims = claims + 1
         WHERE id IN (SELECT id FROM due) AND secrets IS NOT NULL RETURNING {CLAIMED}",
        due!(),
        tx.skip_locked("credentials")
    );
    let until = tx.now().plus_micros(REFRESH_LEASE_MICROS);
    tx.all(&sql, vals![tx.now(), until, count as i64], |row| claim_from_row(row, true))
}

/// Claims one credential, due or not; `None` while somebody else renews its token, or once it is archived.
pub(super) fn claim(tx: &mut Tx<'_>, id: &CredentialId) -> Result<Option<Claim>> {
    let sql = format!(
        "UPDATE credentials SET claimed_until = $2, claims = claims + 1
         WHERE id = $1 AND secrets IS NOT NULL AND (claimed_until IS NULL OR claimed_until <= $3) RETURNING {CLAIMED}"
    );
    let until = tx.now().plus_micros(REFRESH_LEASE_MICROS);
    tx.one(&sql, vals![id, until, tx.now()], |row| claim_from_row(row, false))
}

/// Ends the claims of an earlier process, for a store that only one process at a time can have.
pub fn release_all(tx: &mut Tx<'_>) -> Result<()> {
    tx.execute("UPDATE credentials SET claimed_until = NULL WHERE claimed_until IS NOT NULL", &[])?;
    Ok(())
}

/// Gives a claim back.
pub(super) fn release(tx: &mut Tx<'_>, claim: &Claim) -> Result<()> {
    tx.execute(
        "UPDATE credentials SET claimed_until = NULL WHERE id = $1 AND claims = $2",
        vals![&claim.id, claim.claims],
    )?;
    Ok(())
}

impl Claim {
    /// The secrets at the time of the claim.
    pub(super) fn secrets(&self, key: &DataKey) -> Result<Secrets> {
        sealed::open(key, self.id.as_ref(), &self.sealed)
    }
}

/// Gets another token than the one of `refused`, unless somebody else has or is about to; `None` when the credential is gone.
pub async fn another(
    app: &App,
    client: &Client,
    key: &DataKey,
    id: &CredentialId,
    refused: &Secrets,
) -> Result<Option<RefreshAttempt>> {
    let Ok(claim) = timeout(REFRESH_PATIENCE, claim_in_turn(app, key, id)).await else {
        return Ok(Some(RefreshAttempt { status: RefreshStatus::ConnectError, http_response: None }));
    };
    let Some(claim) = claim? else { return Ok(None) };
    if claim.secrets(key)?.token != refused.token {
        app.db.write(move |tx| release(tx, &claim)).await?;
        return Ok(Some(RefreshAttempt { status: RefreshStatus::Succeeded, http_response: None }));
    }
    // In a task of its own: whoever gives up must not end it between the new tokens and their record.
    let (renews, client) = (app.clone(), client.clone());
    let renewing = app.tasks.spawn(async move { renew(&renews, &client, claim).await });
    renewing.await.map_err(Error::internal)?.map(Some)
}

/// The claim, once nobody else has it; `None` when the credential is gone.
async fn claim_in_turn(app: &App, key: &DataKey, id: &CredentialId) -> Result<Option<Claim>> {
    loop {
        let of = id.clone();
        if let Some(claim) = app.db.write(move |tx| claim(tx, &of)).await? {
            return Ok(Some(claim));
        }
        let (of, key) = (id.clone(), key.clone());
        if app.db.read(move |tx| store::secrets(tx, &of, &key)).await.is_err() {
            return Ok(None);
        }
        sleep(REFRESH_LOOK).await;
    }
}

/// Renews the token of a claimed credential and records how that went.
pub async fn renew(app: &App, client: &Client, claim: Claim) -> Result<RefreshAttempt> {
    let key = app.vault.key(&app.db, &claim.workspace).await?;
    let used = claim.secrets(&key)?;
    let refresh = match &claim.auth {
        Auth::McpOauth(McpOauth { refresh: Some(refresh), .. }) if used.refresh_token.is_some() => refresh,
        _ => {
            app.db.write(move |tx| release(tx, &claim)).await?;
            return Ok(RefreshAttempt { status: RefreshStatus::NoRefreshToken, http_response: None });
        }
    };
    let exchanged = oauth::exchange(client, app.config.vault.allow_private, refresh, &used).await;
    let id = claim.id.clone();
    let (outcome, attempt) = match exchanged {
        Exchanged::Tokens(tokens) => {
            record_tokens(app, claim, key, used, tokens).await?;
            ("succeeded", RefreshAttempt { status: RefreshStatus::Succeeded, http_response: None })
        }
        Exchanged::Refused { code, response } => {
            tracing::warn!(credential_id = %id, code, "a token endpoint refused to renew a token");
            app.db.write(move |tx| record_refusal(tx, &claim)).await?;
            ("refused", RefreshAttempt { status: RefreshStatus::Failed, http_response: Some(response) })
        }
        Exchanged::Failed { why, response, wait } => {
            tracing::info!(credential_id = %id, why, "a token could not be renewed");
            let wait_micros = wait.map_or(0, |wait| wait.as_micros() as i64);
            app.db.write(move |tx| record_failure(tx, &claim, wait_micros)).await?;
            let status = if response.is_some() { RefreshStatus::Failed } else { RefreshStatus::ConnectError };
            ("failed", RefreshAttempt { status, http_response: response })
        }
    };
    metrics::counter!("rota_credential_refreshes_total", "outcome" => outcome).increment(1);
    Ok(attempt)
}

/// Records new tokens, which are nowhere else: for as long as the store cannot take them, and the server runs.
async fn record_tokens(app: &App, claim: Claim, key: DataKey, used: Secrets, tokens: Tokens) -> Result<()> {
    let tokens = std::sync::Arc::new(tokens);
    loop {
        let (claim, key, used, tokens) = (claim.clone(), key.clone(), used.clone(), tokens.clone());
        let id = claim.id.clone();
        let Err(error) = app.db.write(move |tx| record(tx, &claim, &key, &used, &tokens)).await else { return Ok(()) };
        if app.is_stopping() {
            tracing::error!(credential_id = %id, %error, "new tokens are lost: the store could not take them");
            return Err(error);
        }
        if telemetry::may_tell("new tokens that are not recorded") {
            tracing::error!(credential_id = %id, %error, "new tokens are not recorded yet");
        }
        sleep(REFRESH_RECORD_RETRY).await;
    }
}

/// Puts new tokens in the place of those that they were got with. What somebody else has put there meanwhile stays.
fn record(tx: &mut Tx<'_>, claim: &Claim, key: &DataKey, used: &Secrets, tokens: &Tokens) -> Result<()> {
    let Some((auth, mut secrets)) = stored(tx, claim, key)? else { return Ok(()) };
    let Auth::McpOauth(mut oauth) = auth else { return release(tx, claim) };
    if secrets.refresh_token != used.refresh_token {
        return release(tx, claim);
    }
    if let Some(refresh_token) = &tokens.refresh_token {
        secrets.refresh_token = Some(refresh_token.clone());
    }
    if secrets.token == used.token {
        secrets.token = Some(tokens.access_token.clone());
        oauth.expires_at = tokens.expires_in.map(|seconds| tx.now().plus_micros(seconds * 1_000_000));
    }
    store::write_auth(tx, &claim.id, &Auth::McpOauth(oauth), &secrets, key)?;
    release(tx, claim)
}

/// What is stored by now; `None` once the credential is archived or deleted.
fn stored(tx: &mut Tx<'_>, claim: &Claim, key: &DataKey) -> Result<Option<(Auth, Secrets)>> {
    store::lock(tx, &claim.workspace, claim.vault.as_ref(), claim.id.as_ref())?;
    let sql = "SELECT auth, secrets FROM credentials WHERE id = $1 AND secrets IS NOT NULL";
    let found = tx.one(sql, vals![&claim.id], |row| Ok((row.json("auth")?, row.text("secrets")?)))?;
    found.map(|(auth, sealed)| Ok((auth, sealed::open(key, claim.id.as_ref(), &sealed)?))).transpose()
}

/// What is known of the tries of a credential that this claim still speaks for and that nobody has changed since.
fn tries(tx: &mut Tx<'_>, claim: &Claim) -> Result<Option<(i64, Option<Time>)>> {
    store::lock(tx, &claim.workspace, claim.vault.as_ref(), claim.id.as_ref())?;
    let sql = "SELECT failures, refresh_at FROM credentials WHERE id = $1 AND claims = $2 AND secrets = $3";
    tx.one(sql, vals![&claim.id, claim.claims, &claim.sealed], |row| Ok((row.int(0)?, row.opt_time(1)?)))
}

fn record_refusal(tx: &mut Tx<'_>, claim: &Claim) -> Result<()> {
    if let Some(known) = tries(tx, claim)? {
        give_up(tx, claim, known)?;
    }
    release(tx, claim)
}

fn record_failure(tx: &mut Tx<'_>, claim: &Claim, wait_micros: i64) -> Result<()> {
    match tries(tx, claim)? {
        Some((failures, refresh_at)) if claim.is_due && failures + 1 >= REFRESH_TRIES => {
            give_up(tx, claim, (failures, refresh_at))?;
        }
        Some((failures, _)) if claim.is_due => {
            let backoff = Backoff::doubling(REFRESH_RETRY_FIRST, REFRESH_RETRY_MAX);
            // Its own digits spread what failed together.
            let place =
                claim.id.as_ref().bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            let pause = backoff.spread((failures + 1) as u32, place).as_micros() as i64;
            tx.execute(
                "UPDATE credentials SET failures = failures + 1, refresh_at = $2 WHERE id = $1",
                vals![&claim.id, tx.now().plus_micros(pause.max(wait_micros))],
            )?;
        }
        // Somebody wanted to know, and when it is due it is tried as if nobody had.
        _ => {}
    }
    release(tx, claim)
}

/// Nobody tries any more until the credential is changed. It is told once.
fn give_up(tx: &mut Tx<'_>, claim: &Claim, (failures, refresh_at): (i64, Option<Time>)) -> Result<()> {
    tx.execute("UPDATE credentials SET failures = failures + 1, refresh_at = NULL WHERE id = $1", vals![&claim.id])?;
    if failures > 0 && refresh_at.is_none() {
        return Ok(());
    }
    store::tell(tx, &claim.workspace, &claim.vault, EventType::VaultCredentialRefreshFailed, [&claim.id])
}
