//! The web tools, on pages and providers of searches that the test plays; and calls that run side by side.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rota_server::{
    clock::Clock,
    config::{Config, SearchConfig, SearchProvider},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    sync::Barrier,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    client::Api,
    given::{Parts, agent, environment, id, message, over, toolset},
    process::{Server, create_key},
    request::{Request, read_request},
    server::{PATIENCE, Rota},
    stream::{first, kinds, text},
    upstream::{Reply, Upstream},
};

/// How a path is answered.
#[derive(Clone)]
enum Page {
    /// With a body of a type.
    Of(&'static str, Vec<u8>),
    /// With a redirect.
    To(String),
    /// With a status.
    Status(u16),
    /// With the body of a type when so many requests wait for their answers at the same time.
    Together(Arc<Barrier>),
    /// With text that does not end.
    Endless,
    /// With nothing, ever.
    Silent,
}

/// A host of the web. It ends when it is dropped.
struct Host {
    address: SocketAddr,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    asked: Arc<Mutex<Vec<Request>>>,
    _serving: JoinSet<()>,
}

impl Host {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, pages, asked) = (listener.local_addr().unwrap(), Arc::default(), Arc::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&pages), Arc::clone(&asked)));
        Self { address, pages, asked, _serving: serving }
    }

    /// The URL of a path that is answered so from now on.
    fn page(&self, path: &str, page: Page) -> String {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
        format!("http://{}{path}", self.address)
    }

    /// Waits until something was asked for.
    async fn is_asked(&self) {
        let asked = async {
            while self.asked().is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, asked).await.expect("nothing was asked for");
    }

    /// The lines of the requests so far.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|request| request.line.clone()).collect()
    }
}

async fn serve(listener: TcpListener, pages: Arc<Mutex<HashMap<String, Page>>>, asked: Arc<Mutex<Vec<Request>>>) {
    let mut clients = JoinSet::new();
    while let Ok((mut connection, _)) = listener.accept().await {
        let (pages, asked) = (pages.clone(), asked.clone());
        clients.spawn(async move {
            let Some(request) = read_request(&mut connection).await else { return };
            let path =
                request.line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
            asked.lock().unwrap().push(request);
            let page = pages.lock().unwrap().get(&path).cloned().unwrap_or(Page::Status(404));
            // A client may well hang up before it has read everything.
            drop(answer(&mut connection, page).await);
        });
    }
}

async fn answer(connection: &mut tokio::net::TcpStream, page: Page) -> std::io::Result<()> {
    let head = match &page {
        Page::Of(kind, body) => format!("200 x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n", body.len()),
        Page::To(place) => format!("302 x\r\nlocation: {place}\r\ncontent-length: 0\r\n"),
        Page::Status(status) => format!("{status} x\r\ncontent-length: 0\r\n"),
        Page::Together(barrier) => {
            barrier.wait().await;
            "200 x\r\ncontent-type: text/plain\r\ncontent-length: 8\r\n".to_owned()
        }
        Page::Endless => "200 x\r\ncontent-type: text/plain\r\n".to_owned(),
        Page::Silent => std::future::pending().await,
    };
    connection.write_all(format!("HTTP/1.1 {head}connection: close\r\n\r\n").as_bytes()).await?;
    match page {
        Page::Of(_, body) => connection.write_all(&body).await?,
        Page::Together(_) => connection.write_all(b"together").await?,
        Page::Endless => loop {
            connection.write_all(&vec![b'x'; 64 * 1024]).await?;
        },
        Page::To(_) | Page::Status(_) | Page::Silent => {}
    }
    connection.shutdown().await
}

fn call(n: usize, name: &str, input: &Value) -> Value {
    json!({"type": "tool_use", "id": format!("t{n}"), "name": name, "input": input})
}

fn fetch(url: &str) -> Value {
    call(1, "web_fetch", &json!({ "url": url }))
}

fn done() -> Reply {
    Reply::Message(vec![json!({"type": "text", "text": "done"})])
}

/// A server whose pages may be at private addresses, and a session of an agent with these configs that is told `said` and makes
/// these calls at once. What happened in the turn.
struct Played {
    rota: Rota,
    upstream: Upstream,
    session: Value,
    events: Vec<Value>,
}

