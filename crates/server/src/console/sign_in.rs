//! `/console/sign-in`: a key, or the address that the server printed, becomes a cookie.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rota_api::{
    Time,
    id::{ApiKeyId, WorkspaceId},
};
use serde::Serialize;

use crate::{
    app::App,
    error::{Error, Result},
    request::{
        Json, caller,
        sign_in::{self, SignIns, SignedIn},
    },
    resources::api_keys,
};

/// The header with the word of an address that signs in once.
const WORD: &str = "x-rota-sign-in";
/// What the keys are called that such an address makes.
const KEY_NAME: &str = "console, by its one-time address";

/// Who is signed in.
#[derive(Debug, Serialize)]
pub(super) struct Who {
    key_id: ApiKeyId,
    /// `None` for an administrator's key in a request that names none.
    workspace_id: Option<WorkspaceId>,
    is_administrator: bool,
    organization_id: Option<String>,
    /// When the sign-in ends.
    until: Option<Time>,
}

/// `GET /console/sign-in`: who is signed in.
pub(super) async fn who(State(app): State<App>, headers: HeaderMap) -> Result<Json<Who>> {
    let until = app.sign_ins.read(&headers, app.clock.now())?.map(|signed_in| signed_in.until);
    admitted(&app, &headers, until).await.map(Json)
}

/// `POST /console/sign-in`, with a key in `x-api-key` or the word of an address in `x-rota-sign-in`.
pub(super) async fn sign_in(State(app): State<App>, headers: HeaderMap) -> Result<Response> {
    sign_in::check_own_page(&headers)?;
    let now = app.clock.now();
    let until = SignIns::end(now);
    let signed_in = if let Some(word) = headers.get(WORD) {
        app.sign_ins.take_word(word.to_str().unwrap_or_default(), now)?;
        // Nobody sees its secret: it is there to be listed, and to be ended.
        let made = app.db.write(move |tx| api_keys::create_key(tx, None, KEY_NAME, Some(until))).await?;
        SignedIn { key: made.id, until, owns_key: true }
    } else {
        let key = caller::key_of(&headers).ok_or(Error::Unauthenticated("a sign-in needs a key"))?;
        let mut sent = HeaderMap::new();
        sent.insert("x-api-key", HeaderValue::from_str(key).map_err(Error::internal)?);
        SignedIn { key: admitted(&app, &sent, None).await?.key_id, until, owns_key: false }
    };
    let cookie = app.sign_ins.set_cookie(&signed_in, now, &headers);
    with_cookie(&cookie.ok_or_else(|| Error::internal("nothing signs cookies"))?)
}

/// `DELETE /console/sign-in`. It ends a key that was made for this sign-in.
pub(super) async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<Response> {
    sign_in::check_own_page(&headers)?;
    if let Ok(Some(SignedIn { key, owns_key: true, .. })) = app.sign_ins.read(&headers, app.clock.now()) {
        app.db.write(move |tx| api_keys::revoke(tx, key.as_ref())).await?;
    }
    with_cookie(&app.sign_ins.unset_cookie(&headers))
}

async fn admitted(app: &App, headers: &HeaderMap, until: Option<Time>) -> Result<Who> {
    let admission = caller::authenticate(&app.db, &app.sign_ins, headers).await?;
    let key_id = admission.api_key().cloned().ok_or_else(|| {
        Error::Forbidden(
            "a worker's key opens no console: paste the key of a workspace, or an administrator's".to_owned(),
        )
    })?;
    Ok(Who {
        key_id,
        workspace_id: admission.workspace().cloned(),
        is_administrator: admission.is_administrator(),
        organization_id: app.organization_header.to_str().ok().map(str::to_owned),
        until,
    })
}

fn with_cookie(cookie: &str) -> Result<Response> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_str(cookie).map_err(Error::internal)?);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
