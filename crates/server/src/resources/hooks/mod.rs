//! Hooks of deployments: addresses at which others start them. Who sends there has no key: the secret of the hook, by which the
//! request is signed, is what lets it in.

mod payload;
mod store;
mod verify;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rota_api::{
    Deleted, Time,
    hook::{
        Hook, HookAnswer, HookDelivery, HookFields, HookOutcome, HookScheme, NewHook, Rotation, SLACK_HAS_ITS_OWN,
        SlackChallenge,
    },
    secret::Secret,
};
use zeroize::Zeroizing;

use crate::{
    app::{App, FirePolicy},
    db::Tx,
    error::{Error, Result},
    limits::MAX_HOOK_BODY_BYTES,
    page::{Order, Page},
    random,
    request::{Body, Caller, Coding, Json, List, Path, PathAndQuery},
    resources::{
        deployments::{self, starts},
        run_starts::Given,
    },
    vault::DataKey,
};

use payload::Payload;
use store::{Called, HOOKS};
use verify::{Claim, STANDARD_PREFIX};

/// `POST /rota/v1/deployments/{deployment_id}/hooks`.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(deployment): Path<String>,
    body: Body,
) -> Result<Json<NewHook>> {
    let new = body.read_secret(HookFields::read)?;
    let secret = secret_of(new.scheme, new.secret.as_ref())?;
    let key = app.vault.key(&app.db, &caller.workspace).await?;
    app.db.write(move |tx| store::insert(tx, &caller.workspace, &deployment, &new, &secret, &key)).await.map(Json)
}

/// `POST /rota/v1/hooks/{hook_id}/rotate`: a new secret, and how long the one before is taken too.
pub async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<NewHook>> {
    let Rotation { secret: own, overlap_seconds } = body.read_secret(Rotation::read)?;
    let (workspace, of) = (caller.workspace.clone(), id.clone());
    // A hook keeps its scheme.
    let scheme = app.db.read(move |tx| HOOKS.get(tx, &workspace, &of)).await?.scheme;
    if scheme == HookScheme::Slack && own.is_none() {
        return Err(Error::invalid(format_args!("secret: {SLACK_HAS_ITS_OWN}")));
    }
    let secret = secret_of(scheme, own.as_ref())?;
    let key = app.vault.key(&app.db, &caller.workspace).await?;
    app.db.write(move |tx| store::rotate(tx, &caller.workspace, &id, &secret, overlap_seconds, &key)).await.map(Json)
}

/// The secret that a caller brings, or a new one.
fn secret_of(scheme: HookScheme, own: Option<&Secret>) -> Result<Zeroizing<String>> {
    let secret = match own {
        Some(own) => Zeroizing::new(own.reveal().to_owned()),
        None => new_secret(scheme)?,
    };
    match verify::unusable(scheme, &secret) {
        Some(why) => Err(Error::invalid(format_args!("secret: {why}"))),
        None => Ok(secret),
    }
}

fn new_secret(scheme: HookScheme) -> Result<Zeroizing<String>> {
    if scheme != HookScheme::Standard {
        return random::secret().map(Zeroizing::new);
    }
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(Error::internal)?;
    Ok(Zeroizing::new(format!("{STANDARD_PREFIX}{}", STANDARD.encode(*bytes))))
}

/// `GET /rota/v1/deployments/{deployment_id}/hooks`.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(deployment, query): PathAndQuery<String>,
) -> Result<Json<Page<Hook>>> {
    let paging = query.paging(20, 100, Order::Desc)?;
    let (workspace, of) = (caller.workspace.clone(), deployment.clone());
    app.db.read(move |tx| deployments::get(tx, &workspace, &of)).await?;
    let mut select = HOOKS.select(&caller.workspace);
    select.text("deployment_id =", Some(deployment));
    List { select, key: "id", paging }.page(&app.db, store::from_row, |hook| hook.id.to_string()).await
}

