//! A stand-in for an MCP server: it answers as the test says, also as no server should, and keeps what it was asked.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::Notify, task::JoinSet, time::timeout};

use crate::{
    given::over,
    request::{Request, read_request},
    server::PATIENCE,
};

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// With this result, as JSON.
    Result(Value),
    /// With this result, in a stream.
    Streamed(Value),
    /// With a JSON-RPC error.
    Error(&'static str),
    /// With this status.
    Status(u16),
    /// With this body, as JSON.
    Body(&'static str),
    /// With a page that is no answer.
    Page,
    /// Not at all.
    Hang,
    /// The connection ends.
    HangUp,
}

/// What it does.
pub struct Manner {
    /// How a session is opened, when it is not as usual. Once for each that is here.
    pub opens: VecDeque<Answer>,
    /// How the tools are listed, when they are not as usual.
    pub lists: VecDeque<Answer>,
    /// How calls are answered. Without one, a call has the text `done`.
    pub calls: VecDeque<Answer>,
    /// The pages of its list.
    pub pages: Vec<Vec<Value>>,
    /// The token without which it answers 401.
    pub token: Option<String>,
    /// Whether it has a stream for what nobody asked for; otherwise it answers with this status.
    pub get: Result<(), u16>,
    /// Whether it names the sessions, and takes no other one.
    pub has_sessions: bool,
}

/// A running stand-in. It ends when it is dropped.
pub struct StandIn {
    /// Where it is.
    pub url: String,
    state: Arc<State>,
    serving: JoinSet<()>,
}

struct State {
    manner: Mutex<Manner>,
    asked: Mutex<Vec<Asked>>,
    arrived: Notify,
    /// Sessions that were opened.
    opened: AtomicUsize,
    /// The session that it knows.
    known: Mutex<String>,
    streams: Mutex<Vec<tokio::net::TcpStream>>,
}

/// A request that it was sent.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The HTTP method, or that of the message.
    pub method: String,
    /// The parameters of the message.
    pub params: Value,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `Mcp-Session-Id`.
    pub session: Option<String>,
}

/// A tool without arguments.
pub fn tool(name: &str) -> Value {
    json!({"name": name, "description": format!("Does {name}."), "inputSchema": {"type": "object", "properties": {}}})
}

