//! MCP servers of agents: what the model is offered of them, what becomes of calls, and of servers that fail.

mod official;
mod stand_in;

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use rota_server::{
    config::Config,
    limits::{MCP_TOOL_BYTES, MCP_TOOLS_OF_ONE},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    client::{Api, invalid},
    given::{Parts, agent, environment, id, message, over},
    models::{calls, says},
    oauth_server::{Grant, OAuthServer},
    server::{PATIENCE, Rota},
    stream::{Stream, first, kinds, stop_reason, text},
    traces::{Collector, named, to},
    upstream::{Reply, Upstream},
    vaults::{credentials, vault},
};
use stand_in::{Answer, StandIn, said, tool};

/// An agent's server at `url`.
fn server_of(name: &str, url: &str) -> Value {
    json!({"type": "url", "name": name, "url": url})
}

/// All tools of a server, which run at once, but for `changes`.
fn toolset(name: &str, changes: &Value) -> Value {
    let allow = json!({"permission_policy": {"type": "always_allow"}});
    over(json!({"type": "mcp_toolset", "mcp_server_name": name, "default_config": allow}), changes)
}

/// A server of Rota whose model `house` is answered for by a script, and which reaches MCP servers of this machine.
struct House {
    upstream: Upstream,
    rota: Rota,
    environments: AtomicUsize,
}

impl House {
    async fn with(script: Vec<Reply>, configure: impl FnOnce(&mut Config)) -> Self {
        let upstream = Upstream::start(script).await;
        let rota = Rota::with(|config| {
            config.models = vec![upstream.model()];
            config.mcp.allow_private = true;
            config.vault.allow_private = true;
            configure(config);
        })
        .await;
        Self { upstream, rota, environments: AtomicUsize::new(0) }
    }

    async fn new(script: Vec<Reply>) -> Self {
        Self::with(script, |_| {}).await
    }

    fn api(&self) -> &Api {
        &self.rota.api
    }

    /// An agent with these servers, by their names and URLs; toolsets for them are `tools`.
    async fn parts(&self, servers: &[(&str, &str)], tools: Value) -> Parts {
        let servers: Vec<Value> = servers.iter().map(|(name, url)| server_of(name, url)).collect();
        let changes = json!({"model": "house", "mcp_servers": servers, "tools": tools});
        let name = format!("e{}", self.environments.fetch_add(1, Ordering::Relaxed));
        Parts { agent: agent(self.api(), changes).await, environment: environment(self.api(), &name).await }
    }

    /// A session that begins with a message, of an agent whose servers let all tools run.
    async fn session(&self, servers: &[(&str, &str)]) -> (Value, Stream) {
        let tools: Vec<Value> = servers.iter().map(|(name, _)| toolset(name, &json!({}))).collect();
        self.session_of(&self.parts(servers, json!(tools)).await, json!({})).await
    }

    async fn session_of(&self, parts: &Parts, changes: Value) -> (Value, Stream) {
        let begins = json!({"initial_events": [message("hello")]});
        let session = parts.session(self.api(), over(begins, &changes)).await;
        let stream = self.api().stream_from(id(&session), 0).await;
        (session, stream)
    }

