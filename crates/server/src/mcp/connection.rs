//! A session at one MCP server: opened, asked for its tools, and called.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Client;
use rmcp::{
    ClientHandler, RoleClient,
    model::{
        CallToolRequest, CallToolRequestParams, CancelledNotificationParam, ClientCapabilities, ClientConfig,
        ClientRequest, Implementation, ListToolsRequest, PaginatedRequestParams, RequestId,
    },
    service::{NotificationContext, Peer, PeerRequestOptions, RunningService, ServiceError, serve_client},
    transport::{
        common::client_side_sse::ExponentialBackoff,
        streamable_http_client::{StreamableHttpClientTransport, StreamableHttpClientTransportConfig},
    },
};
use rota_api::agent::McpServer;
use serde_json::{Map, Value, value::to_raw_value};
use tokio::time::timeout;

use super::{
    McpTool, Of,
    names::name_for_model,
    transport::{Http, Problem},
};
use crate::{
    error::Result,
    limits::{
        MCP_ANSWER_BYTES, MCP_NOTICE_TIMEOUT, MCP_PAGES, MCP_RESUME_FIRST, MCP_RESUMES, MCP_TOLD_CHARS, MCP_TOOL_BYTES,
        MCP_TOOLS_BYTES, MCP_TOOLS_OF_ONE,
    },
    outgoing,
    places::Place,
    resources::credentials::servers::{ForServer, for_server, renewed},
    vault::oauth,
};

/// How often a server is asked anew with another token: one that somebody else has got meanwhile, and then one of our own.
const TOKENS: usize = 3;

/// A session at a server.
pub(super) struct Connection {
    url: String,
    http: Http,
    service: RunningService<RoleClient, Listener>,
    credential: Mutex<Option<ForServer>>,
    listed: Mutex<Listed>,
    is_changed: Arc<AtomicBool>,
    _place: Place,
}

/// What a server lists.
#[derive(Debug, Clone, Default)]
pub(super) struct Listed {
    pub(super) tools: Vec<McpTool>,
    /// How many more there are, which are too many or too large.
    pub(super) left_out: usize,
}

/// Why nothing came of a connection.
#[derive(Debug)]
pub(super) enum Unconnected {
    /// The server does not take the session's credential, or there is none; which there is.
    Unauthorized(Option<ForServer>),
    /// What is wrong.
    Failed(String),
    /// The store does not answer.
    Store(crate::error::Error),
}

impl From<crate::error::Error> for Unconnected {
    fn from(error: crate::error::Error) -> Self {
        Self::Store(error)
    }
}

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum Uncalled {
    /// The server says why, in words for the model.
    Refused(String),
    /// Something went wrong on the way.
    Problem(Problem),
}

impl Connection {
    /// Opens a session at a server with the credential that there is for it, and lists its tools. A token that is not taken is
    /// replaced, where that can be.
    pub(super) async fn open(
        of: Of<'_>,
        client: &Client,
        server: &McpServer,
        place: Place,
        [opens_within, answers_within]: [Duration; 2],
    ) -> Result<Self, Unconnected> {
        let url = outgoing::url(&server.url, of.app.config.mcp.allow_private);
        let url = url.map_err(|why| Unconnected::Failed(format!("its URL {why}")))?;
        let http = Http::new(client.clone(), url.clone(), opens_within, answers_within);
        let mut credential = for_server(of.app, of.workspace, of.session, &url).await?;
        for _ in 0..TOKENS {
            http.authorize(token(credential.as_ref()));
            let is_changed = Arc::new(AtomicBool::new(false));
            let started = start(&http, &server.url, is_changed.clone()).await;
            let listed = match &started {
                Ok(service) => list(&http, service.peer(), &server.name, opens_within).await,
                Err(problem) => Err(Uncalled::Problem(problem.clone())),
            };
            match (started, listed) {
                (Ok(service), Ok(listed)) => {
                    return Ok(Self {
                        url: server.url.clone(),
                        http,
                        service,
                        credential: Mutex::new(credential),
                        listed: Mutex::new(listed),
                        is_changed,
                        _place: place,
                    });
                }
                (_, Err(Uncalled::Problem(Problem::Unauthorized))) => {
                    match another(of, &url, credential.as_ref()).await? {
                        Some(other) => credential = Some(other),
                        None => return Err(Unconnected::Unauthorized(credential)),
                    }
                }
                (_, Err(Uncalled::Problem(problem))) | (Err(problem), Ok(_)) => {
                    return Err(Unconnected::Failed(problem.to_string()));
                }
                (_, Err(Uncalled::Refused(why))) => {
                    return Err(Unconnected::Failed(format!("it does not list its tools: {why}")));
                }
            }
        }
        Err(Unconnected::Unauthorized(credential))
    }

    /// Whether it is one to the server as the agent has it now, and still open.
    pub(super) fn is_to(&self, server: &McpServer) -> bool {
        self.url == server.url && !self.service.peer().is_transport_closed()
    }

