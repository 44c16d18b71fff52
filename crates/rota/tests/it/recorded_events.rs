//! Facts of sessions' events that the hosted service was recorded to hold to (tag R2), and those that are Rota's own (tag
//! ours): one test a fact. The orders of whole turns stand in `turns.rs`, `models.rs` and `restarts.rs`.

use std::sync::Arc;

use reqwest::Method;
use rota_server::model::{self, Block, Delta, DeltaSink, Model, ModelReply, ModelRequest, ReplyFuture, Stop, Usage};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    client::{Api, Refusal, forbidden, invalid, not_found},
    given::{Parts, agent, environment, id, message, over, script, toolset},
    server::Rota,
    stream::{Frame, Stream, first, kinds, stop_reason, text},
    upstream::{Reply, Upstream},
    workers::Site,
};

fn path(session: &Value, rest: &str) -> String {
    format!("/v1/sessions/{}{rest}", id(session))
}

fn user(kind: &str, fields: &Value) -> Value {
    over(json!({ "type": kind }), fields)
}

async fn idle(api: &Api, session: &Value) {
    api.once(&path(session, ""), |session| session["status"] == "idle").await;
}

/// A model that says half of what it has to say, tells of it, and goes on when it is told to.
#[derive(Default)]
struct Halting {
    halfway: Notify,
    go_on: Notify,
}

impl Model for Halting {
    fn reply<'a>(&'a self, _: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a> {
        Box::pin(async move {
            deltas(Delta::TextStart);
            deltas(Delta::Text("Hello ".to_owned()));
            self.halfway.notify_one();
            self.go_on.notified().await;
            deltas(Delta::Text("world".to_owned()));
            let content = vec![Block::Text { text: "Hello world".to_owned() }];
            Ok(ModelReply { content, stop: Stop::EndTurn, refusal: model::Refusal::default(), usage: Usage::default() })
        })
    }
}

async fn halting() -> (Rota, Arc<Halting>, Parts) {
    let model = Arc::new(Halting::default());
    let rota = Rota::offering(|offer| offer.and("halting", model.clone()), |_| {}).await;
    let agent = agent(&rota.api, json!({"model": "halting"})).await;
    let environment = environment(&rota.api, "e").await;
    (rota, model, Parts { agent, environment })
}

async fn watching(api: &Api, session: &Value) -> Stream {
    let query = "/events/stream?event_deltas[]=agent.message";
    Stream::open(api.request(Method::GET, &path(session, query))).await
}

fn of_kind<'a>(frames: &'a [Frame], kind: &str) -> Vec<&'a Value> {
    frames.iter().filter(|frame| frame.kind() == kind).map(|frame| &frame.event).collect()
}

#[tokio::test]
async fn a_stream_that_comes_late_to_a_message_shows_it_whole_and_without_deltas() {
    let (rota, model, parts) = halting().await;
    let session = parts.session(&rota.api, json!({})).await;
    let mut early = watching(&rota.api, &session).await;
    rota.api.events(id(&session), json!([message("hi")])).await;
    model.halfway.notified().await;
    let mut late = watching(&rota.api, &session).await;
    model.go_on.notify_one();
    let (early, late) = (early.until("session.status_idle").await, late.until("session.status_idle").await);
    assert_eq!((of_kind(&early, "event_start").len(), of_kind(&early, "event_delta").len()), (1, 2));
    assert_eq!((of_kind(&late, "event_start").len(), of_kind(&late, "event_delta").len()), (0, 0));
    for frames in [&early, &late] {
        assert_eq!(text(of_kind(frames, "agent.message")[0]), "Hello world");
    }
}

