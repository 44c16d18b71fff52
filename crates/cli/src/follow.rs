//! Following a session until it rests, through outages of the server, without an event lost or told twice.
//!
//! A stream is opened after the last event that was told of, by its place in the log (`Last-Event-ID`). What has not come to the
//! end of its frame when a connection breaks comes again.

use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    client::{Client, Error, Result, id},
    find::text,
    limits::{AWAY, RETRY_FIRST, RETRY_MOST, STREAM},
    output::{Exit, Out},
    sse::{Frame, Frames},
    story::Story,
};

/// Tells all of a session from its beginning until it rests. How it went.
///
/// # Errors
/// When the server does not let it be watched, or has been away for longer than [`AWAY`].
pub async fn follow(client: &Client, session: &str, out: &Out) -> Result<Exit> {
    let mut watch = Watch {
        client,
        session: id(session)?,
        is_json: out.json,
        story: Story::new(*out, session),
        place: "0".to_owned(),
        newest: None,
        has_begun: false,
    };
    let mut away: Option<Instant> = None;
    let mut pause = RETRY_FIRST;
    loop {
        let before = watch.place.clone();
        let ended = watch.stream(&mut away).await;
        if watch.place != before {
            (away, pause) = (None, RETRY_FIRST);
        }
        let why = match ended {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => None,
            Err(error) if passes(&error) && watch.has_begun => Some(error),
            Err(error) => return Err(error),
        };
        if away.is_none() {
            watch.story.break_off()?;
            eprintln!("the server has gone away; waiting for it");
        }
        let since = *away.get_or_insert_with(Instant::now);
        if since.elapsed() > AWAY {
            return Err(why.unwrap_or_else(|| Error::Unreachable {
                base: client.base().to_owned(),
                why: "its streams end at once".to_owned(),
            }));
        }
        sleep(pause).await;
        pause = RETRY_MOST.min(pause * 2);
    }
}

/// Whether what went wrong may be over soon.
fn passes(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Refused(refusal) => refusal.status >= 500 || refusal.status == 429,
        _ => false,
    }
}

struct Watch<'a> {
    client: &'a Client,
    session: &'a str,
    is_json: bool,
    story: Story,
    /// Where the last event of the log is that was told of; 0 before the first one.
    place: String,
    /// The newest event that says what the session is doing, where that is known and not told of yet.
    newest: Option<String>,
    /// Whether a stream was ever open. A server that never answered is not waited for.
    has_begun: bool,
}

impl Watch<'_> {
    /// Tells what one stream says. `None`: it has ended, and the session goes on.
    async fn stream(&mut self, away: &mut Option<Instant>) -> Result<Option<Exit>> {
        let deltas = if self.is_json { "" } else { "?event_deltas[]=agent.message" };
        let path = format!("/v1/sessions/{}/events/stream{deltas}", self.session);
        let request = self.client.request(Method::GET, &path).header("last-event-id", &self.place).timeout(STREAM);
        let mut response = self.client.open(request).await?;
        self.has_begun = true;
        if away.take().is_some() {
            eprintln!("the server is back");
        }
        let mut frames = Frames::default();
        while let Some(bytes) = response.chunk().await.map_err(|error| self.client.unreachable(&error))? {
            let told = frames.take(&bytes);
            for frame in told.map_err(|_| Error::Failed("the stream has an event that is too large".to_owned()))? {
                if let Some(exit) = self.frame(frame).await? {
                    return Ok(Some(exit));
                }
            }
        }
        Ok(None)
    }

    async fn frame(&mut self, Frame { id, data }: Frame) -> Result<Option<Exit>> {
        let event: Value = serde_json::from_str(&data)
            .map_err(|_| Error::Failed(format!("{} streams something that is not JSON", self.client.base())))?;
        let kind = text(&event, "type");
        let is_of_the_log = !matches!(kind, "event_start" | "event_delta" | "session.deleted");
        match id {
            Some(id) => self.place = id,
            None if is_of_the_log => {
                let words =
                    "this server's streams cannot be taken up where they ended; `rota logs` without -f reads the log";
                return Err(Error::Failed(words.to_owned()));
            }
            None => {}
        }
        self.story.tell(&event)?;
        if self.newest.as_deref() == event["id"].as_str() {
            self.newest = None;
        }
        match kind {
            "session.deleted" | "session.status_terminated" => Ok(Some(Exit::Failed)),
            "session.status_idle" if self.rests_since(&event).await? => {
                Ok(Some(outcome(text(&event["stop_reason"], "type"))))
            }
            _ => Ok(None),
        }
    }

    /// Whether nothing has followed this rest. While the server is away it is waited for.
    async fn rests_since(&mut self, event: &Value) -> Result<bool> {
        let this = text(event, "id");
        if self.newest.as_deref().is_some_and(|newest| newest != this) {
            return Ok(false);
        }
        let since = Instant::now();
        let newest = loop {
            match rest_of(self.client, self.session).await {
                Ok(Some(newest)) => break newest,
                Ok(None) => return Ok(false),
                Err(error) if passes(&error) && since.elapsed() < AWAY => sleep(RETRY_MOST).await,
                Err(error) => return Err(error),
            }
        };
        self.newest = Some(text(&newest, "id").to_owned()).filter(|newest| newest != this);
        Ok(self.newest.is_none())
    }
}

/// The newest event that says what a session is doing that is at rest. `None` of one that is at work: what has been answered is so
/// before its log says it.
async fn rest_of(client: &Client, session: &str) -> Result<Option<Value>> {
    let now = client.get(&format!("/v1/sessions/{session}"), &[]).await?;
    if !matches!(text(&now, "status"), "idle" | "terminated") {
        return Ok(None);
    }
    let types =
        ["session.status_running", "session.status_rescheduled", "session.status_idle", "session.status_terminated"];
    let mut query: Vec<(&str, &str)> = types.iter().map(|name| ("types[]", *name)).collect();
    query.push(("order", "desc"));
    let newest = client.list(&format!("/v1/sessions/{session}/events"), &query, 1).await?;
    Ok(newest.data.into_iter().next())
}

/// What the reason of a rest means for whoever waits for it.
fn outcome(reason: &str) -> Exit {
    match reason {
        "end_turn" => Exit::Done,
        "requires_action" => Exit::Waiting,
        _ => Exit::Failed,
    }
}