    /// Whether the server has said that it has other tools now.
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed.load(Ordering::Acquire)
    }

    /// What the server listed last.
    pub(super) fn listed(&self) -> Listed {
        lock(&self.listed).clone()
    }

    /// Asks for the tools again. What changes while they are listed is asked for the next time.
    pub(super) async fn list_again(&self, server: &McpServer, within: Duration) -> Result<(), Uncalled> {
        self.is_changed.store(false, Ordering::Release);
        let listed = list(&self.http, self.service.peer(), &server.name, within).await;
        if listed.is_err() {
            self.is_changed.store(true, Ordering::Release);
        }
        *lock(&self.listed) = listed?;
        Ok(())
    }

    /// Calls a tool. Dropping the future cancels the call.
    pub(super) async fn call(
        &self,
        tool: &str,
        input: &Map<String, Value>,
        within: Duration,
    ) -> Result<Value, Uncalled> {
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(input.clone());
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        ask(&self.http, self.service.peer(), request, within).await
    }

    /// Takes another token in the place of the one that the server did not take. Whether there is one.
    pub(super) async fn authorize_anew(&self, of: Of<'_>) -> Result<bool> {
        let Ok(url) = outgoing::url(&self.url, of.app.config.mcp.allow_private) else { return Ok(false) };
        let used = lock(&self.credential).take();
        let other = another(of, &url, used.as_ref()).await;
        let (found, credential) = match other {
            Ok(Some(other)) => (Ok(true), Some(other)),
            Ok(None) => (Ok(false), used),
            Err(error) => (Err(error), used),
        };
        self.http.authorize(token(credential.as_ref()));
        *lock(&self.credential) = credential;
        found
    }

    /// The credential that is used.
    pub(super) fn credential(&self) -> Option<String> {
        lock(&self.credential).as_ref().map(|credential| credential.id.to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn token(credential: Option<&ForServer>) -> Option<rota_api::secret::Secret> {
    credential.and_then(|credential| credential.secrets.token.clone())
}

/// Another credential, or another token of it, than the one that a server did not take.
async fn another(of: Of<'_>, url: &reqwest::Url, refused: Option<&ForServer>) -> Result<Option<ForServer>> {
    let now = for_server(of.app, of.workspace, of.session, url).await?;
    match (refused, now) {
        (_, None) => Ok(None),
        (Some(refused), Some(now)) if refused.id == now.id && refused.secrets.token == now.secrets.token => {
            let client = oauth::client(of.app.config.vault.allow_private)?;
            if !renewed(of.app, &client, of.workspace, &now).await? {
                return Ok(None);
            }
            for_server(of.app, of.workspace, of.session, url).await
        }
        (_, now) => Ok(now),
    }
}

/// What the client does when a server sends something unasked: it notes that the tools have changed. A server that asks for a
/// completion, for input of a user or for folders is told that there is none.
struct Listener {
    is_changed: Arc<AtomicBool>,
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let own = Implementation::new("rota", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), own)
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.is_changed.store(true, Ordering::Release);
    }
}

async fn start(
    http: &Http,
    url: &str,
    is_changed: Arc<AtomicBool>,
) -> Result<RunningService<RoleClient, Listener>, Problem> {
    let mut config = StreamableHttpClientTransportConfig::with_uri(url);
    config.allow_stateless = true;
    // A call is never sent a second time by itself.
    config.reinit_on_expired_session = false;
    config.max_sse_event_size = MCP_ANSWER_BYTES;
    let mut resumes = ExponentialBackoff::default();
    (resumes.max_times, resumes.base_duration) = (Some(MCP_RESUMES), MCP_RESUME_FIRST);
    config.retry_config = Arc::new(resumes);
    let transport = StreamableHttpClientTransport::with_client(http.clone(), config);
    let started = serve_client(Listener { is_changed }, transport).await;
    started.map_err(|error| http.opening().unwrap_or_else(|| Problem::Unfit(cut(&error.to_string()))))
}

/// The beginning of what a server says.
fn cut(text: &str) -> String {
    text.chars().take(MCP_TOLD_CHARS).collect()
}