#[tokio::test]
async fn what_is_processed_on_receipt_says_so_to_a_session_at_work_and_nothing_else_does() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let session = Parts::new(api).await.session_with(api, message("work")).await;
    let outcome = user("user.define_outcome", &json!({"description": "d", "rubric": {"type": "text", "content": "c"}}));
    let sent = api.events(id(&session), json!([message("more"), outcome])).await;
    let listed = api.get(&path(&session, "/events")).await;
    for events in [&sent["data"], &json!(listed["data"].as_array().unwrap()[1..])] {
        assert!(events[0].get("processed_at").is_none(), "R2: what waits has no such key: {events}");
        assert!(events[1]["processed_at"].is_string(), "SDK: when the outcome was accepted: {events}");
    }
    assert_eq!(sent["data"][1], listed["data"][2]);
}

#[tokio::test]
async fn a_stream_that_opens_after_a_turn_of_a_moment_ago_tells_it_from_the_message_on() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session_with(api, script("echo hello")).await;
    idle(api, &session).await;
    let told = api.stream(id(&session)).await.turn().await;
    assert_eq!(kinds(&told)[0], "span.model_request_start", "it begins after the newest event of a client");
    assert!(text(first(&told, "agent.message")).contains("1 ok"));
    rota.advance_seconds(6);
    let mut later = api.stream(id(&session)).await;
    api.events(id(&session), json!([message("second")])).await;
    let told = later.turn().await;
    assert_eq!(text(first(&told, "user.message")), "second", "after five seconds it begins now");
}

#[tokio::test]
async fn who_opens_a_stream_for_each_turn_sees_no_turn_twice() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let session = Parts::new(api).await.session(api, json!({})).await;
    let connections = rota.server.app();
    for turn in ["one", "two", "three"] {
        let mut stream = api.stream(id(&session)).await;
        api.events(id(&session), json!([message(turn)])).await;
        let told = stream.turn().await;
        assert_eq!(text(first(&told, "user.message")), turn);
        let seq = told.len();
        drop(stream);
        // The server has seen that the stream is closed.
        let workspace = &rota.server.first_key.as_ref().unwrap().workspace_id;
        while connections
            .streams
            .take(
                workspace,
                rota_server::limits::MAX_STREAMS_PER_WORKSPACE,
                rota_server::limits::MAX_STREAMS_PER_WORKSPACE,
            )
            .is_none()
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(seq > 5);
    }
}

#[tokio::test]
async fn frames_are_messages_and_the_first_bytes_say_that_the_stream_is_open() {
    let rota = Rota::start().await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, message("hi")).await;
    idle(&rota.api, &session).await;
    let request = rota.api.request(Method::GET, &path(&session, "/events/stream")).header("last-event-id", "0");
    let mut response = request.send().await.unwrap();
    let mut read = String::new();
    while !read.contains("session.status_idle") {
        read += std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap();
    }
    let frames = read.strip_prefix(": connected\n\n").expect("R2: the first bytes");
    for frame in frames.split_terminator("\n\n") {
        let fields: Vec<_> = frame.lines().map(|line| line.split_once(": ").unwrap().0).collect();
        assert_eq!(fields, ["event", "id", "data"], "R2, but for the id, which is ours: {frame}");
        assert!(frame.starts_with("event: message\n"), "R2: {frame}");
    }
}

#[tokio::test]
async fn what_one_step_records_has_one_time() {
    let busy = json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}});
    let upstream = Upstream::start([Reply::Error(529, "", busy)]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session_with(&rota.api, message("hi")).await;
    let frames = rota.api.stream_from(id(&session), 0).await.until("session.status_rescheduled").await;
    let at = |kind: &str| of_kind(&frames, kind)[0]["processed_at"].clone();
    let wake = ["session.thread_status_running", "user.message", "span.model_request_start"].map(at);
    assert!(wake.iter().all(|time| *time == at("session.status_running")), "{wake:?}");
    let end = ["session.error", "session.thread_status_rescheduled", "session.status_rescheduled"].map(at);
    assert!(end.iter().all(|time| *time == at("span.model_request_end")), "R2: {end:?}");
}