/// `GET /rota/v1/hooks/{hook_id}`.
pub async fn retrieve(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Hook>> {
    app.db.read(move |tx| HOOKS.get(tx, &caller.workspace, &id)).await.map(Json)
}

/// `DELETE /rota/v1/hooks/{hook_id}`.
pub async fn delete(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deleted>> {
    app.db.write(move |tx| store::remove(tx, &caller.workspace, &id)).await.map(Json)
}

/// `POST /rota/v1/hooks/{hook_id}`: what others send. No more is done for who shows no signature than to read its headers.
pub async fn receive(State(app): State<App>, Path(id): Path<String>, request: Request) -> Result<Response> {
    let taken = take(&app, &id, request).await;
    let outcome = match &taken {
        Ok(Answer::Challenge(_)) => HookOutcome::Ignored.as_str(),
        Ok(Answer::Delivery(delivery)) => delivery.answer.outcome.as_str(),
        Err(_) => "refused",
    };
    metrics::counter!("rota_hook_deliveries_total", "outcome" => outcome).increment(1);
    Ok(match taken? {
        Answer::Challenge(challenge) => Json(challenge).into_response(),
        Answer::Delivery(delivery) => Json(delivery).into_response(),
    })
}

/// What a sender is answered.
enum Answer {
    Challenge(SlackChallenge),
    Delivery(HookDelivery),
}

async fn take(app: &App, id: &str, request: Request) -> Result<Answer> {
    let hook = Arc::new(Called::find(&app.db, id).await?);
    let (parts, body) = request.into_parts();
    let claim = Claim::read(hook.scheme, &parts.headers, app.clock.now()).map_err(Error::Unauthenticated)?;
    if Coding::of(&parts.headers)? != Coding::Plain {
        return Err(Error::invalid("content-encoding: what is sent to a hook is signed as it is; send it without"));
    }
    let (body, _place) = app.strangers.read_within(Some(&hook.workspace), body, MAX_HOOK_BODY_BYTES).await?;
    let key = app.vault.key(&app.db, &hook.workspace).await?;
    let delivery = check(&claim, &hook, &key, (&body, app.clock.now()))?;
    let payload = Payload { scheme: hook.scheme, headers: &parts.headers, body: &body };
    if let Some(challenge) = payload.challenge() {
        return Ok(Answer::Challenge(SlackChallenge { challenge }));
    }
    if payload.is_trial() {
        let answer = HookAnswer { outcome: HookOutcome::Ignored, reason: None, run_id: None, start_id: None };
        return Ok(Answer::Delivery(told(&hook, delivery, answer, false)));
    }
    let given = Given { inputs: None, content: vec![payload.block(&hook.name)?] };
    let (policy, of, named) = (app.fire_policy(), hook.clone(), delivery.clone());
    let (answer, repeated) = app.db.write(move |tx| start(tx, &policy, &of, named.as_deref(), &given)).await?;
    Ok(Answer::Delivery(told(&hook, delivery, answer, repeated)))
}

/// That a delivery is signed with the secret of the hook, or with the one before while that is taken. The sender's id of it.
fn check(claim: &Claim<'_>, hook: &Called, key: &DataKey, (body, now): (&[u8], Time)) -> Result<Option<String>> {
    let forged = match claim.check(&hook.secret(key)?, body) {
        Ok(delivery) => return Ok(delivery),
        Err(forged) => forged,
    };
    let former = hook.former_secret(key, now)?;
    let delivery = former.and_then(|former| claim.check(&former, body).ok());
    delivery.ok_or(Error::Unauthenticated(forged))
}

fn told(hook: &Called, delivery_id: Option<String>, answer: HookAnswer, repeated: bool) -> HookDelivery {
    HookDelivery { r#type: "hook_delivery", hook_id: hook.id.clone(), delivery_id, answer, repeated }
}

/// Starts what a delivery asks for, once. The answer, and whether it is that of an earlier time.
fn start(
    tx: &mut Tx<'_>,
    policy: &FirePolicy,
    hook: &Called,
    delivery: Option<&str>,
    given: &Given,
) -> Result<(HookAnswer, bool)> {
    // Looked for before anything is written, so that what is refused costs nothing.
    if let Some(delivery) = delivery
        && let Some(earlier) = store::earlier(tx, &hook.id, delivery)?
    {
        return Ok((earlier, true));
    }
    store::count(tx, &hook.id)?;
    if let Some(delivery) = delivery
        && !store::claim(tx, &hook.id, delivery)?
    {
        let earlier = store::earlier(tx, &hook.id, delivery)?;
        return earlier.map(|earlier| (earlier, true)).ok_or_else(|| Error::internal("a delivery has no answer"));
    }
    let called = starts::by_hook(tx, policy, &hook.workspace, &hook.deployment, &hook.id, given)?;
    let nothing = HookAnswer { outcome: HookOutcome::Skipped, reason: None, run_id: None, start_id: None };
    let answer = match called {
        starts::Called::Ran(run) => {
            let outcome = if run.error.is_none() { HookOutcome::Started } else { HookOutcome::Failed };
            HookAnswer { outcome, run_id: Some(run.id), ..nothing }
        }
        starts::Called::Queued(id) => HookAnswer { outcome: HookOutcome::Queued, start_id: Some(id), ..nothing },
        starts::Called::Skipped(reason) => HookAnswer { reason: Some(reason), ..nothing },
    };
    if let Some(delivery) = delivery {
        store::answered(tx, &hook.id, delivery, &answer)?;
    }
    Ok((answer, false))
}