async fn ask(
    http: &Http,
    peer: &Peer<RoleClient>,
    request: ClientRequest,
    within: Duration,
) -> Result<Value, Uncalled> {
    let gone = |error: ServiceError, was_sent| {
        let why = match error {
            ServiceError::TransportClosed => "its connection ended before the answer".to_owned(),
            other => cut(&other.to_string()),
        };
        Uncalled::Problem(Problem::NoAnswer { why, was_sent })
    };
    let handle = peer.send_cancellable_request(request, PeerRequestOptions::no_options()).await;
    let handle = handle.map_err(|error| gone(error, false))?;
    let id = handle.id.clone();
    let mut under_way = UnderWay { peer: peer.clone(), id: Some(id.clone()) };
    let Ok(answer) = timeout(within, handle.await_response()).await else {
        // Told here, and waited for: the connection ends next.
        under_way.id = None;
        drop(timeout(MCP_NOTICE_TIMEOUT, cancel(peer, id)).await);
        let why = format!("it does not answer within {} s", within.as_secs());
        return Err(Uncalled::Problem(Problem::NoAnswer { why, was_sent: true }));
    };
    under_way.id = None;
    match (answer, http.problem_of(&id)) {
        (Ok(result), _) => serde_json::to_value(result)
            .map_err(|error| Uncalled::Problem(Problem::Unfit(format!("its answer cannot be read ({error})")))),
        (Err(_), Some(problem)) => Err(Uncalled::Problem(problem)),
        (Err(ServiceError::McpError(error)), None) => Err(Uncalled::Refused(cut(&error.message))),
        (Err(error), None) => Err(gone(error, true)),
    }
}

/// A request that is cancelled when nobody waits for it any more.
struct UnderWay {
    peer: Peer<RoleClient>,
    id: Option<RequestId>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let peer = self.peer.clone();
        // Without a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { cancel(&peer, id).await });
        }
    }
}

/// Tells a server that nobody waits for an answer any more. That it does not hear of it changes nothing.
async fn cancel(peer: &Peer<RoleClient>, id: RequestId) {
    let reason = Some("nobody waits for it any more".to_owned());
    drop(peer.notify_cancelled(CancelledNotificationParam::new(Some(id), reason)).await);
}

/// All pages of the tools of a server.
async fn list(http: &Http, peer: &Peer<RoleClient>, server: &str, within: Duration) -> Result<Listed, Uncalled> {
    let mut listed = Listed::default();
    let mut bytes = 0;
    let mut cursor = None;
    for _ in 0..MCP_PAGES {
        let params = cursor.take().map(|cursor| PaginatedRequestParams::default().with_cursor(Some(cursor)));
        let request = ListToolsRequest { params, ..ListToolsRequest::default() };
        let page = ask(http, peer, ClientRequest::ListToolsRequest(request), within).await?;
        let Some(tools) = page["tools"].as_array() else {
            return Err(Uncalled::Problem(Problem::Unfit("its list of tools is none".to_owned())));
        };
        for tool in tools {
            let tool = tool_of(server, tool).filter(|(_, own)| {
                listed.tools.len() < MCP_TOOLS_OF_ONE && *own <= MCP_TOOL_BYTES && bytes + own <= MCP_TOOLS_BYTES
            });
            match tool {
                Some((tool, own)) => {
                    bytes += own;
                    listed.tools.push(tool);
                }
                None => listed.left_out += 1,
            }
        }
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(listed);
        }
    }
    listed.left_out += 1;
    Ok(listed)
}

/// A tool as a model is offered it, and the bytes of its description and its schema.
fn tool_of(server: &str, tool: &Value) -> Option<(McpTool, usize)> {
    let text = |field: &str| tool[field].as_str().filter(|text| !text.trim().is_empty());
    let name = text("name")?;
    let description = text("description").or_else(|| text("title")).unwrap_or(name).to_owned();
    let input_schema = to_raw_value(&schema(tool["inputSchema"].as_object()?)).ok()?;
    let bytes = description.len() + input_schema.get().len();
    let for_model = name_for_model(server, name);
    Some((McpTool { server: server.to_owned(), name: name.to_owned(), for_model, description, input_schema }, bytes))
}

/// A schema that the APIs of models take: one of an object, without alternatives at its top.
fn schema(own: &Map<String, Value>) -> Map<String, Value> {
    let mut schema = own.clone();
    for not_taken in ["$schema", "oneOf", "anyOf", "allOf"] {
        schema.remove(not_taken);
    }
    schema.insert("type".to_owned(), Value::from("object"));
    schema.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    schema
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tool_is_offered_in_a_form_that_models_take() {
        let plain = json!({"name": "search", "description": "Finds issues.", "inputSchema": {"type": "object",
            "properties": {"q": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["q"]}});
        let (tool, bytes) = tool_of("tracker", &plain).unwrap();
        assert_eq!((&*tool.server, &*tool.name, &*tool.for_model), ("tracker", "search", "mcp__tracker__search"));
        assert_eq!(serde_json::from_str::<Value>(tool.input_schema.get()).unwrap(), plain["inputSchema"]);
        assert_eq!(bytes, "Finds issues.".len() + tool.input_schema.get().len());
        let odd = json!({"name": "x", "title": "X", "inputSchema": {"$schema": "s", "anyOf": [{"required": ["a"]}]}});
        let (tool, _) = tool_of("tracker", &odd).unwrap();
        assert_eq!((&*tool.description, tool.input_schema.get()), ("X", r#"{"type":"object","properties":{}}"#));
        for none in [json!({"name": "x"}), json!({"name": " ", "inputSchema": {}}), json!("x")] {
            assert!(tool_of("tracker", &none).is_none(), "{none}");
        }
    }
}