/// A session of a self-hosted environment whose model makes `calls`, and then says that it is done.
async fn self_hosted(calls: Vec<Value>, policy: &str) -> (Rota, Upstream, Value, Api) {
    let done = json!({"type": "text", "text": "done"});
    let upstream = Upstream::start([Reply::Message(calls), Reply::Message(vec![done])]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let tools = over(toolset(), &json!({"default_config": {"permission_policy": {"type": policy}}}));
    let environment = api.post("/v1/environments", json!({"name": "mine", "config": {"type": "self_hosted"}})).await;
    let parts = Parts { agent: agent(api, json!({"model": "house", "tools": [tools]})).await, environment };
    let site = Site::of(api, parts).await;
    let session = site.parts.session_with(api, message("go")).await;
    (rota, upstream, session, site.worker)
}

fn called(number: usize, name: &str, input: &Value) -> Value {
    json!({"type": "tool_use", "id": format!("t{number}"), "name": name, "input": input})
}

fn result(call: &Value) -> Value {
    let content = json!([{"type": "text", "text": "ran"}]);
    user("user.tool_result", &json!({"tool_use_id": id(call), "content": content}))
}

fn allow(call: &Value) -> Value {
    user("user.tool_confirmation", &json!({"tool_use_id": id(call), "result": "allow"}))
}

#[tokio::test]
async fn a_worker_may_answer_a_call_as_soon_as_that_one_is_allowed() {
    let calls = ["one", "two"].map(|command| called(command.len(), "bash", &json!({ "command": command })));
    let (rota, _upstream, session, worker) = self_hosted(calls.to_vec(), "always_ask").await;
    let api = &rota.api;
    let mut stream = api.stream_from(id(&session), 0).await;
    let asked = stream.turn().await;
    let calls: Vec<&Value> = asked.iter().filter(|event| event["type"] == "agent.tool_use").collect();
    let both = json!({"type": "requires_action", "event_ids": [id(calls[0]), id(calls[1])]});
    assert_eq!(*stop_reason(&asked), both);
    let early = worker.post_refused(&path(&session, "/events"), json!({"events": [result(calls[0])]})).await;
    assert_eq!(early.status, 400, "it is not allowed yet");

    api.events(id(&session), json!([allow(calls[0])])).await;
    let told = stream.turn().await;
    let order = ["user.tool_confirmation", "session.thread_status_idle", "session.usage", "session.status_idle"];
    assert_eq!(kinds(&told), order, "R2: an answer that leaves another gate open");
    assert_eq!(*stop_reason(&told), both, "the one waits for its worker, the other for a human");
    worker.events(id(&session), json!([result(calls[0])])).await;
    let told = stream.turn().await;
    assert_eq!(*stop_reason(&told), json!({"type": "requires_action", "event_ids": [id(calls[1])]}));
    api.events(id(&session), json!([allow(calls[1])])).await;
    stream.turn().await;
    worker.events(id(&session), json!([result(calls[1])])).await;
    let told = stream.turn().await;
    assert_eq!(text(first(&told, "agent.message")), "done");
    assert_eq!(stop_reason(&told)["type"], "end_turn");
}

#[tokio::test]
async fn web_tools_wait_for_no_worker() {
    let calls = vec![
        called(1, "web_fetch", &json!({"url": "https://example.com"})),
        called(2, "bash", &json!({"command": "true"})),
    ];
    let (rota, upstream, session, worker) = self_hosted(calls, "always_allow").await;
    let api = &rota.api;
    let mut stream = api.stream_from(id(&session), 0).await;
    let told = stream.turn().await;
    let calls: Vec<&Value> = told.iter().filter(|event| event["type"] == "agent.tool_use").collect();
    assert_eq!(*stop_reason(&told), json!({"type": "requires_action", "event_ids": [id(calls[1])]}));
    assert_eq!(first(&told, "agent.tool_result")["tool_use_id"], calls[0]["id"]);
    worker.events(id(&session), json!([result(calls[1])])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.message")), "done");
    let offered = upstream.asked()[0]["tools"].clone();
    let names: Vec<_> = offered.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bash", "read", "write", "edit", "glob", "grep", "web_fetch"], "the server has no search");
}

#[tokio::test]
async fn results_of_built_in_tools_come_from_workers_of_self_hosted_environments() {
    let rota = Rota::without_engine().await;
    let session = Parts::new(&rota.api).await.session(&rota.api, json!({})).await;
    let sent = json!({"events": [result(&json!({"id": "sevt_any"}))]});
    let said = "events[0]: `user.tool_result` may only be sent with environment credentials (the self-hosted runner's \
        Session-Instance JWT); an API key or Console session cannot post this event type";
    assert_eq!(rota.api.post_refused(&path(&session, "/events"), sent).await, forbidden(said));
}

#[tokio::test]
async fn a_message_may_come_with_the_answer_that_frees_the_session() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let tools = json!([over(toolset(), &json!({"default_config": {"permission_policy": {"type": "always_ask"}}}))]);
    let parts = Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await };
    let session = parts.session_with(api, script("echo allowed")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let call = first(&stream.turn().await, "agent.tool_use").clone();
    // R2: the thread that a confirmation names is rewritten to that of its call.
    let misled = over(allow(&call), &json!({"session_thread_id": "sth_x"}));
    let sent = api.events(id(&session), json!([message("and hurry"), misled])).await;
    assert!(sent["data"][1].get("session_thread_id").is_none(), "{sent}");
    let told = stream.turn().await;
    assert_eq!(
        kinds(&told)[..4],
        ["user.tool_confirmation", "session.status_running", "session.thread_status_running", "agent.tool_result",]
    );
    assert_eq!(text(first(&told, "user.message")), "and hurry");
    assert_eq!(stop_reason(&told)["type"], "end_turn");
}

#[tokio::test]
async fn an_interrupt_may_name_the_primary_thread_and_no_other() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (session, other) = (parts.session(api, json!({})).await, parts.session(api, json!({})).await);
    let interrupt = |thread: &str| json!({"events": [user("user.interrupt", &json!({"session_thread_id": thread}))]});
    let thread = |session: &Value| id(session).replace("sesn_", "sthr_");
    let events = path(&session, "/events");
    let sent = api.post(&events, interrupt(&thread(&session))).await;
    assert_eq!(sent["data"][0]["session_thread_id"], thread(&session));
    let foreign = api.post_refused(&events, interrupt(&thread(&other))).await;
    assert_eq!(foreign, not_found(format!("Thread not found: {}", thread(&other))), "R2");
    let malformed = api.post_refused(&events, interrupt("sth_1")).await;
    assert!(malformed.message.ends_with("Invalid session_thread_id: sth_1"), "R2: {malformed:?}");
    assert_eq!(malformed.status, 400);
    let listed = api.get(&events).await;
    assert_eq!(
        kinds(listed["data"].as_array().unwrap()),
        ["user.interrupt"],
        "R2: of an idle session, nothing follows"
    );
}

