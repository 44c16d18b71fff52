//! The client of MCP servers: sessions at them over streamable HTTP, their tools, and calls of these.
//!
//! A session of an agent has a session at each of its servers while it is at work, and for a while after that, so that a server
//! which keeps something between two calls still has it. All of it is in memory: a server that takes over opens others.

mod connection;
mod content;
mod names;
mod transport;

pub use names::name_for_model;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::Client;
use rota_api::{
    agent::McpServer,
    id::{SessionId, WorkspaceId},
};
use serde_json::{Map, Value, json, value::RawValue};
use tokio::time::timeout;

use crate::{
    app::App,
    clock::Stopwatch,
    config::McpConfig,
    error::{Error, Result},
    limits::{MCP_CONNECTIONS, MCP_IDLE, MCP_NOTICE_TIMEOUT},
    outgoing,
    places::{Place, Places},
};

use connection::{Connection, Uncalled, Unconnected};
use transport::Problem;

/// The sessions at MCP servers of this process.
pub struct Mcp {
    client: Client,
    connect_within: Duration,
    call_within: Duration,
    places: Arc<Places>,
    sessions: Mutex<HashMap<SessionId, Arc<Sessions>>>,
}

/// Those of one session, by the names of their servers.
#[derive(Default)]
struct Sessions {
    open: Mutex<HashMap<String, Arc<Connection>>>,
    /// Since when the session is at rest, if it is.
    rests: Mutex<Option<Stopwatch>>,
}

/// Whose sessions they are.
#[derive(Clone, Copy)]
pub struct Of<'a> {
    /// The server.
    pub app: &'a App,
    /// The workspace.
    pub workspace: &'a WorkspaceId,
    /// The session.
    pub session: &'a SessionId,
}

/// A tool of a server.
#[derive(Debug, Clone)]
pub struct McpTool {
    /// The server, as the agent names it.
    pub server: String,
    /// The tool, as the server names it.
    pub name: String,
    /// The name under which a model sees it.
    pub for_model: String,
    /// What it does.
    pub description: String,
    /// JSON schema of its arguments.
    pub input_schema: Box<RawValue>,
}

/// Why a session goes on without a server's tools, or without some of them.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Whether it is about a credential.
    pub is_authentication: bool,
    /// What is wrong, and what to do.
    pub why: String,
}

impl Failure {
    /// One that is about no credential.
    pub fn of_connection(why: String) -> Self {
        Self { is_authentication: false, why }
    }
}

/// What became of a server that was to be connected.
#[derive(Debug)]
pub enum Connected {
    /// It is; so many of its tools are left out.
    With {
        /// How many.
        left_out: usize,
    },
    /// It is not.
    Not(Failure),
}

/// What became of a call.
#[derive(Debug)]
pub enum Called {
    /// It has a result.
    Result {
        /// Content blocks.
        content: Vec<Value>,
        /// Whether the tool failed.
        is_error: bool,
    },
    /// It has none.
    Failed {
        /// Whether it may have been run all the same.
        may_have_run: bool,
        /// What is wrong with the server.
        failure: Failure,
    },
}

impl Mcp {
    /// None so far.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: &McpConfig) -> Result<Self> {
        let connect_within = Duration::from_secs(config.connect_seconds);
        let client = outgoing::client(config.allow_private)?.connect_timeout(connect_within);
        Ok(Self {
            client: client.build().map_err(Error::internal)?,
            connect_within,
            call_within: Duration::from_secs(config.call_seconds),
            places: Places::new(MCP_CONNECTIONS),
            sessions: Mutex::default(),
        })
    }

    /// Those of a session that goes to work.
    pub fn using(self: &Arc<Self>, session: &SessionId) -> Using {
        let sessions = lock(&self.sessions).entry(session.clone()).or_default().clone();
        *lock(&sessions.rests) = None;
        Using { mcp: self.clone(), sessions }
    }

    /// Ends those of sessions that have been at rest for long.
    pub fn tidy(&self) {
        let is_over = |sessions: &Arc<Sessions>| {
            let rests = lock(&sessions.rests);
            rests.as_ref().is_some_and(|since| since.seconds() >= MCP_IDLE.as_secs_f64())
        };
        lock(&self.sessions).retain(|_, sessions| !is_over(sessions));
    }

    /// Ends those of a session that another server has.
    pub fn end(&self, session: &SessionId) {
        lock(&self.sessions).remove(session);
    }

    /// A place for one more. When there is none those end whose session has been at rest for longest.
    async fn place(&self, workspace: &WorkspaceId) -> Place {
        loop {
            if let Some(place) = self.places.take_free(workspace, 1).pop() {
                return place;
            }
            if !self.end_longest_at_rest() {
                return self.places.take(workspace).await;
            }
        }
    }

    fn end_longest_at_rest(&self) -> bool {
        let mut all = lock(&self.sessions);
        let rests = all.iter().filter_map(|(id, sessions)| {
            let seconds = lock(&sessions.rests).as_ref().map(|since| since.seconds())?;
            (!lock(&sessions.open).is_empty()).then_some((id, seconds))
        });
        let longest = rests.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(id, _)| id.clone());
        longest.is_some_and(|id| all.remove(&id).is_some())
    }
}

/// The sessions at MCP servers of a session that is at work. It is at rest when this is dropped.
pub struct Using {
    mcp: Arc<Mcp>,
    sessions: Arc<Sessions>,
}

impl Drop for Using {
    fn drop(&mut self) {
        *lock(&self.sessions.rests) = Some(Stopwatch::start());
    }
}