async fn play(configure: impl FnOnce(&mut Config), configs: Value, said: &str, replies: Vec<Vec<Value>>) -> Played {
    let replies = replies.into_iter().map(Reply::Message).chain([done()]);
    let upstream = Upstream::start(replies).await;
    let rota = Rota::with(|config| {
        config.models = vec![upstream.model()];
        config.web.allow_private = true;
        configure(config);
    })
    .await;
    let tools = json!([over(toolset(), &json!({ "configs": configs }))]);
    let agent = agent(&rota.api, json!({"model": "house", "tools": tools})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message(said)).await;
    let events = rota.api.stream_from(id(&session), 0).await.turn().await;
    Played { rota, upstream, session, events }
}

/// The results of the turn, in their order.
fn results(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["type"] == "agent.tool_result").collect()
}

#[tokio::test]
async fn a_page_that_the_user_named_is_a_document_and_is_counted() {
    let host = Host::start().await;
    let html = "<title>A page</title><h1>Hello</h1><p>See <a href='/next'>this</a>.";
    let url = host.page("/a", Page::Of("text/html; charset=utf-8", html.into()));
    let played = play(|_| {}, json!([]), &format!("read {url}, please"), vec![vec![fetch(&url)]]).await;
    let call = first(&played.events, "agent.tool_use");
    assert_eq!(call["evaluated_permission"], "allow");
    let result = first(&played.events, "agent.tool_result");
    let text = format!("# Hello\n\nSee [this](http://{}/next).", host.address);
    let document = json!({"type": "document", "title": "A page",
        "source": {"type": "text", "media_type": "text/plain", "data": text}});
    assert_eq!((&result["content"], &result["is_error"]), (&json!([document]), &json!(false)));
    assert_eq!(played.upstream.asked()[1]["messages"][2]["content"][0]["content"], json!([document]));
    let used = json!({"web_fetch_requests": 1, "web_search_requests": 0});
    assert_eq!(first(&played.events, "session.usage")["usage"]["server_tool_use"], used);
    let session = played.rota.api.get(&format!("/v1/sessions/{}", id(&played.session))).await;
    assert_eq!(session["usage"]["server_tool_use"], used);
    assert_eq!(host.asked(), ["GET /a"]);
}

#[tokio::test]
async fn what_a_page_links_to_may_be_fetched_next_and_what_nobody_showed_may_not() {
    let host = Host::start().await;
    let linked = host.page("/linked", Page::Of("text/plain", "second".into()));
    let url = host.page("/a", Page::Of("text/html", "<a href=/linked>more</a>".into()));
    let hidden = host.page("/hidden", Page::Of("text/plain", "third".into()));
    let replies = vec![vec![fetch(&hidden)], vec![fetch(&linked)], vec![fetch(&url)], vec![fetch(&linked)]];
    let played = play(|_| {}, json!([]), &format!("read {url}"), replies).await;
    let told: Vec<_> = results(&played.events).iter().map(|result| result["is_error"].clone()).collect();
    assert_eq!(told, [true, true, false, false]);
    let refused = text(results(&played.events)[0]);
    assert!(refused.starts_with("Web fetch error: url_not_in_prior_context — "), "{refused}");
    assert_eq!(host.asked(), ["GET /a", "GET /linked"], "what is refused is not asked for");
}

#[tokio::test]
async fn a_page_is_as_long_as_the_agent_wants_it_at_most() {
    let host = Host::start().await;
    let url = host.page("/long", Page::Of("text/plain; charset=utf-8", "é".repeat(49_096).into()));
    let configs = json!([{"name": "web_fetch", "max_content_tokens": 100}]);
    let played = play(|_| {}, configs, &url, vec![vec![fetch(&url)]]).await;
    let document = &first(&played.events, "agent.tool_result")["content"][0];
    assert_eq!(document["source"]["data"], "é".repeat(339), "R2: 100 tokens are 339 characters");
    assert_eq!(document.get("context"), None, "R2: nothing marks the cut");
}

