//! Files: uploads, the copies of them that sessions have mounted, and what agents hand over.

mod store;

use axum::{
    body::Body as Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header};
use rota_api::{
    Deleted, Time,
    file::{self, EXPIRES_IN_SECONDS, File},
    id::WorkspaceId,
};

use crate::{
    app::App,
    blobs::Written,
    db::Select,
    error::{Error, Result},
    limits::{MAX_FILE_BYTES, MAX_FILENAME, MAX_LISTED_IDS},
    page::{NullPage, Order, Page},
    request::{Caller, CallerOrWorker, Json, List, Part, Path, Query, Upload, beta},
};

pub use store::{
    Mounted, NewFile, Output, Source, are_named, ask_mountable, copy, count, expire, insert, mountable, mounted,
    no_longer_count, not_found, outputs, remove, remove_of_session, replace_output, same_output, source,
};

/// Most bytes of a field of an upload that is no file.
const MAX_FIELD: usize = 64;

/// `POST /v1/files`.
pub async fn upload(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    mut upload: Upload,
) -> Result<Json<File>> {
    let workspace = caller.workspace;
    let quota = app.config.blobs.workspace_bytes();
    let of = workspace.clone();
    app.db.read(move |tx| store::check_quota(tx, &of, 1, quota)).await?;
    let (mut uploaded, mut expires) = (None, None);
    while let Some(part) = upload.next().await? {
        match part.name.as_str() {
            "file" if uploaded.is_some() => return Err(Error::invalid("file: value must be sent once")),
            "file" => uploaded = Some(Uploaded::read(&app, &workspace, part).await?),
            "expires_in_seconds" => expires = Some(read_expiry(&part.text(MAX_FIELD).await?)?),
            // Clients that speak to several services say what a file is for; here that has one answer.
            "purpose" => drop(part.text(MAX_FIELD).await?),
            other => return Err(Error::invalid(format_args!("{other}: Extra inputs are not permitted"))),
        }
    }
    let Uploaded { filename, mime_type, written } = uploaded.ok_or_else(|| Error::invalid("file: Field required"))?;
    let scoped = beta::is_managed_agents(&headers);
    app.db
        .write(move |tx| {
            let expires_at: Option<Time> = expires.map(|seconds| tx.now().plus_micros(seconds * 1_000_000));
            let new = NewFile {
                workspace: &workspace,
                session: None,
                filename: &filename,
                mime_type: &mime_type,
                written: &written,
                output: None,
                expires_at,
            };
            let id = insert(tx, &new, quota)?;
            tx.audit_made(&id);
            store::get(tx, &workspace, id.as_ref(), scoped)
        })
        .await
        .map(Json)
}

/// A file that was uploaded and has no row yet.
struct Uploaded {
    filename: String,
    mime_type: String,
    written: Written,
}

impl Uploaded {
    async fn read(app: &App, workspace: &WorkspaceId, mut part: Part) -> Result<Self> {
        let named = part.filename.as_deref().and_then(file::filename);
        if named.is_some_and(|name| name.chars().count() > MAX_FILENAME || name.chars().any(char::is_control)) {
            return Err(Error::invalid(format_args!(
                "file: the filename must have at most {MAX_FILENAME} characters, and none that is a control character"
            )));
        }
        let mime_type = part.content_type.clone();
        let mime_type = mime_type.unwrap_or_else(|| named.map_or("application/octet-stream", file::type_of).to_owned());
        let filename = named.map_or_else(|| file::unnamed(&mime_type), str::to_owned);
        let mut writing = app.blobs.begin(workspace).await?;
        while let Some(piece) = part.piece().await? {
            if writing.size() + piece.len() as u64 > MAX_FILE_BYTES {
                return Err(Error::TooLarge(format!("file: larger than {} MB", MAX_FILE_BYTES / 1024 / 1024)));
            }
            writing.write(&piece).await?;
        }
        Ok(Self { filename, mime_type, written: writing.finish().await? })
    }
}