impl Using {
    /// Whether a server has to be connected, or asked again for its tools.
    pub fn needs(&self, server: &McpServer) -> bool {
        self.open(server).is_none_or(|connection| connection.is_changed())
    }

    /// Connects these servers, as far as they need it, side by side, and ends the connections to all that are not `known`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn connect<'a>(
        &self,
        of: Of<'_>,
        servers: &[&'a McpServer],
        known: &[McpServer],
    ) -> Result<Vec<(&'a McpServer, Connected)>> {
        lock(&self.sessions.open)
            .retain(|name, connection| known.iter().any(|server| server.name == *name && connection.is_to(server)));
        let connecting = servers.iter().map(|server| async move { (*server, self.bring_up(of, server).await) });
        let connected = join_all(connecting).await.into_iter();
        connected
            .map(|(server, connected)| match connected {
                Ok(connection) => Ok((server, Connected::With { left_out: connection.listed().left_out })),
                Err(Unconnected::Store(error)) => Err(error),
                Err(other) => Ok((server, Connected::Not(failure(other)))),
            })
            .collect()
    }

    /// The tools that a server listed last.
    pub fn tools(&self, server: &McpServer) -> Vec<McpTool> {
        self.open(server).map(|connection| connection.listed().tools).unwrap_or_default()
    }

    /// Calls a tool. Dropping the future cancels the call. It is sent a second time only where the server has said that it did
    /// not look at it: because it wants another token, or another session.
    pub async fn call(&self, of: Of<'_>, server: &McpServer, tool: &str, input: &Map<String, Value>) -> Called {
        let not_run = |failure| Called::Failed { may_have_run: false, failure };
        let mut is_second = false;
        loop {
            let connection = match self.open(server) {
                Some(connection) => connection,
                None => match self.bring_up(of, server).await {
                    Ok(connection) => connection,
                    Err(other) => return not_run(failure(other)),
                },
            };
            let problem = match connection.call(tool, input, self.mcp.call_within).await {
                Ok(result) => {
                    let (content, is_error) = content::of_result(&result);
                    return Called::Result { content, is_error };
                }
                Err(Uncalled::Refused(why)) => {
                    let text = format!("The MCP server answered with an error: {why}");
                    return Called::Result { content: vec![json!({"type": "text", "text": text})], is_error: true };
                }
                Err(Uncalled::Problem(problem)) => problem,
            };
            match problem {
                Problem::Unauthorized => {
                    let used = connection.credential();
                    match connection.authorize_anew(of).await {
                        Ok(true) if !is_second => {}
                        Ok(_) => {
                            self.forget(server, &connection);
                            return not_run(unauthorized(used));
                        }
                        Err(error) => {
                            tracing::error!(session_id = %of.session, %error, "a credential for an MCP server cannot be read");
                            return not_run(Failure::of_connection(
                                "its credential cannot be read at the moment".to_owned(),
                            ));
                        }
                    }
                }
                Problem::SessionGone(_) if !is_second => self.forget(server, &connection),
                problem => {
                    self.forget(server, &connection);
                    let failure = Failure::of_connection(problem.to_string());
                    return Called::Failed { may_have_run: problem.may_have_run(), failure };
                }
            }
            is_second = true;
        }
    }

    fn open(&self, server: &McpServer) -> Option<Arc<Connection>> {
        lock(&self.sessions.open).get(&server.name).filter(|connection| connection.is_to(server)).cloned()
    }

    fn forget(&self, server: &McpServer, connection: &Arc<Connection>) {
        let mut open = lock(&self.sessions.open);
        if open.get(&server.name).is_some_and(|other| Arc::ptr_eq(other, connection)) {
            open.remove(&server.name);
        }
    }

    /// Connects a server, or asks it again for its tools, where that is needed.
    async fn bring_up(&self, of: Of<'_>, server: &McpServer) -> Result<Arc<Connection>, Unconnected> {
        let within = self.mcp.connect_within;
        if let Some(connection) = self.open(server) {
            if !connection.is_changed() || connection.list_again(server, within).await.is_ok() {
                return Ok(connection);
            }
            self.forget(server, &connection);
        }
        let opening = async {
            let place = self.mcp.place(of.workspace).await;
            // An answer that is late is one all the same where the caller still waits.
            let answers_within = self.mcp.call_within + MCP_NOTICE_TIMEOUT;
            Connection::open(of, &self.mcp.client, server, place, [within, answers_within]).await
        };
        let Ok(opened) = timeout(within, opening).await else {
            return Err(Unconnected::Failed(format!("it does not answer within {} s", within.as_secs())));
        };
        let connection = Arc::new(opened?);
        lock(&self.sessions.open).insert(server.name.clone(), connection.clone());
        Ok(connection)
    }
}

fn failure(unconnected: Unconnected) -> Failure {
    match unconnected {
        Unconnected::Unauthorized(credential) => unauthorized(credential.map(|credential| credential.id.to_string())),
        Unconnected::Failed(why) => Failure::of_connection(why),
        Unconnected::Store(error) => {
            tracing::error!(%error, "a credential for an MCP server cannot be read");
            Failure::of_connection("its credential cannot be read at the moment".to_owned())
        }
    }
}

fn unauthorized(credential: Option<String>) -> Failure {
    let why = match credential {
        Some(id) => format!("it does not take the credential {id}, and no other token could be had for it"),
        None => "it wants a credential, and no vault of the session has one for its URL".to_owned(),
    };
    Failure { is_authentication: true, why }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
