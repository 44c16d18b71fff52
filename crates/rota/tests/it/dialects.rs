//! Upstreams that speak the Messages API almost right: what the log says after each of their answers, in which order a stream
//! shows it, and what the next request sends back. All are asserted whole, in short lines: [`told`], [`streamed`] and
//! [`conversation`].

use reqwest::Method;
use rota_api::Time;
use rota_server::db::Tx;
use serde_json::{Value, json};

use crate::{
    given::{Parts, agent, environment, id, message, over, toolset},
    models::{asked, says, without_marks},
    server::Rota,
    stream::{Stream, first, kinds, stop_reason},
    upstream::{Reply, STREAM, Upstream},
};

/// An answer, what the log says of it, what a stream shows of its request and of others in the turn, and the conversation of
/// the request after the turn.
struct Case {
    what: &'static str,
    answers: Vec<Reply>,
    told: Vec<String>,
    streamed: Vec<String>,
    next: Vec<String>,
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// What a stream shows of a request whose answer is a text: the event begins, is spelled, and comes whole.
fn shown(text: &str) -> Vec<String> {
    vec!["asks".to_owned(), "begins".to_owned(), format!("spells {text}"), format!("says {text}"), "ends".to_owned()]
}

/// What a stream shows of a request whose answer says nothing, and of a second one, whose answer is [`done`].
fn shown_nothing_and_done() -> Vec<String> {
    [lines(&["asks", "ends"]), shown("done")].concat()
}

/// An answer that is understood as a text.
fn heard(what: &'static str, answer: Reply, text: &str) -> Case {
    let told = vec![format!("says {text}"), "rests end_turn".to_owned()];
    Case {
        what,
        answers: vec![answer],
        told,
        streamed: shown(text),
        next: vec!["user: hello".to_owned(), format!("assistant: {text}"), NEXT.to_owned()],
    }
}

/// An answer that is understood as a call of `weather`, which the client answers.
fn called(what: &'static str, answer: Reply, input: &str) -> Case {
    let call = format!("call weather {input}");
    let told =
        vec![call.clone(), "rests requires_action".to_owned(), "says done".to_owned(), "rests end_turn".to_owned()];
    let next = vec!["user: hello".to_owned(), format!("assistant: {call}"), "user: result sunny".to_owned()];
    let (streamed, next) = (shown_nothing_and_done(), [next, lines(&["assistant: done", NEXT])].concat());
    Case { what, answers: vec![answer, done()], told, streamed, next }
}

/// An answer with a call whose arguments cannot be read: the model is told so, and nobody else is asked to run it.
fn unreadable(what: &'static str, answer: Reply, problem: &str) -> Case {
    let result = format!(
        "The arguments of this call could not be read, and nothing was run: {problem}. Call the tool again, with arguments that \
         are one JSON object."
    );
    let told = vec![
        "deny weather {}".to_owned(),
        format!("failed {result}"),
        "says done".to_owned(),
        "rests end_turn".to_owned(),
    ];
    let next =
        vec!["user: hello".to_owned(), "assistant: call weather {}".to_owned(), format!("user: failed {result}")];
    let (streamed, next) = (shown_nothing_and_done(), [next, lines(&["assistant: done", NEXT])].concat());
    Case { what, answers: vec![answer, done()], told, streamed, next }
}

/// An answer that is asked for again.
fn tried_again(what: &'static str, answer: Reply, error: &str) -> Case {
    let told = vec![
        format!("retrying {error}"),
        "rescheduled".to_owned(),
        "says done".to_owned(),
        "rests end_turn".to_owned(),
    ];
    let (streamed, next) = (shown_nothing_and_done(), lines(&["user: hello", "assistant: done", NEXT]));
    Case { what, answers: vec![answer, done()], told, streamed, next }
}

/// An answer that ends the turn; what was said in it is `kept` for the next one or not.
fn ended(what: &'static str, answer: Reply, error: &str, kept: bool) -> Case {
    let told = vec![format!("exhausted {error}"), "rests retries_exhausted".to_owned()];
    let next = if kept { "user: hello | next" } else { NEXT };
    Case { what, answers: vec![answer], told, streamed: lines(&["asks", "ends"]), next: lines(&[next]) }
}

const NEXT: &str = "user: next";

fn done() -> Reply {
    Reply::Message(vec![says("done")])
}

/// A stream of these events, each without its name.
fn stream(events: &[Value]) -> Reply {
    let frames = events.iter().map(|event| format!("data: {event}\n\n")).collect::<Vec<_>>().concat();
    Reply::Raw((STREAM.to_owned() + &frames).into_bytes())
}

/// The same, where a frame is not JSON, or not in UTF-8.
fn frames(frames: &[&[u8]]) -> Reply {
    let frames = frames.iter().flat_map(|frame| [b"data: ", *frame, b"\n\n"].concat());
    Reply::Raw(STREAM.bytes().chain(frames).collect())
}

fn response(status: &str, content_type: &str, body: &str) -> Reply {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close");
    Reply::Raw(format!("{head}\r\n\r\n{body}").into_bytes())
}

fn start() -> Value {
    json!({"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}})
}

fn begin(index: usize, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn text(index: usize) -> Value {
    begin(index, json!({"type": "text", "text": ""}))
}

fn weather(index: usize, input: Value) -> Value {
    begin(index, json!({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": input}))
}

fn delta(index: usize, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn more(index: usize, text: &str) -> Value {
    delta(index, json!({"type": "text_delta", "text": text}))
}

fn input(index: usize, json: &str) -> Value {
    delta(index, json!({"type": "input_json_delta", "partial_json": json}))
}

fn stop(index: usize) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn because(reason: &str) -> Value {
    json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7}})
}

fn end() -> Value {
    json!({"type": "message_stop"})
}

/// A whole message of one text.
fn text_of(pieces: &[&str]) -> Vec<Value> {
    let mut events = vec![start(), text(0)];
    events.extend(pieces.iter().map(|piece| more(0, piece)));
    events.extend([stop(0), because("end_turn"), end()]);
    events
}

/// A whole message of one call, whose arguments are `whole` as it begins and come in `pieces`.
fn call_of(whole: Value, pieces: &[&str]) -> Reply {
    let mut events = vec![start(), weather(0, whole)];
    events.extend(pieces.iter().map(|piece| input(0, piece)));
    events.extend([stop(0), because("tool_use"), end()]);
    stream(&events)
}

/// The same message, but with `to` in place of `from` in its text.
fn but(events: &[Value], from: &str, to: &str) -> Reply {
    let Reply::Raw(bytes) = stream(events) else { unreachable!() };
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{from} is in {text}");
    Reply::Raw(text.replace(from, to).into_bytes())
}

fn error(error: &Value) -> Value {
    json!({"type": "error", "error": error})
}

fn arguments() -> Vec<Case> {
    let rome = r#"{"city":"Rome"}"#;
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(199), "]".repeat(199));
    vec![
        called("arguments in pieces", call_of(json!({}), &["{\"ci", "ty\":\"Rome\"}"]), rome),
        called("arguments whole as the block begins", call_of(json!({"city": "Rome"}), &[]), rome),
        called("arguments whole, and a delta that is empty", call_of(json!({"city": "Rome"}), &["", "{}"]), rome),
        called("arguments whole, and others in deltas", call_of(json!({"city": "Bern"}), &[rome]), rome),
        called("arguments whole as a text", call_of(json!(rome), &[]), rome),
        called("no arguments", call_of(Value::Null, &[]), "{}"),
        called("half of a surrogate pair", call_of(json!({}), &[r#"{"city":"\ud83d!"}"#]), "{\"city\":\"\u{fffd}!\"}"),
        called(
            "a surrogate pair in two deltas",
            call_of(json!({}), &[r#"{"city":"\ud83d"#, r#"\ude00"}"#]),
            "{\"city\":\"\u{1f600}\"}",
        ),
        unreadable(
            "a number that is none",
            call_of(json!({}), &[r#"{"n":1e999}"#]),
            "number out of range at line 1 column 10",
        ),
        unreadable("200 levels", call_of(json!({}), &[&deep]), "recursion limit exceeded at line 1 column 132"),
        unreadable(
            "half of the arguments",
            call_of(json!({}), &["{\"city\":"]),
            "EOF while parsing a value at line 1 column 8",
        ),
        unreadable("a list", call_of(json!({}), &["[1]"]), "invalid type: sequence, expected a map at line 1 column 0"),
        called(
            "a call without an id",
            but(&[start(), weather(0, json!({"city": "Rome"})), because("tool_use"), end()], "\"toolu_1\"", "null"),
            rome,
        ),
        called(
            "a stop that forgets the call",
            stream(&[start(), weather(0, json!({"city": "Rome"})), because("end_turn"), end()]),
            rome,
        ),
        called(
            "a stop in another dialect",
            stream(&[start(), weather(0, json!({"city": "Rome"})), because("tool_calls"), end()]),
            rome,
        ),
        tried_again(
            "arguments of nobody knows what",
            stream(&[start(), input(0, rome), because("tool_use"), end()]),
            "model_request_failed_error: the upstream's reply is malformed: arguments arrive for what is no call",
        ),
    ]
}

fn texts() -> Vec<Case> {
    let plain = text_of(&["Hel", "lo."]);
    let without = |left_out: &[usize]| {
        let kept = plain.iter().enumerate().filter(|(place, _)| !left_out.contains(place));
        stream(&kept.map(|(_, event)| event.clone()).collect::<Vec<_>>())
    };
    let (frame, tail) = (|event: &Value| event.to_string().into_bytes(), [stop(0), because("end_turn"), end()]);
    let cut_bytes = |text: &[u8]| {
        let [before, after] =
            [br#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""#.as_slice(), b"\"}}"];
        [before, text, after].concat()
    };
    let cut = |first: &[u8], second: &[u8]| {
        let all = [
            frame(&start()),
            frame(&text(0)),
            cut_bytes(first),
            cut_bytes(second),
            frame(&tail[0]),
            frame(&tail[1]),
            frame(&tail[2]),
        ];
        frames(&all.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let done =
        [frame(&start()), frame(&text(0)), frame(&more(0, "Hello.")), frame(&because("stop")), b"[DONE]".to_vec()];
    let whole = json!({"type": "message", "content": [says("Hello.")], "stop_reason": "end_turn", "usage": {"input_tokens": 5}});
    vec![
        heard("a message as it should be", stream(&plain), "Hello."),
        heard(
            "a character cut between two deltas, by its surrogates",
            cut(br"Hi \ud83d", br"\ude00."),
            "Hi \u{1f600}.",
        ),
        heard("a character cut between two deltas, by its bytes", cut(b"Hi \xf0\x9f", b"\x98\x80."), "Hi \u{1f600}."),
        heard("half of a character", cut(br"Hi \ud83d", b"."), "Hi \u{fffd}."),
        heard("usage that is null", but(&plain, r#"{"input_tokens":5,"output_tokens":1}"#, "null"), "Hello."),
        heard("counts with a point", but(&plain, r#""output_tokens":7"#, r#""output_tokens":7.0"#), "Hello."),
        heard("a text that is null", but(&plain, r#""text":"""#, r#""text":null"#), "Hello."),
        heard("no message_start", without(&[0]), "Hello."),
        heard("no content_block_start", without(&[1]), "Hello."),
        heard("no content_block_stop", without(&[4]), "Hello."),
        heard("an end by the end of the stream", without(&[6]), "Hello."),
        heard("an end in another dialect", frames(&done.iter().map(Vec::as_slice).collect::<Vec<_>>()), "Hello."),
        heard("a stop reason in capitals", but(&plain, "\"end_turn\"", "\"STOP\""), "Hello."),
        heard(
            "a delta of no known type",
            stream(&[
                start(),
                text(0),
                delta(0, json!({"type": "new"})),
                more(0, "Hello."),
                because("end_turn"),
                end(),
            ]),
            "Hello.",
        ),
        heard(
            "a delta for no known block",
            stream(&[
                start(),
                text(0),
                more(0, "Hello."),
                delta(9, json!({"type": "new"})),
                because("end_turn"),
                end(),
            ]),
            "Hello.",
        ),
        heard(
            "a media type in capitals",
            {
                let Reply::Raw(bytes) = stream(&plain) else { unreachable!() };
                let text = String::from_utf8(bytes).unwrap();
                Reply::Raw(text.replace("text/event-stream", "Text/Event-Stream;Charset=UTF-8").into_bytes())
            },
            "Hello.",
        ),
        heard("a whole message and no stream", response("200 OK", "Application/JSON", &whole.to_string()), "Hello."),
        Case {
            what: "two texts are one message",
            answers: vec![Reply::Message(vec![says("One."), says("Two.")])],
            told: lines(&["says One. + Two.", "rests end_turn"]),
            streamed: shown("One. + Two."),
            next: lines(&["user: hello", "assistant: One. | Two.", NEXT]),
        },
        Case {
            what: "blocks side by side",
            answers: vec![
                stream(&[
                    start(),
                    weather(1, json!({})),
                    text(0),
                    input(1, "{\"city\":"),
                    more(0, "Look"),
                    input(1, "\"Rome\"}"),
                    more(0, " up."),
                    stop(1),
                    stop(0),
                    because("tool_use"),
                    end(),
                ]),
                self::done(),
            ],
            told: lines(&[
                "says Look up.",
                "call weather {\"city\":\"Rome\"}",
                "rests requires_action",
                "says done",
                "rests end_turn",
            ]),
            streamed: [shown("Look up."), shown("done")].concat(),
            next: lines(&[
                "user: hello",
                "assistant: Look up. | call weather {\"city\":\"Rome\"}",
                "user: result sunny",
                "assistant: done",
                NEXT,
            ]),
        },
        heard("a text that reached max_tokens", Reply::Stopped(vec![says("Half a")], "length"), "Half a"),
        Case {
            what: "a refusal that says why",
            answers: vec![stream(&[
                start(),
                json!({"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details":
                    {"type": "refusal", "category": "cyber", "explanation": "It could harm."}}}),
                end(),
            ])],
            told: lines(&["rests refusal (cyber: It could harm.)"]),
            streamed: lines(&["asks", "ends"]),
            next: lines(&["user: hello | next"]),
        },
        tried_again(
            "a message that does not say why it stops",
            without(&[5]),
            "model_request_failed_error: the upstream's reply is malformed: it has no stop reason",
        ),
        tried_again(
            "a message that is cut off",
            without(&[5, 6]),
            "model_overloaded_error: the upstream's reply was cut off",
        ),
    ]
}

fn failures() -> Vec<Case> {
    let busy = json!({"type": "overloaded_error", "message": "busy"});
    let broke_off = |error_of: Value| stream(&[start(), text(0), more(0, "Hel"), error(&error_of)]);
    let json = "application/json";
    vec![
        tried_again(
            "an error within the stream",
            broke_off(busy.clone()),
            "model_overloaded_error: the upstream broke off its reply: overloaded_error: busy",
        ),
        tried_again(
            "an error of no known type within the stream",
            broke_off(json!({"type": "engine_dead", "message": "restarting"})),
            "model_overloaded_error: the upstream broke off its reply: engine_dead: restarting",
        ),
        tried_again(
            "an error without a type within the stream",
            stream(&[start(), json!({"error": {"message": "no slot"}})]),
            "model_overloaded_error: the upstream broke off its reply: no slot",
        ),
        tried_again(
            "an error under 200",
            response("200 OK", json, &error(&busy).to_string()),
            "model_overloaded_error: the upstream answered 200 OK: overloaded_error: busy",
        ),
        tried_again(
            "an error under 400 that may pass",
            response("400 Bad Request", json, &error(&busy).to_string()),
            "model_overloaded_error: the upstream answered 400 Bad Request: busy",
        ),
        tried_again(
            "a status without a name",
            response("529", json, "{\"detail\": \"full\"}"),
            "model_overloaded_error: the upstream answered 529 Overloaded: full",
        ),
        tried_again(
            "another status without a name",
            response("598", "text/html", "<p>gone</p>"),
            "model_overloaded_error: the upstream answered 598 Server Error: <p>gone</p>",
        ),
        ended(
            "an error within the stream that is known to be permanent",
            broke_off(json!({"type": "invalid_request_error", "message": "no such thing"})),
            "model_request_failed_error: the upstream broke off its reply: invalid_request_error: no such thing",
            false,
        ),
        ended(
            "an account that cannot pay, under 200",
            response("200 OK", json, &error(&json!({"type": "billing_error", "message": "no credit"})).to_string()),
            "billing_error: the upstream answered 200 OK: billing_error: no credit",
            true,
        ),
        ended(
            "a page in place of a stream",
            response("200 OK", "text/html", "<p>Hi</p>"),
            "model_request_failed_error: the upstream answered with text/html and not with a stream of events: <p>Hi</p>",
            false,
        ),
    ]
}

/// What the log says of the agent, a line for each event. The frame around it (that the session runs, that requests begin
/// and end, what was used) is the same for all upstreams, and asserted in `models.rs`.
fn told(log: &[Value]) -> Vec<String> {
    let texts = |event: &Value| {
        let blocks = event["content"].as_array().unwrap().iter();
        blocks.map(|block| block["text"].as_str().unwrap()).collect::<Vec<_>>().join(" + ")
    };
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let line = |event: &Value| {
        Some(match event["type"].as_str().unwrap() {
            "agent.message" => format!("says {}", texts(event)),
            "agent.tool_use" => {
                format!("{} {} {}", word(&event["evaluated_permission"]), word(&event["name"]), event["input"])
            }
            "agent.custom_tool_use" => format!("call {} {}", word(&event["name"]), event["input"]),
            "agent.tool_result" => {
                format!("{} {}", if event["is_error"] == true { "failed" } else { "result" }, texts(event))
            }
            "session.error" => {
                let error = &event["error"];
                let status = word(&error["retry_status"]["type"]);
                format!("{status} {}: {}", word(&error["type"]), word(&error["message"]))
            }
            "session.status_rescheduled" => "rescheduled".to_owned(),
            "session.status_idle" => {
                let details = &event["stop_details"];
                let more = match details["category"].as_str() {
                    Some(category) => format!(" ({category}: {})", word(&details["explanation"])),
                    None => String::new(),
                };
                format!("rests {}{more}", word(&event["stop_reason"]["type"]))
            }
            _ => return None,
        })
    };
    log.iter().filter_map(line).collect()
}

/// The messages of a request, a line for each.
fn conversation(request: &Value) -> Vec<String> {
    let text = |content: &Value| content[0]["text"].as_str().unwrap().to_owned();
    let short = |block: &Value| match block["type"].as_str().unwrap() {
        "text" => block["text"].as_str().unwrap().to_owned(),
        "tool_use" => format!("call {} {}", block["name"].as_str().unwrap(), block["input"]),
        "tool_result" if block["is_error"] == true => format!("failed {}", text(&block["content"])),
        "tool_result" => format!("result {}", text(&block["content"])),
        _ => block.to_string(),
    };
    let line = |message: &Value| {
        let blocks: Vec<_> = message["content"].as_array().unwrap().iter().map(short).collect();
        format!("{}: {}", message["role"].as_str().unwrap(), blocks.join(" | "))
    };
    without_marks(request["messages"].clone()).as_array().unwrap().iter().map(line).collect()
}

/// What a stream shows of the requests of a turn, a line for each event, and for all pieces of one. A message comes under the
/// id under which it began.
fn streamed(frames: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = None;
    let mut spelled: Vec<String> = Vec::new();
    for frame in frames {
        let kind = frame["type"].as_str().unwrap();
        if kind == "event_delta" {
            assert_eq!(Some(frame["event_id"].as_str().unwrap()), begun);
            let (index, piece) =
                (frame["delta"]["index"].as_u64().unwrap() as usize, &frame["delta"]["content"]["text"]);
            spelled.resize(spelled.len().max(index + 1), String::new());
            spelled[index] += piece.as_str().unwrap();
            continue;
        }
        if !spelled.is_empty() {
            lines.push(format!("spells {}", std::mem::take(&mut spelled).join(" + ")));
        }
        match kind {
            "span.model_request_start" => lines.push("asks".to_owned()),
            "span.model_request_end" => lines.push("ends".to_owned()),
            "event_start" => {
                assert_eq!(frame["event"]["type"], "agent.message");
                begun = Some(id(&frame["event"]));
                lines.push("begins".to_owned());
            }
            "agent.message" => {
                assert!(begun.is_none_or(|begun| begun == id(frame)), "{frames:#?}");
                lines.extend(told(std::slice::from_ref(frame)));
            }
            _ => {}
        }
    }
    // What breaks off never comes whole, and nothing says before which event of the log it is shown.
    let says = |at: usize| lines.get(at).is_some_and(|line| line.starts_with("says "));
    let broke_off = |at: usize| match lines[at].as_str() {
        "begins" => !says(at + 2),
        line => line.starts_with("spells ") && !says(at + 1),
    };
    (0..lines.len()).filter(|at| !broke_off(*at)).map(|at| lines[at].clone()).collect()
}

/// A tool of the client's.
pub fn custom() -> Value {
    json!({"type": "custom", "name": "weather", "description": "d", "input_schema": {"type": "object"}})
}

/// The events of a turn up to its end: waits are skipped, and what the agent asks of its client is answered.
pub async fn whole_turn(rota: &Rota, session: &str, stream: &mut Stream) -> Vec<Value> {
    let mut log = Vec::new();
    loop {
        let frame = stream.next().await.expect("the stream goes on");
        let kind = frame.kind().to_owned();
        log.push(frame.event);
        if kind == "session.status_rescheduled" {
            rota.advance_seconds(60);
        }
        if kind != "session.status_idle" {
            continue;
        }
        if stop_reason(&log)["type"] != "requires_action" {
            return log;
        }
        let call = id(first(&log, "agent.custom_tool_use"));
        let result = json!({"type": "user.custom_tool_result", "custom_tool_use_id": call, "content": [says("sunny")]});
        rota.api.events(session, json!([result])).await;
    }
}

async fn plays(case: Case) {
    let Case { what, answers, told: expected, streamed: shown, next } = case;
    let upstream = Upstream::start(answers.into_iter().chain([done()])).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let agent = agent(&rota.api, json!({"model": "house", "tools": [toolset(), custom()]})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session(&rota.api, json!({})).await;
    let deltas = "event_deltas[]=agent.message&event_deltas[]=agent.thinking";
    let path = format!("/v1/sessions/{}/events/stream?{deltas}", id(&session));
    let mut stream = Stream::open(rota.api.request(Method::GET, &path)).await;
    rota.api.events(id(&session), json!([message("hello")])).await;
    let log = whole_turn(&rota, id(&session), &mut stream).await;
    assert_eq!(told(&log), expected, "{what}");
    assert_eq!(streamed(&log), shown, "{what}");
    let count = |wanted: &str| kinds(&log).iter().filter(|kind| **kind == wanted).count();
    assert_eq!(count("span.model_request_start"), count("span.model_request_end"), "{what}: each request ends");
    rota.api.events(id(&session), json!([message("next")])).await;
    stream.turn().await;
    assert_eq!(conversation(upstream.asked().last().unwrap()), next, "{what}");
}

#[tokio::test]
async fn arguments_of_calls_are_read_or_the_call_is_answered_and_never_run_without_them() {
    for case in arguments() {
        plays(case).await;
    }
}

#[tokio::test]
async fn what_does_not_matter_costs_no_turn_and_what_is_no_reply_is_asked_for_again() {
    for case in texts() {
        plays(case).await;
    }
}

#[tokio::test]
async fn failures_that_may_pass_are_tried_again_and_what_the_upstream_said_is_shown() {
    for case in failures() {
        plays(case).await;
    }
}

/// When the session is to be taken up again, in seconds from now.
async fn due_in(rota: &Rota, session: &str) -> f64 {
    let session = session.to_owned();
    let read = move |tx: &mut Tx<'_>| {
        let sql = format!("SELECT runnable_at FROM sessions WHERE id = '{session}'");
        tx.one(&sql, &[], |row| row.int(0))
    };
    let due = rota.server.app().db.read(read).await.unwrap().unwrap();
    Time::from_micros(due).seconds_since(rota.clock.now())
}

fn refused(status: u16, headers: &'static str) -> Reply {
    Reply::Error(status, headers, error(&json!({"type": "overloaded_error", "message": "busy"})))
}

#[tokio::test]
async fn a_wait_that_the_upstream_asks_for_is_kept_and_is_no_failed_try() {
    let script =
        (0..8).map(|_| refused(529, "retry-after: 1800\r\n")).chain([refused(529, "retry-after: 86400\r\n"), done()]);
    let upstream = Upstream::start(script).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    for wait in [1800.0; 8].into_iter().chain([3600.0]) {
        stream.until("session.status_rescheduled").await;
        assert!((due_in(&rota, id(&session)).await - wait).abs() < 0.1);
        rota.advance_seconds(wait as i64);
    }
    assert_eq!(told(&stream.turn().await), ["says done", "rests end_turn"]);
}

#[tokio::test]
async fn waits_that_an_upstream_asks_for_for_ever_end_the_turn() {
    let upstream = Upstream::start(std::iter::repeat_with(|| refused(429, "retry-after: 5\r\n")).take(29)).await;
    let (rota, _session, mut stream) = asked(&upstream, json!({})).await;
    // 24 waits, and then the tries of every request.
    for _ in 0..28 {
        stream.until("session.status_rescheduled").await;
        rota.advance_seconds(60);
    }
    assert_eq!(stop_reason(&stream.turn().await)["type"], "retries_exhausted");
}

#[tokio::test]
async fn a_session_of_a_deployment_outlasts_an_outage_of_ten_minutes() {
    let upstream = Upstream::start((0..16).map(|_| refused(503, "")).chain([done()])).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let deployment = parts.deployment(&rota.api, json!({"initial_events": [message("hello")]})).await;
    let run = rota.api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let session = run["session_id"].as_str().unwrap();
    let mut stream = rota.api.stream_from(session, 0).await;
    let mut outage = 0.0;
    for _ in 0..16 {
        stream.until("session.status_rescheduled").await;
        let pause = due_in(&rota, session).await;
        outage += pause;
        rota.advance_seconds(pause as i64);
    }
    assert!(outage > 600.0, "{outage} s");
    assert_eq!(told(&stream.turn().await), ["says done", "rests end_turn"]);
}

#[tokio::test]
async fn a_message_to_a_session_that_waits_for_its_model_changes_nothing_in_the_pauses() {
    let upstream = Upstream::start([refused(503, ""), refused(503, ""), done()]).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    for pause in [1.0, 2.0] {
        stream.until("session.status_rescheduled").await;
        rota.api.events(id(&session), json!([message("hurry")])).await;
        // Each request of the test moves the clock a little.
        let due = due_in(&rota, id(&session)).await;
        assert!((pause - 0.1..=pause).contains(&due), "{due} s of {pause}");
        assert_eq!(rota.api.get(&format!("/v1/sessions/{}", id(&session))).await["status"], "rescheduling");
        rota.advance_seconds(pause as i64);
    }
    stream.turn().await;
    assert_eq!(conversation(&upstream.asked()[2]), ["user: hello | hurry | hurry"]);
}

#[tokio::test]
async fn tokens_of_a_request_that_is_interrupted_or_breaks_off_are_counted() {
    let begun = |ending: &[Value]| {
        let Reply::Raw(bytes) = stream(&[&[start(), text(0), more(0, "Hel")], ending].concat()) else { unreachable!() };
        bytes
    };
    let busy = error(&json!({"type": "overloaded_error", "message": "busy"}));
    let upstream = Upstream::start([Reply::Hold(begun(&[])), Reply::Raw(begun(&[busy])), done()]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let agent = agent(&rota.api, json!({"model": "house"})).await;
    let parts = Parts { agent, environment: environment(&rota.api, "e").await };
    let session = parts.session(&rota.api, json!({})).await;
    let path = format!("/v1/sessions/{}/events/stream?event_deltas[]=agent.message", id(&session));
    let mut stream = Stream::open(rota.api.request(Method::GET, &path)).await;
    rota.api.events(id(&session), json!([message("hello")])).await;
    stream.until("event_delta").await;
    rota.api.events(id(&session), json!([{"type": "user.interrupt"}])).await;
    let events = stream.turn().await;
    let counted =
        json!({"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0});
    assert_eq!(first(&events, "span.model_request_end")["model_usage"], counted);
    assert_eq!(first(&events, "session.usage")["usage"]["input_tokens"], 5);

    rota.api.events(id(&session), json!([message("again")])).await;
    let frames = stream.until("session.status_rescheduled").await;
    let ended = frames.iter().find(|frame| frame.kind() == "span.model_request_end").unwrap();
    assert_eq!(ended.event["model_usage"], counted);
    rota.advance_seconds(1);
    let events = stream.turn().await;
    assert_eq!(first(&events, "session.usage")["usage"]["input_tokens"], 15);
}

#[tokio::test]
async fn a_system_message_is_a_turn_of_its_own_role() {
    let upstream = Upstream::start([done(), done(), done()]).await;
    let (rota, session, mut stream) = asked(&upstream, json!({})).await;
    stream.turn().await;
    let system = json!({"type": "system.message", "content": [says("Be odd.")]});
    rota.api.events(id(&session), json!([message("again"), system])).await;
    stream.turn().await;
    rota.api.events(id(&session), json!([message("and again")])).await;
    stream.turn().await;
    let asked = upstream.asked();
    let said = ["user: hello", "assistant: done", "user: again", "system: Be odd."];
    assert_eq!(conversation(&asked[1]), said);
    assert_eq!(conversation(&asked[2]), [&said[..], &["assistant: done", "user: and again"]].concat());
    let system = &asked[0]["system"][0]["text"];
    assert!(system.as_str().unwrap().starts_with("Be brief."), "{system}");
    assert!(asked.iter().all(|request| request["system"][0]["text"] == *system), "the prompt stays, and is cached");
}

#[tokio::test]
async fn speed_and_geography_of_an_agent_s_model_are_sent() {
    let upstream = Upstream::start([done(), done()]).await;
    for (changes, speed, geo) in [
        (json!({"speed": "fast", "inference_geo": "us"}), json!("fast"), json!("us")),
        (json!({"speed": "standard"}), Value::Null, Value::Null),
    ] {
        let model = over(json!({"id": "house"}), &changes);
        let (_rota, _session, mut stream) = asked(&upstream, json!({ "model": model })).await;
        stream.turn().await;
        let sent = upstream.asked().last().unwrap().clone();
        assert_eq!((&sent["speed"], &sent["inference_geo"]), (&speed, &geo));
    }
}