#[tokio::test]
async fn pages_that_never_end_or_never_come_do_not_hold_a_session() {
    let host = Host::start().await;
    let endless = host.page("/endless", Page::Endless);
    let round = host.page("/round", Page::To("/round".to_owned()));
    let far = host.page("/far", Page::To("near".to_owned()));
    host.page("/near", Page::Of("text/plain", "here".into()));
    let gone = host.page("/gone", Page::Status(410));
    let nowhere = "http://127.0.0.1:1/";
    let image = host.page("/image", Page::Of("image/png", vec![0; 10]));
    let said = [&endless, &round, &far, &gone, nowhere, &image].map(ToString::to_string).join("\n");
    let calls = [&endless, &round, &far, &gone, nowhere, &image];
    let calls = calls.iter().enumerate().map(|(n, url)| call(n, "web_fetch", &json!({ "url": url }))).collect();
    let played = play(|_| {}, json!([]), &said, vec![calls]).await;
    let results = results(&played.events);
    let whole = &results[0]["content"][0];
    assert_eq!(whole["source"]["data"].as_str().unwrap().len(), 100_000);
    assert!(whole["context"].as_str().unwrap().starts_with("Only the beginning"), "{}", whole["context"]);
    assert_eq!(results[2]["content"][0]["source"]["data"], "here");
    let host = "Web fetch error: url_not_accessible — 127.0.0.1";
    for (place, part) in [
        (1, format!("{host} is behind more than 10 redirects")),
        (3, format!("{host} answered with 410 Gone")),
        (4, format!("{host} could not be reached")),
        (5, "Web fetch error: unsupported_content_type — ".to_owned()),
    ] {
        assert!(text(results[place]).starts_with(&part), "{}", text(results[place]));
    }
}

#[tokio::test]
async fn domains_are_looked_at_on_each_redirect() {
    let host = Host::start().await;
    let elsewhere = format!("http://localhost:{}/b", host.address.port());
    let url = host.page("/a", Page::To(elsewhere));
    host.page("/b", Page::Of("text/plain", "b".into()));
    let end = "Retrying this or other URLs on that domain will not work.";
    for (configs, words) in [
        (json!({"allowed_domains": ["127.0.0.1"]}), "is not one of the domains this agent may fetch (allowed_domains)"),
        (
            json!({"blocked_domains": ["localhost"]}),
            "is a domain this agent is blocked from fetching (blocked_domains)",
        ),
    ] {
        let configs = json!([over(json!({"name": "web_fetch"}), &configs)]);
        let played = play(|_| {}, configs, &url, vec![vec![fetch(&url)]]).await;
        let expected = format!("Web fetch error: url_not_allowed — localhost {words}. {end}");
        assert_eq!(text(first(&played.events, "agent.tool_result")), expected);
        let used = &first(&played.events, "session.usage")["usage"]["server_tool_use"];
        assert_eq!(used["web_fetch_requests"], 0, "what was not answered is not counted");
    }
    assert_eq!(host.asked(), ["GET /a", "GET /a"]);
}

#[tokio::test]
async fn private_addresses_are_not_fetched_by_whatever_name() {
    let host = Host::start().await;
    let port = host.address.port();
    let urls = [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://2130706433:{port}/"),
        "http://[::1]/".to_owned(),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "ftp://example.com/".to_owned(),
    ];
    let calls = urls.iter().enumerate().map(|(n, url)| call(n, "web_fetch", &json!({ "url": url }))).collect();
    let played = play(|config| config.web.allow_private = false, json!([]), &urls.join(" "), vec![calls]).await;
    let told: Vec<_> = results(&played.events).into_iter().map(text).collect();
    for private in &told[..5] {
        assert!(private.contains("url_not_allowed") && private.contains("private address"), "{private}");
    }
    assert!(
        told[5].starts_with("Web fetch error: invalid_tool_input — the URL must be an absolute URL"),
        "{}",
        told[5]
    );
    assert_eq!(host.asked(), [""; 0]);
}

/// The variable of the environment that holds the key of a provider here: one that cargo sets.
const KEY: &str = "CARGO_PKG_NAME";

fn searching(host: &Host, provider: SearchProvider) -> impl FnOnce(&mut Config) + use<> {
    let base_url = Some(format!("http://{}/base/", host.address));
    move |config| config.web.search = Some(SearchConfig { provider, base_url, api_key_env: Some(KEY.to_owned()) })
}

fn search(query: &str) -> Value {
    call(1, "web_search", &json!({ "query": query }))
}

