//! The models that the configuration offers.

use axum::extract::State;
use http::HeaderMap;
use rota_api::model::{Lifecycle, Model};

use crate::{
    app::App,
    error::{Error, Result},
    page::IdPage,
    request::{Caller, Json, PathAndQuery, Query, beta},
};

/// `GET /v1/models/{model_id}`, by its id or an alias.
pub async fn retrieve(
    State(app): State<App>,
    _caller: Caller,
    PathAndQuery(id, query): PathAndQuery<String>,
    headers: HeaderMap,
) -> Result<Json<Model>> {
    query.finish()?;
    let offer = app.offer();
    let model = offer.get(&id).ok_or_else(|| Error::not_found("Model", &id))?;
    Ok(Json(shape(&model.wire, query.beta() || beta::is_beta(&headers))))
}

/// `GET /v1/models`, the latest first. Retired models are listed only when `lifecycle` asks for them.
pub async fn list(
    State(app): State<App>,
    _caller: Caller,
    query: Query,
    headers: HeaderMap,
) -> Result<Json<IdPage<Model>>> {
    let lifecycles = query.any_of("lifecycle", Lifecycle::NAMES, Lifecycle::NAMES.len())?;
    let limit = query.integer("limit", 1, 1000)?.unwrap_or(20) as usize;
    let (after, before) = (query.text("after_id"), query.text("before_id"));
    query.finish()?;
    if after.is_some() && before.is_some() {
        return Err(Error::invalid("after_id: cannot be combined with before_id"));
    }
    let wanted = |model: &Model| match &lifecycles[..] {
        [] => model.lifecycle != Lifecycle::Retired,
        asked => asked.contains(&model.lifecycle.as_str()),
    };
    let offer = app.offer();
    let all: Vec<&Model> = offer.all().iter().map(|model| &model.wire).filter(|model| wanted(model)).collect();
    let place = |id: &str| {
        let found = all.iter().position(|model| model.id == id);
        found.ok_or_else(|| Error::invalid(format_args!("\"{id}\" is not a model of this list")))
    };
    let (rest, from_the_end) = match (after, before) {
        (Some(id), _) => (&all[place(id)? + 1..], false),
        (None, Some(id)) => (&all[..place(id)?], true),
        (None, None) => (&all[..], false),
    };
    let has_more = rest.len() > limit;
    let page = if from_the_end { &rest[rest.len().saturating_sub(limit)..] } else { &rest[..limit.min(rest.len())] };
    let beta = query.beta() || beta::is_beta(&headers);
    Ok(Json(IdPage {
        data: page.iter().map(|model| shape(model, beta)).collect(),
        has_more,
        first_id: page.first().map(|model| model.id.clone()),
        last_id: page.last().map(|model| model.id.clone()),
    }))
}

/// Requests with a beta header or `beta=true` are shown one field and one capability more.
fn shape(model: &Model, beta: bool) -> Model {
    let mut shaped = model.clone();
    if beta {
        shaped.allowed_fallback_models = Some(Vec::new());
    } else if let Some(capabilities) = shaped.capabilities.as_object_mut() {
        capabilities.remove("compaction");
    }
    shaped
}