#[tokio::test]
async fn an_interrupt_closes_a_call_too_that_was_allowed_while_another_one_waits() {
    let calls = ["one", "two"].map(|name| called(name.len(), "bash", &json!({"command": format!("touch {name}")})));
    let done = json!({"type": "text", "text": "done"});
    let upstream = Upstream::start([Reply::Message(calls.to_vec()), Reply::Message(vec![done])]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let tools = json!([over(toolset(), &json!({"default_config": {"permission_policy": {"type": "always_ask"}}}))]);
    let agent = agent(api, json!({"model": "house", "tools": tools})).await;
    let parts = Parts { agent, environment: environment(api, "e").await };
    let session = parts.session_with(api, message("go")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let asked = stream.turn().await;
    let calls: Vec<&Value> = asked.iter().filter(|event| event["type"] == "agent.tool_use").collect();
    api.events(id(&session), json!([allow(calls[0])])).await;
    stream.turn().await;
    api.events(id(&session), json!([user("user.interrupt", &json!({}))])).await;
    let told = stream.turn().await;
    let end = [
        "agent.tool_result",
        "agent.tool_result",
        "user.interrupt",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ];
    assert_eq!(kinds(&told), end, "R2: the results of what is closed stand before the interrupt");
    assert_eq!([&told[0]["tool_use_id"], &told[1]["tool_use_id"]], [&calls[0]["id"], &calls[1]["id"]]);
    api.events(id(&session), json!([message("and now?")])).await;
    let told = stream.turn().await;
    assert!(!kinds(&told).contains(&"agent.tool_result"), "nothing of it runs later: {told:#?}");
    assert_eq!(text(first(&told, "agent.message")), "done");
}

#[tokio::test]
async fn what_was_cleared_is_told_by_an_event_without_it() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let session = Parts::new(api).await.session(api, json!({"title": "t", "metadata": {"a": "1"}})).await;
    for clears in [json!({"title": null}), json!({"metadata": {"a": null}})] {
        api.post(&path(&session, ""), clears).await;
    }
    let told = api.get(&path(&session, "/events")).await["data"].as_array().unwrap().clone();
    assert_eq!(kinds(&told), ["session.updated", "session.updated"]);
    assert!(told.iter().all(|event| event.get("title").is_none() && event.get("metadata").is_none()), "{told:#?}");
    api.post(&path(&session, ""), json!({"title": null})).await;
    assert_eq!(api.get(&path(&session, "/events")).await["data"].as_array().unwrap().len(), 2, "nothing changed");
}

#[tokio::test]
async fn a_session_works_towards_one_outcome_at_a_time() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let outcome = user("user.define_outcome", &json!({"description": "d", "rubric": {"type": "text", "content": "c"}}));
    let session = parts.session(api, json!({})).await;
    let events = path(&session, "/events");
    let refused = api.post_refused(&events, json!({"events": [outcome, outcome]})).await;
    assert_eq!(refused, invalid("events[1]: at most one `user.define_outcome` event is allowed at a time"));
    api.post(&events, json!({"events": [outcome]})).await;
    let refused = api.post_refused(&events, json!({"events": [outcome]})).await;
    let said = format!(
        "events[0]: session {} works towards another outcome; one is allowed at a time, so send this one when the session \
         is idle",
        id(&session)
    );
    assert_eq!(refused, invalid(said));
    let rota = rota.restart_with(|config| config.engine.concurrency = 1).await;
    idle(&rota.api, &session).await;
    rota.api.post(&events, json!({"events": [outcome]})).await;
}