#[tokio::test]
async fn the_web_is_searched_in_the_dialect_of_each_provider() {
    let found = |text: &str| {
        json!([{"url": "https://a.example/x", "title": "A", text: "about a"}, {"url": "https://b.example/", "title": "B", text: ""},
            {"url": "https://sub.a.example/", "title": "C", text: "about c"}])
    };
    for (provider, path, answer, line, header) in [
        (
            SearchProvider::Brave,
            "/base/res/v1/web/search",
            json!({"type": "search", "web": {"type": "search", "results": found("description")}}),
            "GET /base/res/v1/web/search?q=rust+%26+lists&count=10&text_decorations=false&country=DE",
            ("x-subscription-token", "rota"),
        ),
        (
            SearchProvider::Tavily,
            "/base/search",
            json!({"query": "x", "results": found("content"), "response_time": 1.5}),
            "POST /base/search",
            ("authorization", "Bearer rota"),
        ),
        (
            SearchProvider::Searxng,
            "/base/search",
            json!({"query": "x", "results": found("content"), "number_of_results": 0}),
            "GET /base/search?q=rust+%26+lists&format=json",
            ("authorization", "Bearer rota"),
        ),
    ] {
        let host = Host::start().await;
        host.page(path, Page::Of("application/json", answer.to_string().into()));
        let location = json!({"type": "approximate", "country": "DE"});
        let configs = json!([{"name": "web_search", "allowed_domains": ["a.example"], "user_location": location}]);
        let played = play(searching(&host, provider), configs, "search", vec![vec![search(" rust & lists ")]]).await;
        let block = |source: &str, title: &str, text: &str| {
            json!({"type": "search_result", "source": source, "title": title, "content": [{"type": "text", "text": text}],
                "citations": {"enabled": true}})
        };
        let expected =
            json!([block("https://a.example/x", "A", "about a"), block("https://sub.a.example/", "C", "about c")]);
        let result = first(&played.events, "agent.tool_result");
        assert_eq!((&result["content"], &result["is_error"]), (&expected, &json!(false)), "{provider:?}");
        assert_eq!(host.asked(), [line], "{provider:?}");
        let asked = host.asked.lock().unwrap();
        assert_eq!(asked[0].headers.get(header.0).map(String::as_str), Some(header.1), "{provider:?}");
        if provider == SearchProvider::Tavily {
            let body: Value = serde_json::from_str(&asked[0].body).unwrap();
            assert_eq!(body, json!({"query": "rust & lists", "max_results": 10, "search_depth": "basic"}));
        }
        let used = &first(&played.events, "session.usage")["usage"]["server_tool_use"];
        assert_eq!(*used, json!({"web_fetch_requests": 0, "web_search_requests": 1}));
        let offered = &played.upstream.asked()[0]["tools"];
        let offered = offered.as_array().unwrap().iter().find(|tool| tool["name"] == "web_search").unwrap();
        assert!(offered["description"].as_str().unwrap().contains("\n- Today's date is 20"), "{offered}");
    }
}

#[tokio::test]
async fn a_provider_that_fails_is_told_of_and_the_agent_goes_on() {
    let host = Host::start().await;
    for (page, part) in [
        (Page::Status(429), "too_many_requests — the search provider takes no more searches"),
        (Page::Status(401), "unavailable — the search provider answered with 401"),
        (Page::Of("text/html", "<p>".into()), "unavailable — the search provider answered with what is no result"),
        (Page::Endless, "unavailable — the search provider answered with too much"),
    ] {
        host.page("/base/search", page);
        let played = play(searching(&host, SearchProvider::Searxng), json!([]), "go", vec![vec![search("rust")]]).await;
        let result = first(&played.events, "agent.tool_result");
        assert!(text(result).starts_with(&format!("Web search error: {part}")), "{}", text(result));
        assert_eq!(result["is_error"], true);
        assert_eq!(text(first(&played.events, "agent.message")), "done");
    }
}

#[tokio::test]
async fn calls_that_change_nothing_run_side_by_side_and_have_their_results_in_order() {
    let host = Host::start().await;
    // None of them is answered before all are there; one that changes something comes between them and the next.
    let three = host.page("/three", Page::Together(Arc::new(Barrier::new(3))));
    let late = host.page("/late", Page::Of("text/plain", "late".into()));
    let page = |n, url: &str| call(n, "web_fetch", &json!({ "url": url }));
    let calls = vec![
        page(1, &three),
        call(2, "glob", &json!({"pattern": "*"})),
        page(3, &three),
        call(4, "read", &json!({"file_path": "/workspace/none"})),
        page(5, &three),
        call(6, "bash", &json!({"command": "touch made"})),
        call(7, "glob", &json!({"pattern": "*"})),
        page(8, &late),
    ];
    let played = play(|_| {}, json!([]), &format!("{three} {late}"), vec![calls]).await;
    let made: Vec<_> = played.events.iter().filter(|event| event["type"] == "agent.tool_use").map(id).collect();
    let answered: Vec<_> =
        results(&played.events).iter().map(|result| result["tool_use_id"].as_str().unwrap()).collect();
    assert_eq!(answered, made);
    let told: Vec<_> = results(&played.events)
        .iter()
        .map(|result| result["content"][0]["source"]["data"].as_str().unwrap_or_else(|| text(result)).to_owned())
        .collect();
    assert_eq!(told[1], "No files found", "what changes something waits for those before it");
    assert_eq!(told[6], "/workspace/made\n", "and those behind it wait for it");
    assert_eq!([&told[0], &told[2], &told[4], &told[7]], ["together", "together", "together", "late"]);
    assert_eq!(host.asked().last().unwrap(), "GET /late");
}

