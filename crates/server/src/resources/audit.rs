//! The audit list: every change of a resource with who made it. Transactions write its rows (`db/audit.rs`); nothing changes
//! one.

use axum::{
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::{Stream, stream::try_unfold};
use http::{HeaderMap, HeaderValue, header};
use rota_api::{
    audit::{Actor, ActorType, AuditEvent, AuditedResource},
    id::{self, AuditEventId, WorkspaceId},
};

use crate::{
    app::App,
    db::{Db, Row, Select, Val},
    error::{Error, Result},
    limits::{AUDIT_EXPORT_ROWS, PAGE_BYTES},
    page::{Order, Rows},
    request::{List, Query, Reader},
};

/// The media type of an export: a JSON object a line.
const JSON_LINES: &str = "application/jsonl";

/// `GET /rota/v1/audit`: a page, or with `format=jsonl` or `Accept: application/jsonl` everything, a line each.
pub async fn list(
    State(app): State<App>,
    Reader(workspace): Reader,
    headers: HeaderMap,
    query: Query,
) -> Result<Response> {
    let select = select(workspace.as_ref(), &query)?;
    let order = query.one_of("order", &["asc", "desc"])?.map_or(Order::Desc, Order::from_name);
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = query.one_of("format", &["json", "jsonl"])?;
    if format == Some("jsonl") || format.is_none() && accepts.is_some_and(|accept| accept.starts_with(JSON_LINES)) {
        if query.text("limit").or(query.text("page")).is_some() {
            let message = "limit, page: cannot be set where all rows are sent as JSON lines: use from and to";
            return Err(Error::invalid(message));
        }
        query.finish()?;
        let mut response = Body::from_stream(lines(app.db.clone(), select, order)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON_LINES));
        return Ok(response);
    }
    let list = List { select, key: "id", paging: query.paging(20, 1000, order)? };
    list.page(&app.db, from_row, |event| event.id.to_string()).await.map(IntoResponse::into_response)
}

/// The rows that are asked for, of one workspace or of all.
fn select(workspace: Option<&WorkspaceId>, query: &Query) -> Result<Select> {
    let named = query.text("workspace_id");
    if named.is_some() && workspace.is_some() {
        let message = "workspace_id: only for an administrator's key that names no workspace in its header";
        return Err(Error::invalid(message));
    }
    let (actor, resource) = (query.text("actor_id"), query.text("resource_id"));
    let mut select = match workspace.map(AsRef::as_ref).or(named) {
        // What is found by its actor or its resource is few rows: they are not to be looked for among all of a workspace.
        Some(workspace) if actor.is_some() || resource.is_some() => {
            Select::new(&format!("{SELECT} WHERE coalesce(workspace_id, '') = $1"), workspace)
        }
        Some(workspace) => Select::new(&format!("{SELECT} WHERE workspace_id = $1"), workspace),
        None => Select::everywhere(&format!("{SELECT} WHERE TRUE")),
    };
    select.text("actor_id =", actor);
    select.text("resource_id =", resource);
    select.text("actor_type =", query.one_of("actor_type", ActorType::NAMES)?);
    select.text("operation =", query.text("operation"));
    select.text("resource_type =", query.text("resource_type"));
    select.text("id >=", query.time("from")?.map(id::floor::<AuditEventId>));
    select.text("id <", query.time("to")?.map(id::floor::<AuditEventId>));
    Ok(select)
}

/// All rows of `select`, some at a time: the next ones are read when the client has taken those before.
fn lines(db: Db, select: Select, order: Order) -> impl Stream<Item = Result<Bytes>> + Send {
    let begin = Some((select, None::<String>));
    try_unfold(begin, move |at| {
        let db = db.clone();
        async move {
            let Some((select, after)) = at else { return Ok(None) };
            let (select, Rows { rows, more }) = db
                .read(move |tx| {
                    let (after, bounds) = (after.as_deref().map(Val::Text), (AUDIT_EXPORT_ROWS, PAGE_BYTES));
                    select.rows(tx, "id", order, after, bounds, from_row).map(|rows| (select.clone(), rows))
                })
                .await?;
            let mut text = Vec::new();
            for row in &rows {
                serde_json::to_writer(&mut text, row)?;
                text.push(b'\n');
            }
            let last = rows.last().map(|row| row.id.to_string());
            let next = last.filter(|_| more).map(|last| (select, Some(last)));
            Ok(Some((Bytes::from(text), next)))
        }
    })
}

const SELECT: &str =
    "SELECT id, workspace_id, actor_type, actor_id, operation, resource_type, resource_id, parent_id, fields,
    request_id, created_at FROM audit";

fn from_row(row: &Row<'_>) -> Result<AuditEvent> {
    Ok(AuditEvent {
        id: row.id("id")?,
        r#type: "audit_event",
        workspace_id: row.opt_id("workspace_id")?,
        actor: Actor { r#type: row.name("actor_type", ActorType::from_name)?, id: row.opt_text("actor_id")? },
        operation: row.text("operation")?,
        resource: AuditedResource {
            r#type: row.text("resource_type")?,
            id: row.opt_text("resource_id")?,
            parent_id: row.opt_text("parent_id")?,
        },
        changed_fields: row.opt_json("fields")?,
        request_id: row.opt_id("request_id")?,
        created_at: row.time("created_at")?,
    })
}