#[tokio::test]
async fn files_that_events_refer_to_are_looked_for() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session(api, json!({})).await;
    let document = |id: &str| json!({"type": "document", "source": {"type": "file", "file_id": id}});
    let says = |content: Value| user("user.message", &json!({ "content": content }));
    let rubric = json!({"description": "d", "rubric": {"type": "file", "file_id": "file_r"}});
    let gone = |ids: &str| {
        not_found(format!("One or more files not found. Check that each `file_id` exists and is accessible: {ids}"))
    };
    let bodies = [
        (says(json!([document("file_a"), document("file_b")])), gone("file_a, file_b")),
        (user("user.define_outcome", &rubric), gone("file_r")),
        (says(json!(vec![document("f"); 101])), invalid("the events refer to 101 files; at most 100 are allowed")),
    ];
    for (event, refused) in bodies {
        let events = json!([event]);
        assert_eq!(api.post_refused(&path(&session, "/events"), json!({ "events": events })).await, refused);
        let body = parts.session_body(&json!({ "initial_events": events }));
        assert_eq!(api.post_refused("/v1/sessions", body).await, refused);
        let body = parts.deployment_body(&json!({ "initial_events": events }));
        assert_eq!(api.post_refused("/v1/deployments", body).await, refused);
    }
}

#[tokio::test]
async fn an_older_spelling_of_a_session_s_id_is_read_and_never_written() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let session = Parts::new(api).await.session_with(api, message("hi")).await;
    let older = format!("/v1/sessions/{}", id(&session).replace("sesn_", "session_"));
    assert_eq!(api.get(&older).await["id"], session["id"]);
    api.post(&format!("{older}/events"), json!({"events": [message("more")]})).await;
    assert_eq!(api.get(&format!("{older}/events")).await, api.get(&path(&session, "/events")).await);
    assert_eq!(api.get(&format!("{older}/threads")).await["data"][0]["session_id"], session["id"]);
}