#[tokio::test]
async fn twenty_reads_of_one_reply_are_answered_in_their_order() {
    let calls = (0..20).map(|n| call(n, "read", &json!({"file_path": format!("/workspace/{n}")}))).collect();
    let write = "for n in $(seq 0 19); do echo \"file $n\" > $n; done";
    let replies = vec![vec![call(100, "bash", &json!({"command": write}))], calls];
    let played = play(|_| {}, json!([]), "read them", replies).await;
    let told: Vec<_> = results(&played.events)[1..].iter().map(|result| text(result).to_owned()).collect();
    assert_eq!(told, (0..20).map(|n| format!("1\tfile {n}\n")).collect::<Vec<_>>());
    let ends = kinds(&played.events).iter().filter(|kind| **kind == "span.model_request_end").count();
    assert_eq!(ends, 3, "the model is asked once for all of them");
}

#[tokio::test]
async fn an_interrupt_ends_all_that_runs_side_by_side() {
    let host = Host::start().await;
    let silent = host.page("/silent", Page::Silent);
    let upstream = Upstream::start([
        Reply::Message(vec![fetch(&silent), call(2, "bash", &json!({"command": "touch made"})), fetch(&silent)]),
        done(),
    ])
    .await;
    let rota = Rota::with(|config| {
        config.models = vec![upstream.model()];
        config.web.allow_private = true;
    })
    .await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let session = parts.session_with(api, message(&silent)).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.until("agent.tool_use").await;
    host.is_asked().await;
    api.events(id(&session), json!([{"type": "user.interrupt"}])).await;
    let events = stream.turn().await;
    let told: Vec<_> = results(&events).into_iter().map(text).collect();
    assert_eq!(told, ["Tool execution was interrupted before completion. Please retry."; 3]);
    assert!(!rota.workspace_file(id(&session), "made").exists());
    api.events(id(&session), json!([message("go on")])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "done");
}

#[tokio::test]
async fn after_a_restart_what_changes_nothing_runs_again_and_nothing_else_does() {
    let cut = Cut::new().await;
    let rota = Rota::with(|config| {
        config.models = vec![cut.upstream.model()];
        config.web.allow_private = true;
    })
    .await;
    let session = cut.begin(&rota.api).await;
    let rota = rota.restart().await;
    cut.check(&rota.api, &session).await;
    assert!(!rota.workspace_file(&session, "made").exists());
}

#[tokio::test]
async fn after_sigkill_what_changes_nothing_runs_again_and_nothing_else_does() {
    let cut = Cut::new().await;
    let folder = TempDir::new().unwrap();
    let (data, settings) = (folder.path().join("data"), folder.path().join("rota.toml"));
    std::fs::create_dir(&data).unwrap();
    let model = cut.upstream.model();
    let (id, upstream, url) = (model.id, model.upstream.unwrap(), model.base_url.unwrap());
    let text = format!(
        "[web]\nallow_private = true\n[[models]]\nid = {id:?}\nprovider = \"messages\"\nupstream = {upstream:?}\nbase_url = {url:?}\n"
    );
    std::fs::write(&settings, text).unwrap();
    let key = create_key(&data, &[]);
    let mut server = Server::new(&data, &["--config", settings.to_str().unwrap()]);
    server.start().await;
    let api = Api::new(server.address, key, Clock::System);
    let session = cut.begin(&api).await;
    server.kill();
    server.start().await;
    cut.check(&api, &session).await;
}

/// A reply of several calls, of which the first is not answered before its server ends.
struct Cut {
    host: Host,
    url: String,
    upstream: Upstream,
}

impl Cut {
    async fn new() -> Self {
        let host = Host::start().await;
        let url = host.page("/a", Page::Silent);
        let calls = vec![
            fetch(&url),
            call(2, "read", &json!({"file_path": "/workspace/none"})),
            call(3, "bash", &json!({"command": "touch made"})),
        ];
        let upstream = Upstream::start([Reply::Message(calls), done()]).await;
        Self { host, url, upstream }
    }

