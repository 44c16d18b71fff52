//! The egress log: what the sandbox of a session connected to. The gate writes it.

use axum::extract::State;
use rota_api::egress::{EgressConnection, EgressOutcome, EgressReason};

use crate::{
    app::App,
    db::{Row, Select},
    error::Result,
    page::{Order, Page},
    request::{Caller, Json, PathAndQuery, SessionRef},
    resources::sessions,
};

/// `GET /rota/v1/sessions/{session_id}/egress`, newest first.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    PathAndQuery(SessionRef(session), query): PathAndQuery<SessionRef>,
) -> Result<Json<Page<EgressConnection>>> {
    let mut select = Select::new(SELECT, &caller.workspace);
    select.text("session_id =", Some(&session));
    select.text("outcome =", query.one_of("outcome", EgressOutcome::NAMES)?);
    let paging = query.paging(20, 100, Order::Desc)?;
    app.db
        .read(move |tx| {
            sessions::get(tx, &caller.workspace, &session)?;
            let rows = select.page(tx, "id", &paging, from_row)?;
            Ok(paging.page(rows, |connection| connection.id.to_string()))
        })
        .await
        .map(Json)
}

const SELECT: &str = "SELECT id, session_id, host, port, outcome, reason, bytes_in, bytes_out, credentials, started_at,
    duration_ms
    FROM egress WHERE workspace_id = $1";

fn from_row(row: &Row<'_>) -> Result<EgressConnection> {
    Ok(EgressConnection {
        id: row.id("id")?,
        r#type: "egress_connection",
        session_id: row.id("session_id")?,
        host: row.text("host")?,
        port: row.int("port")?,
        outcome: row.name("outcome", EgressOutcome::from_name)?,
        reason: match row.opt_text("reason")? {
            Some(_) => Some(row.name("reason", EgressReason::from_name)?),
            None => None,
        },
        bytes_in: row.int("bytes_in")?,
        bytes_out: row.int("bytes_out")?,
        credentials: row.opt_json("credentials")?.unwrap_or_default(),
        started_at: row.time("started_at")?,
        duration_ms: row.opt_int("duration_ms")?,
    })
}