/// A result of one text.
pub fn said(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

impl StandIn {
    /// One with these tools.
    pub async fn start(tools: &[&str]) -> Self {
        let tools = tools.iter().map(|name| tool(name)).collect();
        Self::with(|manner| manner.pages = vec![tools]).await
    }

    /// One that does as `set` says.
    pub async fn with(set: impl FnOnce(&mut Manner)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let mut manner = Manner {
            opens: VecDeque::new(),
            lists: VecDeque::new(),
            calls: VecDeque::new(),
            pages: vec![Vec::new()],
            token: None,
            get: Err(405),
            has_sessions: true,
        };
        set(&mut manner);
        let state = Arc::new(State {
            manner: Mutex::new(manner),
            asked: Mutex::default(),
            arrived: Notify::new(),
            opened: AtomicUsize::new(0),
            known: Mutex::default(),
            streams: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, state.clone()));
        Self { url, state, serving }
    }

    /// Has it do otherwise from now on.
    pub fn set(&self, set: impl FnOnce(&mut Manner)) {
        set(&mut self.state.manner.lock().unwrap());
    }

    /// What it was asked so far, with this method.
    pub fn asked(&self, method: &str) -> Vec<Asked> {
        self.state.asked.lock().unwrap().iter().filter(|asked| asked.method == method).cloned().collect()
    }

    /// Returns when it was asked so often with this method.
    pub async fn is_asked(&self, method: &str, times: usize) -> Vec<Asked> {
        let waiting = async {
            loop {
                let arrived = self.state.arrived.notified();
                let asked = self.asked(method);
                if asked.len() >= times {
                    return asked;
                }
                arrived.await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{method} does not arrive {times} times"))
    }

    /// Forgets its sessions, as when it is started anew.
    pub fn forget_sessions(&self) {
        self.state.known.lock().unwrap().clear();
    }

    /// Says on its stream that it has other tools, once a client has opened that.
    pub async fn says_that_tools_changed(&self) {
        let notice = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        let event = format!("event: message\ndata: {notice}\n\n");
        let piece = format!("{:x}\r\n{event}\r\n", event.len());
        let opening = async {
            loop {
                let arrived = self.state.arrived.notified();
                if let Some(stream) = self.state.streams.lock().unwrap().pop() {
                    return stream;
                }
                arrived.await;
            }
        };
        let mut stream = timeout(PATIENCE, opening).await.expect("a stream is opened");
        stream.write_all(piece.as_bytes()).await.unwrap();
        self.state.streams.lock().unwrap().push(stream);
    }

    /// Ends it: nothing listens there any more.
    pub async fn end(mut self) {
        self.serving.shutdown().await;
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        connections.spawn(answer(connection, state.clone()));
    }
}

async fn answer(mut connection: tokio::net::TcpStream, state: Arc<State>) {
    while let Some(request) = read_request(&mut connection).await {
        let message: Value = serde_json::from_str(&request.body).unwrap_or_default();
        let method = request.line.split(' ').next().unwrap().to_owned();
        let method = message["method"].as_str().map_or(method, str::to_owned);
        let header = |name: &str| request.headers.get(name).cloned();
        let asked = Asked {
            method: method.clone(),
            params: message["params"].clone(),
            authorization: header("authorization"),
            session: header("mcp-session-id"),
        };
        state.asked.lock().unwrap().push(asked);
        state.arrived.notify_waiters();
        let answer = decide(&state, &request, &message, &method);
        if method == "GET" && matches!(answer, Answer::Status(200)) {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            drop(connection.write_all(head.as_bytes()).await);
            state.streams.lock().unwrap().push(connection);
            state.arrived.notify_waiters();
            return;
        }
        let session = match &*method {
            "initialize" if state.manner.lock().unwrap().has_sessions => {
                format!("mcp-session-id: {}\r\n", state.known.lock().unwrap())
            }
            _ => String::new(),
        };
        let whole = |status: u16, kind: &str, body: &str| {
            format!(
                "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\n{session}content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let response = |part: Value| over(json!({"jsonrpc": "2.0", "id": message["id"]}), &part).to_string();
        let bytes = match answer {
            Answer::Result(result) => whole(200, "application/json", &response(json!({ "result": result }))),
            Answer::Streamed(result) => {
                let event = format!("event: message\ndata: {}\n\n", response(json!({ "result": result })));
                whole(200, "text/event-stream", &event)
            }
            Answer::Error(why) => {
                whole(200, "application/json", &response(json!({"error": {"code": -32602, "message": why}})))
            }
            Answer::Status(status) => whole(status, "text/plain", ""),
            Answer::Body(body) => whole(200, "application/json", body),
            Answer::Page => whole(200, "text/html", "<html>Welcome</html>"),
            Answer::Hang => {
                // Until the client gives up.
                drop(read_request(&mut connection).await);
                return;
            }
            Answer::HangUp => return,
        };
        drop(connection.write_all(bytes.as_bytes()).await);
    }
}

fn decide(state: &State, request: &Request, message: &Value, method: &str) -> Answer {
    let mut manner = state.manner.lock().unwrap();
    if let Some(token) = &manner.token
        && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
    {
        return Answer::Status(401);
    }
    if method != "initialize" && manner.has_sessions {
        let known = state.known.lock().unwrap();
        if known.is_empty() || request.headers.get("mcp-session-id") != Some(&*known) {
            return Answer::Status(404);
        }
    }
    match method {
        "GET" => Answer::Status(manner.get.map_or_else(|status| status, |()| 200)),
        "DELETE" => Answer::Status(405),
        "initialize" => {
            let opened = state.opened.fetch_add(1, Ordering::Relaxed) + 1;
            *state.known.lock().unwrap() = format!("session-{opened}");
            let capabilities = json!({"tools": {"listChanged": true}});
            let hello = json!({"protocolVersion": message["params"]["protocolVersion"], "capabilities": capabilities,
                "serverInfo": {"name": "stand-in", "version": "1"}});
            manner.opens.pop_front().unwrap_or(Answer::Result(hello))
        }
        "tools/list" => {
            let page: usize = message["params"]["cursor"].as_str().map_or(0, |cursor| cursor.parse().unwrap());
            let mut list = json!({"tools": manner.pages[page]});
            if page + 1 < manner.pages.len() {
                list["nextCursor"] = json!((page + 1).to_string());
            }
            manner.lists.pop_front().unwrap_or(Answer::Result(list))
        }
        "tools/call" => manner.calls.pop_front().unwrap_or_else(|| Answer::Result(said("done"))),
        notice if notice.starts_with("notifications/") => Answer::Status(202),
        other => panic!("{other}"),
    }
}