    /// Starts the session, and returns its id when the first call runs. Whoever asks for the page from then on has it.
    async fn begin(&self, api: &Api) -> String {
        let agent = agent(api, json!({"model": "house"})).await;
        let parts = Parts { agent, environment: environment(api, "e").await };
        let session = parts.session_with(api, message(&self.url)).await;
        api.once(&format!("/v1/sessions/{}/events", id(&session)), |log| {
            log["data"].as_array().unwrap().iter().filter(|event| event["type"] == "agent.tool_use").count() == 3
        })
        .await;
        self.host.is_asked().await;
        self.host.page("/a", Page::Of("text/plain", "at last".into()));
        id(&session).to_owned()
    }

    /// Each call is answered once: those that change nothing by what they found, the other one by what nobody knows.
    async fn check(&self, api: &Api, session: &str) {
        let events = api.stream_from(session, 0).await.turn().await;
        let told: HashMap<_, _> =
            results(&events).iter().map(|result| (result["tool_use_id"].as_str().unwrap(), *result)).collect();
        let calls: Vec<_> = events.iter().filter(|event| event["type"] == "agent.tool_use").map(id).collect();
        assert_eq!((calls.len(), results(&events).len()), (3, 3));
        assert_eq!(told[calls[0]]["content"][0]["source"]["data"], "at last");
        assert!(text(told[calls[1]]).contains("no such file"), "{}", told[calls[1]]);
        assert!(text(told[calls[2]]).contains("Whether it did anything is unknown"), "{}", told[calls[2]]);
    }
}

#[tokio::test]
async fn an_image_that_the_agent_reads_reaches_the_model_as_one() {
    let replies = vec![
        vec![call(
            1,
            "bash",
            &json!({"command": "printf '\\211PNG\\r\\n\\032\\n' > a.png; printf '%%PDF-1.7' > b.pdf"}),
        )],
        vec![
            call(2, "read", &json!({"file_path": "/workspace/a.png"})),
            call(3, "read", &json!({"file_path": "/workspace/b.pdf"})),
        ],
    ];
    let played = play(|_| {}, json!([]), "look", replies).await;
    let source = |media_type: &str, data: &str| json!({"type": "base64", "media_type": media_type, "data": data});
    let image = json!([{"type": "image", "source": source("image/png", "iVBORw0KGgo=")}]);
    let pdf = json!([{"type": "document", "source": source("application/pdf", "JVBERi0xLjc=")}]);
    let told = results(&played.events);
    assert_eq!((&told[1]["content"], &told[2]["content"]), (&image, &pdf));
    let sent = played.upstream.asked()[2]["messages"][4]["content"].clone();
    assert_eq!((&sent[0]["content"], &sent[1]["content"]), (&image, &pdf));
}

#[tokio::test]
async fn ten_turns_use_the_prompt_cache_from_the_second_request_on() {
    let bash = |n: usize| Reply::Message(vec![call(n, "bash", &json!({"command": format!("echo {n}")}))]);
    let upstream = Upstream::start((0..10).flat_map(|n| [bash(n), done()])).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let agent = agent(api, json!({"model": "house", "system": "Be brief."})).await;
    let parts = Parts { agent, environment: environment(api, "e").await };
    let session = parts.session(api, json!({})).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    for turn in 0..10 {
        api.events(id(&session), json!([message(&format!("turn {turn}"))])).await;
        stream.turn().await;
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 20);
    let plain = |value: &Value| value.to_string().replace(",\"cache_control\":{\"type\":\"ephemeral\"}", "");
    let mut before: Option<&Value> = None;
    for request in &asked {
        let marks = request.to_string().matches("cache_control").count();
        let messages = request["messages"].as_array().unwrap();
        assert_eq!(marks, if before.is_none() { 3 } else { 4 }, "on the tools, the system prompt, and two messages");
        if let Some(before) = before {
            assert_eq!((&request["tools"], &request["system"]), (&before["tools"], &before["system"]));
            let earlier = before["messages"].as_array().unwrap();
            for (now, then) in messages.iter().zip(earlier) {
                assert_eq!(plain(now), plain(then), "what was sent before is sent again as it was");
            }
            // The last message of before has a mark again: up to there the cache was written.
            let last = &messages[earlier.len() - 1]["content"];
            assert!(last.to_string().contains("cache_control"), "{last}");
        }
        before = Some(request);
    }
}