    /// The tools that the model was offered with its last request.
    fn offered(&self) -> Vec<String> {
        let asked = self.upstream.asked();
        let tools = asked.last().unwrap()["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn done() -> Reply {
    Reply::Message(vec![says("done")])
}

/// A reply that calls this tool of a server, by the name that the model has for it.
fn call(name: &str) -> Reply {
    Reply::Message(vec![calls("toolu_1", name, &json!({"a": 1}))])
}

/// The errors that `events` tell of: their types, and the rest of each.
fn errors(events: &[Value]) -> Vec<Value> {
    let errors = events.iter().filter(|event| event["type"] == "session.error");
    errors.map(|event| event["error"].clone()).collect()
}

#[tokio::test]
async fn a_tool_of_a_server_is_offered_called_and_answered_in_the_recorded_order() {
    let server = StandIn::start(&["search", "close"]).await;
    server.set(|manner| manner.calls = [Answer::Result(said("found it"))].into());
    let house = House::new(vec![call("mcp__tracker__search"), done()]).await;
    let (session, mut stream) = house.session(&[("tracker", &server.url)]).await;
    let events = stream.turn().await;
    let turn = [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "agent.mcp_tool_use",
        "span.model_request_end",
        "agent.mcp_tool_result",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ];
    assert_eq!(kinds(&events), turn);
    let used = first(&events, "agent.mcp_tool_use");
    assert_eq!((&used["mcp_server_name"], &used["name"]), (&json!("tracker"), &json!("search")));
    assert_eq!((&used["evaluated_permission"], &used["input"]), (&json!("allow"), &json!({"a": 1})));
    let result = first(&events, "agent.mcp_tool_result");
    assert_eq!((&result["mcp_tool_use_id"], &result["is_error"]), (&used["id"], &json!(false)));
    assert_eq!(text(result), "found it");
    assert_eq!(house.offered(), ["mcp__tracker__search", "mcp__tracker__close"]);
    let sent = server.asked("tools/call");
    assert_eq!(
        (sent.len(), &sent[0].params["name"], &sent[0].params["arguments"]),
        (1, &json!("search"), &json!({"a": 1}))
    );
    let conversation = house.upstream.asked()[1]["messages"].clone();
    assert_eq!(conversation[1]["content"][0]["name"], "mcp__tracker__search");
    assert_eq!(conversation[2]["content"][0]["content"][0]["text"], "found it");
    let shown = house.api().get(&format!("/rota/v1/sessions/{}", id(&session))).await;
    assert_eq!(shown["warnings"], json!([]));
}

#[tokio::test]
async fn every_page_of_a_list_is_offered_under_names_that_models_take() {
    let listing = || {
        StandIn::with(|manner| {
            manner.pages = vec![vec![tool("a")], Vec::new(), vec![tool("straße.suchen"), tool("b")], vec![tool("a")]];
            // The answer to a call may well be a stream.
            manner.calls = [Answer::Streamed(said("gefunden"))].into();
        })
    };
    let (server, other) = (listing().await, listing().await);
    let house = House::new(vec![done(), done()]).await;
    let (session, mut stream) = house.session(&[("München", &server.url), ("x", &other.url)]).await;
    let first_turn = stream.turn().await.len();
    let offered = house.offered();
    assert_eq!(offered[3..], ["mcp__x__a", &offered[4], "mcp__x__b"], "a second tool of one name is left out");
    assert!(offered[1].starts_with("mcp__M_nchen__stra_e_suchen_"), "{offered:?}");
    let takes = |name: &String| {
        (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    assert!(offered.iter().all(takes), "{offered:?}");

    let upstream = Upstream::start([call(&offered[1]), done()]).await;
    let rota = house.rota.restart_with(|config| config.models = vec![upstream.model()]).await;
    let mut stream = rota.api.stream_from(id(&session), first_turn as i64).await;
    rota.api.events(id(&session), json!([message("search")])).await;
    let events = stream.turn().await;
    let used = first(&events, "agent.mcp_tool_use");
    assert_eq!((&used["mcp_server_name"], &used["name"]), (&json!("München"), &json!("straße.suchen")));
    assert_eq!(text(first(&events, "agent.mcp_tool_result")), "gefunden");
    let asked = upstream.asked()[1]["messages"].to_string();
    assert!(asked.contains(&offered[1]), "the conversation has the name that the model used: {asked}");
}

#[tokio::test]
async fn a_toolset_says_which_tools_are_offered_and_which_ask() {
    let server = StandIn::start(&["look", "change", "secret"]).await;
    let house = House::new(vec![done(), done(), done()]).await;
    let on = |name: &str| json!({"name": name, "enabled": true});
    let off = |name: &str| json!({"name": name, "enabled": false});
    for (changes, offered) in [
        (json!({"configs": [off("secret"), off("unheard_of")]}), &["mcp__t__look", "mcp__t__change"][..]),
        (json!({"default_config": {"enabled": false}, "configs": [on("look"), on("unheard_of")]}), &["mcp__t__look"]),
        (json!({"default_config": {"enabled": false}}), &[]),
    ] {
        let parts = house.parts(&[("t", &server.url)], json!([toolset("t", &changes)])).await;
        let (_, mut stream) = house.session_of(&parts, json!({})).await;
        let events = stream.turn().await;
        assert_eq!(
            (house.offered(), errors(&events)),
            (offered.iter().map(|name| (*name).to_owned()).collect(), vec![])
        );
    }
}

/// What answers a call that asks.
fn confirm(call: &Value, changes: &Value) -> Value {
    let base = json!({"type": "user.tool_confirmation", "tool_use_id": id(call), "result": "allow"});
    json!([over(base, changes)])
}

#[tokio::test]
async fn a_call_asks_by_default_and_waits_in_sight_until_somebody_decides() {
    let server = StandIn::start(&["close"]).await;
    let script = vec![call("mcp__t__close"), done(), call("mcp__t__close"), done(), call("mcp__t__close"), done()];
    let house = House::new(script).await;
    let asks = json!({"type": "mcp_toolset", "mcp_server_name": "t"});
    let parts = house.parts(&[("t", &server.url)], json!([asks])).await;
    let deployment = parts.deployment(house.api(), json!({"initial_events": [message("close it")]})).await;
    let run = house.api().call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let session = run["session_id"].as_str().unwrap();
    let mut stream = house.api().stream_from(session, 0).await;
    let events = stream.turn().await;
    let used = first(&events, "agent.mcp_tool_use").clone();
    assert_eq!((&used["evaluated_permission"], &used["evaluation"]["type"]), (&json!("ask"), &json!("always_ask")));
    assert_eq!(*stop_reason(&events), json!({"type": "requires_action", "event_ids": [id(&used)]}));
    let shown = house.api().get(&format!("/v1/sessions/{session}")).await;
    assert_eq!(shown["status"], "idle");
    assert!(server.asked("tools/call").is_empty(), "nothing is sent before somebody allows it");

    house.api().events(session, confirm(&used, &json!({}))).await;
    let events = stream.turn().await;
    let resumed =
        ["user.tool_confirmation", "session.status_running", "session.thread_status_running", "agent.mcp_tool_result"];
    assert_eq!(kinds(&events)[..4], resumed);
    assert_eq!((text(&events[3]), stop_reason(&events)), ("done", &json!({"type": "end_turn"})));

    house.api().events(session, json!([message("again")])).await;
    let used = first(&stream.turn().await, "agent.mcp_tool_use").clone();
    house.api().events(session, confirm(&used, &json!({"result": "deny", "deny_message": "not today"}))).await;
    let events = stream.turn().await;
    let result = first(&events, "agent.mcp_tool_result");
    let told = "Permission to use close has been rejected. Rejection message: not today";
    assert_eq!((text(result), &result["is_error"]), (told, &json!(true)));

    house.api().events(session, json!([message("once more")])).await;
    let used = first(&stream.turn().await, "agent.mcp_tool_use").clone();
    house.api().events(session, json!([{"type": "user.interrupt"}])).await;
    let events = stream.turn().await;
    assert_eq!(kinds(&events)[..2], ["agent.mcp_tool_result", "user.interrupt"]);
    assert_eq!((&events[0]["mcp_tool_use_id"], &events[0]["is_error"]), (&used["id"], &json!(true)));
    assert_eq!(server.asked("tools/call").len(), 1);
    assert_eq!(server.asked("initialize").len(), 1, "one session at the server is enough for all of that");
}

#[tokio::test]
async fn each_kind_of_result_reaches_the_log_and_the_model() {
    let picture = json!({"type": "image", "mimeType": "image/png", "data": "aGk="});
    let shown = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}});
    let text = |text: &str| json!({"type": "text", "text": text});
    let pdf = json!({"type": "resource", "resource": {"uri": "a.pdf", "mimeType": "application/pdf", "blob": "aGk="}});
    let document = json!({"type": "document", "title": "a.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}});
    let rows = [
        (Answer::Result(json!({"content": [picture, text("a")]})), json!([shown, text("a")]), false),
        (Answer::Streamed(json!({"content": [], "structuredContent": {"n": 1}})), json!([text(r#"{"n":1}"#)]), false),
        (Answer::Result(json!({"content": [pdf]})), json!([document]), false),
        (
            Answer::Result(json!({"content": [text("no such issue")], "isError": true})),
            json!([text("no such issue")]),
            true,
        ),
        (
            Answer::Error("no tool of this name"),
            json!([text("The MCP server answered with an error: no tool of this name")]),
            true,
        ),
        (
            Answer::Result(json!({"content": [{"type": "new", "x": 1}]})),
            json!([text(r#"{"type":"new","x":1}"#)]),
            false,
        ),
        (Answer::Result(json!({"content": []})), json!([text("(no output)")]), false),
    ];
    let server = StandIn::start(&["look"]).await;
    let script = rows.iter().flat_map(|_| [call("mcp__t__look"), done()]).collect();
    let house = House::new(script).await;
    let (session, mut stream) = house.session(&[("t", &server.url)]).await;
    for (i, (answer, content, is_error)) in rows.into_iter().enumerate() {
        if i > 0 {
            house.api().events(id(&session), json!([message("next")])).await;
        }
        // Set before the model is asked for the first time: its list is waited for.
        server.set(|manner| manner.calls = [answer.clone()].into());
        let events = stream.turn().await;
        let result = first(&events, "agent.mcp_tool_result");
        assert_eq!((&result["content"], &result["is_error"]), (&content, &json!(is_error)), "{answer:?}");
        assert_eq!(errors(&events), [] as [Value; 0]);
        let messages = house.upstream.asked().last().unwrap()["messages"].clone();
        let sent = messages.as_array().unwrap().last().unwrap()["content"][0].clone();
        assert_eq!((&sent["type"], &sent["content"]), (&json!("tool_result"), &content), "{answer:?}");
    }
}

/// How a server that cannot be used is, what is told of it, and what kind of error it is.
fn unusable() -> Vec<(Answer, &'static str, &'static str)> {
    let connection = "mcp_connection_failed_error";
    vec![
        (Answer::Status(500), connection, "upstream server error (HTTP 500)"),
        (Answer::Status(502), connection, "upstream server error (HTTP 502)"),
        (Answer::Status(403), connection, "access forbidden (HTTP 403)"),
        (Answer::Status(407), connection, "it answers HTTP 407"),
        (Answer::Status(404), connection, "it answers HTTP 404"),
        (
            Answer::Status(401),
            "mcp_authentication_failed_error",
            "it wants a credential, and no vault of the session has one for its URL",
        ),
        (
            Answer::Page,
            connection,
            "it does not answer as an MCP server does: its answer has text/html, and not application/json or text/event-stream",
        ),
        (
            Answer::Body("{\"hello\": "),
            connection,
            "it does not answer as an MCP server does: its answer cannot be read",
        ),
        (Answer::Body("[]"), connection, "it does not answer as an MCP server does: its answer cannot be read"),
        (
            Answer::Status(202),
            connection,
            "it does not answer as an MCP server does: it takes a request as if it wanted no answer",
        ),
        (Answer::HangUp, connection, "it cannot be reached: "),
    ]
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_told_of_once_a_turn_and_the_session_goes_on_without_it() {
    let check = |(answer, kind, why): (Answer, &'static str, &'static str)| async move {
        let good = StandIn::start(&["look"]).await;
        let bad = StandIn::start(&["never"]).await;
        // Enough for two turns: each asks once.
        bad.set(|manner| manner.opens = vec![answer.clone(); 2].into());
        let house = House::new(vec![call("mcp__good__look"), done(), done(), done()]).await;
        let (session, mut stream) = house.session(&[("bad", &bad.url), ("good", &good.url)]).await;
        for turn in 0..2 {
            if turn > 0 {
                house.api().events(id(&session), json!([message("next")])).await;
            }
            let events = stream.turn().await;
            let told = errors(&events);
            assert_eq!(told.len(), 1, "{answer:?}: {told:?}");
            let message = told[0]["message"].as_str().unwrap();
            assert!(message.starts_with(&format!("MCP server \"bad\": {why}")), "{answer:?}: {message}");
            assert_eq!((&told[0]["type"], &told[0]["mcp_server_name"]), (&json!(kind), &json!("bad")), "{answer:?}");
            assert_eq!(told[0]["retry_status"]["type"], "retrying");
            assert_eq!(stop_reason(&events)["type"], "end_turn");
            let place = kinds(&events).iter().position(|kind| *kind == "session.error").unwrap();
            assert!(place < kinds(&events).iter().position(|kind| *kind == "span.model_request_start").unwrap());
            assert_eq!(house.offered(), ["mcp__good__look"]);
        }
        // The third time it is there.
        house.api().events(id(&session), json!([message("next")])).await;
        assert_eq!(errors(&stream.turn().await), [] as [Value; 0]);
        assert_eq!(house.offered(), ["mcp__bad__never", "mcp__good__look"]);
    };
    join_all(unusable().into_iter().map(check)).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_or_may_not_be_reached_is_told_of_too() {
    let gone = StandIn::start(&[]).await;
    let url = gone.url.clone();
    gone.end().await;
    let house = House::new(vec![done()]).await;
    let (_, mut stream) = house.session(&[("gone", &url)]).await;
    let told = errors(&stream.turn().await);
    assert!(
        told[0]["message"].as_str().unwrap().starts_with("MCP server \"gone\": it cannot be reached: "),
        "{told:?}"
    );

    let house = House::with(vec![done()], |config| config.mcp.allow_private = false).await;
    let servers =
        [("plain", "http://mcp.example.com/"), ("own", "https://127.0.0.1:9/"), ("name", "https://localhost:9/")];
    let (_, mut stream) = house.session(&servers).await;
    let told: Vec<String> =
        errors(&stream.turn().await).iter().map(|error| error["message"].as_str().unwrap().to_owned()).collect();
    for why in [
        "MCP server \"plain\": its URL must be an absolute https URL",
        "MCP server \"own\": its URL 127.0.0.1 is a private address, which this server does not send to",
    ] {
        assert!(told.iter().any(|told| told == why), "{told:?}");
    }
    let private = told.iter().find(|told| told.starts_with("MCP server \"name\": ")).unwrap();
    assert!(private.contains("a private address, which this server does not send to"), "{private}");
}

/// How a call goes wrong, and what the model reads of it.
fn gone_wrong() -> Vec<(Answer, &'static str)> {
    vec![
        (Answer::Status(500), "upstream server error (HTTP 500). Whether the call did anything is unknown"),
        (Answer::Status(403), "This call was not run: access forbidden (HTTP 403)"),
        (Answer::HangUp, "Whether the call did anything is unknown: look before you try again."),
        (Answer::Body("{"), "its answer cannot be read"),
        (Answer::Page, "its answer has text/html"),
        (Answer::Status(202), "it takes a request as if it wanted no answer"),
    ]
}

#[tokio::test]
async fn a_call_that_goes_wrong_on_the_way_has_a_result_that_says_so_and_is_not_sent_again() {
    let check = |(answer, why): (Answer, &'static str)| async move {
        let server = StandIn::start(&["look"]).await;
        server.set(|manner| manner.calls = [answer.clone()].into());
        let script = vec![call("mcp__t__look"), call("mcp__t__look"), done()];
        let house = House::new(script).await;
        let (_, mut stream) = house.session(&[("t", &server.url)]).await;
        let events = stream.turn().await;
        let results: Vec<&Value> = events.iter().filter(|event| event["type"] == "agent.mcp_tool_result").collect();
        assert!(text(results[0]).contains(why), "{answer:?}: {}", text(results[0]));
        assert_eq!(results[0]["is_error"], true);
        assert_eq!(errors(&events).len(), 1, "{answer:?}: {:?}", errors(&events));
        assert_eq!((text(results[1]), &results[1]["is_error"]), ("done", &json!(false)), "{answer:?}");
        assert_eq!(server.asked("tools/call").len(), 2, "{answer:?}: each call is sent once");
        assert_eq!(server.asked("initialize").len(), 2, "{answer:?}: another session is opened before the next call");
    };
    join_all(gone_wrong().into_iter().map(check)).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_as_long_as_the_configuration_says() {
    let server = StandIn::start(&["look"]).await;
    server.set(|manner| manner.opens = [Answer::Hang].into());
    let house = House::with(vec![done()], |config| config.mcp.connect_seconds = 1).await;
    let (_, mut stream) = house.session(&[("t", &server.url)]).await;
    let told = errors(&stream.turn().await);
    let why = json!("MCP server \"t\": it does not answer within 1 s");
    assert_eq!((told.len(), &told[0]["type"], &told[0]["message"]), (1, &json!("mcp_connection_failed_error"), &why));

    server.set(|manner| manner.calls = [Answer::Hang].into());
    let house = House::with(vec![call("mcp__t__look"), done()], |config| config.mcp.call_seconds = 1).await;
    let (_, mut stream) = house.session(&[("t", &server.url)]).await;
    let events = stream.turn().await;
    let read = "MCP server \"t\": it does not answer within 1 s. Whether the call did anything is unknown: look before you try again.";
    assert_eq!(text(first(&events, "agent.mcp_tool_result")), read);
    assert_eq!(errors(&events)[0]["message"], why);
    server.is_asked("notifications/cancelled", 1).await;
    assert_eq!(server.asked("tools/call").len(), 1);
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_session_gets_another_one_and_the_call() {
    let server = StandIn::start(&["look"]).await;
    let house = House::new(vec![done(), call("mcp__t__look"), done()]).await;
    let (session, mut stream) = house.session(&[("t", &server.url)]).await;
    stream.turn().await;
    server.forget_sessions();
    house.api().events(id(&session), json!([message("next")])).await;
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.mcp_tool_result")), "done");
    assert_eq!(errors(&events), [] as [Value; 0]);
    let sent: Vec<Option<String>> = server.asked("tools/call").into_iter().map(|asked| asked.session).collect();
    assert_eq!(sent, [Some("session-1".to_owned()), Some("session-2".to_owned())]);
}

#[tokio::test]
async fn a_server_needs_neither_sessions_nor_a_stream_for_what_nobody_asked_for() {
    for (get, has_sessions) in [(405, true), (406, true), (404, true), (400, true), (500, true), (405, false)] {
        let server = StandIn::start(&["look"]).await;
        server.set(|manner| (manner.get, manner.has_sessions) = (Err(get), has_sessions));
        let house = House::new(vec![call("mcp__t__look"), done()]).await;
        let (_, mut stream) = house.session(&[("t", &server.url)]).await;
        let events = stream.turn().await;
        assert_eq!((text(first(&events, "agent.mcp_tool_result")), errors(&events)), ("done", vec![]), "{get}");
    }
}

#[tokio::test]
async fn a_list_that_changes_is_asked_for_again_before_the_model_is() {
    let server = StandIn::start(&["a"]).await;
    server.set(|manner| manner.get = Ok(()));
    let house = House::new(std::iter::repeat_with(done).take(1000).collect()).await;
    let (session, mut stream) = house.session(&[("t", &server.url)]).await;
    stream.turn().await;
    assert_eq!(house.offered(), ["mcp__t__a"]);
    server.set(|manner| manner.pages = vec![vec![tool("b")]]);
    server.says_that_tools_changed().await;
    // A turn that begins before the notice has come still has the earlier tools.
    let following = async {
        while house.offered() != ["mcp__t__b"] {
            house.api().events(id(&session), json!([message("next")])).await;
            stream.turn().await;
        }
    };
    timeout(PATIENCE, following).await.expect("the change is followed");
    assert_eq!(server.asked("tools/list").len(), 2);
    assert_eq!(server.asked("initialize").len(), 1);
}

#[tokio::test]
async fn an_interrupt_cancels_a_call_and_the_session_goes_on() {
    let server = StandIn::start(&["look"]).await;
    server.set(|manner| manner.calls = [Answer::Hang].into());
    let house = House::new(vec![call("mcp__t__look"), call("mcp__t__look"), done()]).await;
    let (session, mut stream) = house.session(&[("t", &server.url)]).await;
    server.is_asked("tools/call", 1).await;
    house.api().events(id(&session), json!([{"type": "user.interrupt"}])).await;
    let events = stream.turn().await;
    let result = first(&events, "agent.mcp_tool_result");
    assert_eq!(text(result), "Tool execution was interrupted before completion. Please retry.");
    assert_eq!((&result["is_error"], stop_reason(&events)), (&json!(true), &json!({"type": "end_turn"})));
    server.is_asked("notifications/cancelled", 1).await;
    house.api().events(id(&session), json!([message("next")])).await;
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.mcp_tool_result")), "done");
    assert_eq!(server.asked("tools/call").len(), 2);
}

#[tokio::test]
async fn a_call_that_was_under_way_when_the_server_ended_is_closed_as_unknown_and_never_sent_again() {
    let server = StandIn::start(&["look"]).await;
    server.set(|manner| manner.calls = [Answer::Hang].into());
    let house = House::new(vec![call("mcp__t__look"), done()]).await;
    let (session, _) = house.session(&[("t", &server.url)]).await;
    server.is_asked("tools/call", 1).await;
    let House { upstream, rota, .. } = house;
    let rota = rota.restart().await;
    let events = rota.api.stream_from(id(&session), 0).await.turn().await;
    let result = first(&events, "agent.mcp_tool_result");
    let told = "The server was restarted while this call may have been under way at the MCP server. Whether it did anything is \
        unknown: look before you try again.";
    assert_eq!((text(result), &result["is_error"]), (told, &json!(true)));
    assert_eq!(stop_reason(&events)["type"], "end_turn");
    assert_eq!((server.asked("tools/call").len(), upstream.asked().len()), (1, 2));
}

#[tokio::test]
async fn forty_tools_of_five_servers_are_there_at_once_and_one_reply_calls_all_servers() {
    let names: Vec<String> = (0..8).map(|i| format!("tool_{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let servers = join_all((0..5).map(|_| StandIn::start(&names))).await;
    let reply = (0..5).map(|i| calls(&format!("toolu_{i}"), &format!("mcp__s{i}__tool_{i}"), &json!({"i": i})));
    let house = House::new(vec![Reply::Message(reply.collect()), done()]).await;
    let labels: Vec<String> = (0..5).map(|i| format!("s{i}")).collect();
    let named: Vec<(&str, &str)> = labels.iter().zip(&servers).map(|(name, server)| (&**name, &*server.url)).collect();
    let (_, mut stream) = house.session(&named).await;
    let events = stream.turn().await;
    assert_eq!(house.offered().len(), 40);
    assert_eq!(events.iter().filter(|event| event["type"] == "agent.mcp_tool_result").count(), 5);
    for (i, server) in servers.iter().enumerate() {
        let sent = server.asked("tools/call");
        assert_eq!((sent.len(), &sent[0].params["name"]), (1, &json!(format!("tool_{i}"))));
    }
    assert_eq!(errors(&events), [] as [Value; 0]);
}

#[tokio::test]
async fn more_tools_than_a_server_may_have_are_left_out_and_told_of() {
    let server = StandIn::with(|manner| {
        let many = (0..=MCP_TOOLS_OF_ONE).map(|i| tool(&format!("tool_{i}")));
        let large = over(tool("large"), &json!({"description": "x".repeat(MCP_TOOL_BYTES)}));
        manner.pages = vec![std::iter::once(large).chain(many).collect()];
    })
    .await;
    let house = House::new(vec![done()]).await;
    let (_, mut stream) = house.session(&[("t", &server.url)]).await;
    let told = errors(&stream.turn().await);
    let message = format!(
        "MCP server \"t\": 2 of its tools are left out: a server has at most {MCP_TOOLS_OF_ONE}, whose descriptions and schemas are \
         not too large"
    );
    assert_eq!((told.len(), &told[0]["message"]), (1, &json!(message)));
    assert_eq!(house.offered().len(), MCP_TOOLS_OF_ONE);
}

#[tokio::test]
async fn arguments_that_cannot_be_read_are_answered_as_those_of_the_servers_tool_and_not_sent() {
    let server = StandIn::start(&["look"]).await;
    let unreadable = Reply::Message(vec![calls("toolu_1", "mcp__t__look", &json!([1]))]);
    let unheard_of = Reply::Message(vec![calls("toolu_2", "mcp__t__unheard_of", &json!({}))]);
    let house = House::new(vec![unreadable, unheard_of, done()]).await;
    let (_, mut stream) = house.session(&[("t", &server.url)]).await;
    let events = stream.turn().await;
    let used = first(&events, "agent.mcp_tool_use");
    assert_eq!((&used["name"], &used["evaluated_permission"]), (&json!("look"), &json!("deny")));
    let result = first(&events, "agent.mcp_tool_result");
    assert!(text(result).starts_with("The arguments of this call could not be read"), "{}", text(result));
    let result = first(&events, "agent.tool_result");
    assert_eq!(text(result), "The agent has no tool named \"mcp__t__unheard_of\".");
    assert!(server.asked("tools/call").is_empty());
}

#[tokio::test]
async fn in_a_self_hosted_environment_calls_of_servers_wait_for_no_worker() {
    let server = StandIn::start(&["read"]).await;
    let house = House::new(vec![call("mcp__t__read"), done()]).await;
    let parts = house.parts(&[("t", &server.url)], json!([toolset("t", &json!({}))])).await;
    let body = json!({"name": "mine", "config": {"type": "self_hosted"}});
    let environment = house.api().post("/v1/environments", body).await;
    let (_, mut stream) = house.session_of(&Parts { environment, ..parts }, json!({})).await;
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.mcp_tool_result")), "done");
    assert_eq!(stop_reason(&events)["type"], "end_turn");
}

/// An environment whose network is limited to `hosts`.
async fn limited(api: &Api, hosts: &[&str], mcp: bool) -> Value {
    let networking = json!({"type": "limited", "allowed_hosts": hosts, "allow_mcp_servers": mcp});
    api.post(
        "/v1/environments",
        json!({"name": format!("limited {hosts:?} {mcp}"), "config": {"type": "cloud", "networking": networking}}),
    )
    .await
}

#[tokio::test]
async fn what_the_network_of_the_environment_forbids_is_refused_and_never_reached() {
    let server = StandIn::start(&["look"]).await;
    let script = std::iter::repeat_with(|| [call("mcp__t__look"), done()]).take(2).flatten().collect();
    let house = House::new(script).await;
    let api = house.api();
    let parts = house.parts(&[("t", &server.url)], json!([toolset("t", &json!({}))])).await;
    for environment in [limited(api, &["127.0.0.1"], false).await, limited(api, &[], true).await] {
        let parts = Parts { agent: parts.agent.clone(), environment };
        let (_, mut stream) = house.session_of(&parts, json!({})).await;
        let events = stream.turn().await;
        assert_eq!((text(first(&events, "agent.mcp_tool_result")), errors(&events)), ("done", vec![]));
    }
    let environment = limited(api, &["example.com"], false).await;
    let parts = Parts { agent: parts.agent, environment };
    let why = "MCP server host(s) blocked by environment network policy: \"t\" (127.0.0.1). Add these hosts to the environment's \
        allowed_hosts, or set allow_mcp_servers=true.";
    let refused = api.post_refused("/v1/sessions", parts.session_body(&json!({}))).await;
    assert_eq!(refused, invalid(why));
    let deployment = parts.deployment(api, json!({})).await;
    let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    assert_eq!(run["error"], json!({"type": "mcp_egress_blocked_error", "message": why}));

    // A session keeps the network of its creation, and its servers may come later.
    let plain = Parts { agent: agent(api, json!({"model": "house", "tools": []})).await, ..parts };
    let session = plain.session(api, json!({})).await;
    let changes = json!({"agent": {"mcp_servers": [server_of("t", &server.url)], "tools": [toolset("t", &json!({}))]}});
    let refused = api.post_refused(&format!("/v1/sessions/{}", id(&session)), changes).await;
    assert_eq!(refused, invalid(why));
    assert_eq!(server.asked("initialize").len(), 2);
}

/// A vault with a credential made of `body`.
async fn vault_with(api: &Api, name: &str, body: Value) -> (Value, Value) {
    let vault = vault(api, name).await;
    let credential = api.post(&credentials(&vault), body).await;
    (vault, credential)
}

fn bearer(url: &str, token: &str) -> Value {
    json!({"auth": {"type": "static_bearer", "mcp_server_url": url, "token": token}})
}

#[tokio::test]
async fn the_first_vault_with_a_credential_for_the_url_says_which_token_is_sent() {
    let server = StandIn::start(&["look"]).await;
    server.set(|manner| manner.token = Some("hush-second".to_owned()));
    let house = House::new(vec![call("mcp__t__look"), done(), done(), done()]).await;
    let api = house.api();
    let parts = house.parts(&[("t", &server.url)], json!([toolset("t", &json!({}))])).await;
    let (other, _) = vault_with(api, "other", bearer("http://127.0.0.1:1/mcp", "hush-first")).await;
    let (second, _) = vault_with(api, "second", bearer(&format!("{}/#x", server.url), "hush-second")).await;
    let (third, credential) = vault_with(api, "third", bearer(&server.url, "hush-third")).await;
    let vaults = |vaults: &[&Value]| json!({"vault_ids": vaults.iter().map(|vault| id(vault)).collect::<Vec<_>>()});
    let (session, mut stream) = house.session_of(&parts, vaults(&[&other, &second, &third])).await;
    let events = stream.turn().await;
    assert_eq!((text(first(&events, "agent.mcp_tool_result")), errors(&events)), ("done", vec![]));
    let sent = server.asked("tools/call");
    assert_eq!(sent[0].authorization.as_deref(), Some("Bearer hush-second"));
    let log = api.all(&format!("/v1/sessions/{}/events", id(&session)), 100).await;
    assert!(!json!(log).to_string().contains("hush"));

    // The other way round the third comes first, and it is not taken.
    let (_, mut stream) = house.session_of(&parts, vaults(&[&third, &second])).await;
    let told = errors(&stream.turn().await);
    let why = format!(
        "MCP server \"t\": it does not take the credential {}, and no other token could be had for it",
        id(&credential)
    );
    assert_eq!((&told[0]["type"], &told[0]["message"]), (&json!("mcp_authentication_failed_error"), &json!(why)));

    // What is archived is not found any more.
    api.call(&format!("{}/{}/archive", credentials(&third), id(&credential))).await;
    let (_, mut stream) = house.session_of(&parts, vaults(&[&third, &second])).await;
    assert_eq!(errors(&stream.turn().await), [] as [Value; 0]);
}

/// Tokens as a token endpoint gives them.
fn tokens(access: &str, refresh: &str) -> Grant {
    Grant::Tokens(json!({"access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": 3600}))
}

/// A credential for the server at `url` whose tokens are renewed at `oauth`.
fn renewable(oauth: &OAuthServer, url: &str, access: &str, refresh: &str) -> Value {
    let mut body = oauth.credential(access, refresh, None);
    body["auth"]["mcp_server_url"] = json!(url);
    body
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_renewed_once_and_the_call_is_sent_again_with_the_new_one() {
    let server = StandIn::start(&["look"]).await;
    server.set(|manner| manner.token = Some("access-1".to_owned()));
    let mut oauth = OAuthServer::start("unused").await;
    let house = House::new(vec![done(), call("mcp__t__look"), done(), done()]).await;
    let api = house.api();
    let (vault, credential) = vault_with(api, "v", renewable(&oauth, &server.url, "access-0", "refresh-0")).await;
    oauth.grants(tokens("access-1", "refresh-1"));
    let parts = house.parts(&[("t", &server.url)], json!([toolset("t", &json!({}))])).await;
    let (session, mut stream) = house.session_of(&parts, json!({"vault_ids": [id(&vault)]})).await;
    assert_eq!(errors(&stream.turn().await), [] as [Value; 0]);
    assert_eq!(oauth.next().await.form["refresh_token"], "refresh-0");

    // Revoked while the session at the server is open: the call itself is refused.
    server.set(|manner| manner.token = Some("access-2".to_owned()));
    oauth.grants(tokens("access-2", "refresh-2"));
    api.events(id(&session), json!([message("next")])).await;
    let events = stream.turn().await;
    assert_eq!((text(first(&events, "agent.mcp_tool_result")), errors(&events)), ("done", vec![]));
    assert_eq!(oauth.next().await.form["refresh_token"], "refresh-1", "the token rotates");
    let sent: Vec<_> = server.asked("tools/call").into_iter().filter_map(|asked| asked.authorization).collect();
    assert_eq!(sent, ["Bearer access-1", "Bearer access-2"]);

    // Revoked for good.
    server.set(|manner| manner.token = Some("access-3".to_owned()));
    server.forget_sessions();
    oauth.grants(Grant::Status(400, "", json!({"error": "invalid_grant"}).to_string()));
    let (_, mut stream) = house.session_of(&parts, json!({"vault_ids": [id(&vault)]})).await;
    let told = errors(&stream.turn().await);
    assert_eq!((told.len(), &told[0]["type"]), (1, &json!("mcp_authentication_failed_error")));
    assert!(told[0]["message"].as_str().unwrap().contains(id(&credential)), "{told:?}");
    assert_eq!(oauth.next().await.form["refresh_token"], "refresh-2");
    assert_eq!(oauth.so_far(), 0);
}

#[tokio::test]
async fn a_call_of_a_server_is_a_span_of_its_turn() {
    let (collector, endpoint) = Collector::start().await;
    let server = StandIn::start(&["search"]).await;
    server.set(|manner| manner.calls = [Answer::Result(said("found it"))].into());
    let house = House::with(vec![call("mcp__tracker__search"), done()], to(&endpoint, false)).await;
    let (_, mut stream) = house.session(&[("tracker", &server.url)]).await;
    stream.turn().await;
    let spans = collector.once(|_| true, &["invoke_agent worker", "execute_tool search"]).await;
    let (turn, call) = (named(&spans, "invoke_agent worker"), named(&spans, "execute_tool search"));
    assert_eq!((call.parent.as_ref(), call.kind, call.is_error), (Some(&turn.id), 3, false));
    for (key, value) in [
        ("mcp.method.name", "tools/call"),
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "search"),
        ("rota.mcp_server.name", "tracker"),
    ] {
        assert_eq!(call.attributes.get(key).map(String::as_str), Some(value), "{key} of {call:#?}");
    }
    let models =
        spans.iter().filter(|span| span.attributes.get("gen_ai.provider.name").is_some_and(|by| by == "anthropic"));
    assert!(models.count() > 0, "{spans:#?}");
}