fn read_expiry(text: &str) -> Result<i64> {
    let seconds: i64 =
        text.trim().parse().map_err(|_| Error::invalid("expires_in_seconds: Input should be a valid integer"))?;
    if EXPIRES_IN_SECONDS.contains(&seconds) {
        return Ok(seconds);
    }
    let (least, most) = (EXPIRES_IN_SECONDS.start(), EXPIRES_IN_SECONDS.end());
    Err(Error::invalid(format_args!(
        "expires_in_seconds: must be greater than or equal to {least} and less than or equal to {most}"
    )))
}

/// `GET /v1/files`. Files of sessions are listed where a session is asked for, or their ids are.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    query: Query,
) -> Result<Json<NullPage<File>>> {
    let scoped = beta::is_managed_agents(&headers);
    let mut select = Select::new(store::SELECT, &caller.workspace);
    let mut ids = query.texts("ids", usize::MAX)?;
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > MAX_LISTED_IDS {
        return Err(Error::invalid(format_args!("ids: value must contain no more than {MAX_LISTED_IDS} item(s)")));
    }
    let scope = query.text("scope_id");
    if !ids.is_empty() {
        if query.text("page").is_some() || query.text("limit").is_some() {
            return Err(Error::invalid("ids: cannot be set together with page or limit"));
        }
        select.any_of("id", &ids);
    }
    match scope {
        Some(session) => select.text("session_id =", Some(session)),
        None => select.when(ids.is_empty(), "session_id IS NULL"),
    }
    let paging = query.paging(if ids.is_empty() { 20 } else { MAX_LISTED_IDS as i64 }, 1000, Order::Desc)?;
    let one_page = !ids.is_empty();
    let list = List { select, key: "id", paging };
    let Json(mut page) =
        list.page(&app.db, move |row| store::from_row(row, scoped), |file: &File| file.id.to_string()).await?;
    if one_page {
        page = Page { next_page: None, ..page };
    }
    Ok(Json(NullPage::from(page)))
}

/// `GET /v1/files/{file_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<File>> {
    let scoped = beta::is_managed_agents(&headers);
    app.db.read(move |tx| store::get(tx, &caller.workspace, &id, scoped)).await.map(Json)
}

/// `DELETE /v1/files/{file_id}`. What is mounted is a copy, and stays.
pub async fn delete(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deleted>> {
    app.db
        .write(move |tx| {
            if !remove(tx, &caller.workspace, &id)? {
                return Err(not_found(&id));
            }
            Ok(Deleted::new("file_deleted", &id))
        })
        .await
        .map(Json)
}

/// `GET /v1/files/{file_id}/content`.
pub async fn content(State(app): State<App>, caller: CallerOrWorker, Path(id): Path<String>) -> Result<Response> {
    if caller.worker().is_some() {
        // Recorded.
        return Err(Error::NotFound("Not found".to_owned()));
    }
    let of = id.clone();
    let found = app.db.read(move |tx| store::content(tx, &caller.workspace, &of)).await?;
    if !found.downloadable {
        return Err(Error::Rejected {
            code: "file_not_downloadable",
            message: format!(
                "File `{id}` is not downloadable. Only files generated by a tool (for example, the code execution tool) \
                 can be downloaded."
            ),
        });
    }
    let pieces = app.blobs.read(&found.blob).await?;
    let mut response = Bytes::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).map_err(Error::internal);
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, value(&found.mime_type).unwrap_or(octets));
    headers.insert(header::CONTENT_LENGTH, value(&found.size.to_string())?);
    headers.insert(header::CONTENT_DISPOSITION, value(&disposition(&found.filename))?);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// The name under which a client is to keep a file (RFC 6266): recorded in this form.
fn disposition(filename: &str) -> String {
    let mut text = "attachment; filename*=utf-8''".to_owned();
    for byte in filename.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_characters_is_sent_in_plain_ones() {
        assert_eq!(disposition("a b\"\r\nç.txt"), "attachment; filename*=utf-8''a%20b%22%0D%0A%C3%A7.txt");
    }
}
