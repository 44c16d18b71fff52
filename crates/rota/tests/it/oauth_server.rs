//! A server with an MCP endpoint and the token endpoint for it: it tells the test what arrives and answers as the test says.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use crate::{request::read_request, server::PATIENCE};

/// How an exchange of a refresh token is answered.
#[derive(Debug, Clone)]
pub enum Grant {
    /// With tokens.
    Tokens(Value),
    /// With a status, a further header, and a body.
    Status(u16, &'static str, String),
    /// Not at all: the connection ends.
    HangUp,
}

/// A running server. It ends when it is dropped.
pub struct OAuthServer {
    /// Where it is.
    pub base: String,
    state: Arc<State>,
    arrived: mpsc::UnboundedReceiver<Exchange>,
    _serving: JoinSet<()>,
}

struct State {
    grants: Mutex<VecDeque<Grant>>,
    /// The access token that the MCP endpoint takes, and what it answers to others.
    takes: Mutex<(String, u16)>,
    /// An exchange is answered when it gets one.
    answers: Semaphore,
    tell: mpsc::UnboundedSender<Exchange>,
}

/// A request to the token endpoint.
#[derive(Debug)]
pub struct Exchange {
    /// `Authorization`.
    pub authorization: Option<String>,
    /// The fields of the form.
    pub form: HashMap<String, String>,
}

impl OAuthServer {
    /// One whose MCP endpoint takes the access token `token`, and who answers exchanges at once.
    pub async fn start(token: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (tell, arrived) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            grants: Mutex::default(),
            takes: Mutex::new((token.to_owned(), 401)),
            answers: Semaphore::new(1_000_000),
            tell,
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, state.clone()));
        Self { base, state, arrived, _serving: serving }
    }

    /// The MCP endpoint.
    pub fn mcp(&self) -> String {
        format!("{}/mcp", self.base)
    }

    /// The token endpoint.
    pub fn token_endpoint(&self) -> String {
        format!("{}/token", self.base)
    }

    /// What creates a credential for it, whose refresh token is `refresh`.
    pub fn credential(&self, access: &str, refresh: &str, expires_at: Option<&str>) -> Value {
        self.credential_with(access, refresh, expires_at, &json!({"type": "none"}))
    }

    /// The same, whose client says who it is with `auth`.
    pub fn credential_with(&self, access: &str, refresh: &str, expires_at: Option<&str>, auth: &Value) -> Value {
        json!({"auth": {"type": "mcp_oauth", "mcp_server_url": self.mcp(), "access_token": access, "expires_at": expires_at,
            "refresh": {"client_id": "client:1", "refresh_token": refresh, "token_endpoint": self.token_endpoint(),
                "token_endpoint_auth": auth, "scope": "read write", "resource": self.mcp()}}})
    }

    /// Answers the next exchange so.
    pub fn grants(&self, grant: Grant) {
        self.state.grants.lock().unwrap().push_back(grant);
    }

    /// Has the MCP endpoint take `token`, and answer `status` to others.
    pub fn takes(&self, token: &str, status: u16) {
        *self.state.takes.lock().unwrap() = (token.to_owned(), status);
    }

    /// Answers no exchange any more.
    pub fn holds(&self) {
        self.state.answers.forget_permits(1_000_000);
    }

    /// Answers exchanges again, those that wait first.
    pub fn lets_go(&self) {
        self.state.answers.add_permits(1_000_000);
    }

    /// The next exchange that arrives.
    pub async fn next(&mut self) -> Exchange {
        timeout(PATIENCE, self.arrived.recv()).await.expect("no exchange arrives").unwrap()
    }

    /// How many have arrived by now that were not asked for.
    pub fn so_far(&mut self) -> usize {
        std::iter::from_fn(|| self.arrived.try_recv().ok()).count()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        connections.spawn(answer(connection, state.clone()));
    }
}

async fn answer(mut connection: impl AsyncRead + AsyncWrite + Unpin, state: Arc<State>) {
    while let Some(request) = read_request(&mut connection).await {
        let authorization = request.headers.get("authorization").cloned();
        let (status, header, body) = match &*request.line {
            "POST /token" => {
                assert_eq!(request.headers["content-type"], "application/x-www-form-urlencoded");
                let form = reqwest::Url::parse(&format!("http://x/?{}", request.body)).unwrap();
                let form = form.query_pairs().into_owned().collect();
                drop(state.tell.send(Exchange { authorization, form }));
                state.answers.acquire().await.unwrap().forget();
                let grant = state.grants.lock().unwrap().pop_front().expect("an exchange that the test expects");
                match grant {
                    Grant::Tokens(tokens) => (200, "", tokens.to_string()),
                    Grant::Status(status, header, body) => (status, header, body),
                    Grant::HangUp => return,
                }
            }
            "POST /mcp" => {
                let (token, otherwise) = state.takes.lock().unwrap().clone();
                if authorization.as_deref() == Some(&format!("Bearer {token}")) {
                    let message: Value = serde_json::from_str(&request.body).unwrap();
                    mcp(&message)
                } else {
                    (otherwise, "", format!("{} is not taken", authorization.unwrap_or_default()))
                }
            }
            "DELETE /mcp" => (204, "", String::new()),
            other => panic!("{other}"),
        };
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{header}content-length: {}\r\n\r\n",
            body.len()
        );
        drop(connection.write_all(format!("{head}{body}").as_bytes()).await);
    }
}

fn mcp(message: &Value) -> (u16, &'static str, String) {
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
    match message["method"].as_str().unwrap() {
        "initialize" => {
            let hello = json!({"protocolVersion": message["params"]["protocolVersion"], "capabilities": {},
                "serverInfo": {"name": "tracker", "version": "1"}});
            (200, "mcp-session-id: 7\r\n", result(hello))
        }
        "notifications/initialized" => (202, "", String::new()),
        "tools/list" => (200, "", result(json!({"tools": []}))),
        other => panic!("{other}"),
    }
}