#[tokio::test]
async fn the_primary_thread_is_the_session_seen_as_its_thread() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let session = Parts::new(api).await.session(api, json!({})).await;
    let thread_id = id(&session).replace("sesn_", "sthr_");
    let thread = path(&session, &format!("/threads/{thread_id}"));
    let fresh = api.get(&thread).await;
    for (field, wanted) in [
        ("id", json!(thread_id)),
        ("type", json!("session_thread")),
        ("session_id", session["id"].clone()),
        ("parent_thread_id", Value::Null),
        ("status", json!("idle")),
        ("stats", Value::Null),
        ("usage", Value::Null),
        ("archived_at", Value::Null),
    ] {
        assert_eq!(fresh[field], wanted, "{field}");
    }
    assert!(fresh["agent"].get("multiagent").is_none() && fresh["agent"]["name"] == "worker");
    let list = |query: &str| path(&session, &format!("/threads{query}"));
    assert_eq!(api.get(&list("")).await["data"], json!([fresh]));
    assert_eq!(api.get(&list("?statuses[]=running")).await["data"], json!([]));

    let mut stream = Stream::open(api.request(Method::GET, &format!("{thread}/stream"))).await;
    api.events(id(&session), json!([script("echo hello")])).await;
    let told: Vec<Value> =
        stream.until("session.thread_status_idle").await.into_iter().map(|frame| frame.event).collect();
    let turn = [
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "agent.tool_use",
        "span.model_request_end",
        "agent.tool_result",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
    ];
    assert_eq!(kinds(&told), turn, "what is told of the session as a whole is not the thread's");
    assert_eq!(api.all(&format!("{thread}/events"), 3).await, told);
    for event in [&told[0], told.last().unwrap()] {
        assert_eq!((&event["session_thread_id"], &event["agent_name"]), (&json!(thread_id), &json!("worker")));
    }
    assert_eq!(stop_reason(&told)["type"], "end_turn");
    let worked = api.get(&thread).await;
    assert!(worked["stats"].is_object() && worked["usage"]["output_tokens"].as_u64() > Some(0), "{worked}");

    let refused = api.call_refused(&format!("{thread}/archive")).await;
    assert_eq!(refused, invalid("The primary thread cannot be archived; archive the session instead."), "R2");
    api.call(&path(&session, "/archive")).await;
    let left = api.get(&thread).await;
    for field in ["status", "archived_at", "updated_at"] {
        assert_eq!(left[field], worked[field], "R2: the session's archive leaves {field}");
    }
}

#[tokio::test]
async fn a_thread_that_is_not_there_is_not_found_and_what_is_no_id_is_refused() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (session, other) = (parts.session(api, json!({})).await, parts.session(api, json!({})).await);
    let foreign = id(&other).replace("sesn_", "sthr_");
    for rest in ["", "/events", "/stream"] {
        let at = |thread: &str| path(&session, &format!("/threads/{thread}{rest}"));
        let found: Refusal = api.get_refused(&at(&foreign)).await;
        assert_eq!(found, not_found(format!("Thread not found: {foreign}")), "{rest}");
        assert_eq!(api.get_refused(&at("sth_1")).await, invalid("Invalid thread ID: sth_1"), "R2: {rest}");
    }
}
