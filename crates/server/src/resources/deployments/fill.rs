//! Pure: what a start adds to the first events of a deployment. Inputs fill `{{name}}`, content follows the first message.

use std::collections::BTreeSet;

use rota_api::{
    decode,
    event::read_deployment_events,
    start::{Inputs, is_input_name},
};
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    limits::MAX_DEPLOYMENT_BYTES,
    resources::run_starts::Given,
};

/// The first events `stored`, with what was given put in. They are as they were where nothing was.
///
/// # Errors
/// 400 when an input is missing or fills nothing, and when what comes out could not be the first events of a deployment.
pub(super) fn events(stored: &str, given: &Given) -> Result<String> {
    if given.is_nothing() {
        return Ok(stored.to_owned());
    }
    let mut events: Vec<Value> = serde_json::from_str(stored)?;
    if let Some(inputs) = &given.inputs {
        fill(&mut events, inputs)?;
    }
    if !given.content.is_empty() {
        append(&mut events, &given.content);
    }
    let filled = json!({ "initial_events": events });
    decode::body(&filled, |o| read_deployment_events(&o.required("initial_events")?))
        .map_err(|invalid| Error::invalid(format_args!("with its inputs and content, {invalid}")))?;
    let filled = serde_json::to_string(&filled["initial_events"])?;
    if filled.len() > MAX_DEPLOYMENT_BYTES { Err(too_large()) } else { Ok(filled) }
}

fn too_large() -> Error {
    let most = MAX_DEPLOYMENT_BYTES / 1024 / 1024;
    Error::invalid(format_args!("inputs: with them and its content, the first events have more than {most} MB"))
}

fn append(events: &mut Vec<Value>, content: &[Value]) {
    let first = events.iter_mut().find(|event| event["type"] == "user.message");
    match first.and_then(|event| event["content"].as_array_mut()) {
        Some(blocks) => blocks.extend_from_slice(content),
        None => events.insert(0, json!({"type": "user.message", "content": content})),
    }
}

fn fill(events: &mut [Value], inputs: &Inputs) -> Result<()> {
    let mut named = BTreeSet::new();
    let mut room = MAX_DEPLOYMENT_BYTES;
    for text in events.iter_mut().flat_map(texts) {
        let Some(filled) = filled(text, inputs, &mut named, &mut room)? else { continue };
        *text = Value::String(filled);
    }
    match inputs.keys().find(|name| !named.contains(name.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            let named: Vec<_> = named.iter().map(|name| format!("{{{{{name}}}}}")).collect();
            let named = if named.is_empty() { "nothing".to_owned() } else { named.join(", ") };
            Err(Error::invalid(format_args!(
                "inputs.{unknown}: the first events of the deployment have no {{{{{unknown}}}}}; what they have is {named}"
            )))
        }
    }
}

/// The texts of an event that inputs fill: those of its text blocks, and what an outcome says in its own words.
fn texts(event: &mut Value) -> Vec<&mut Value> {
    let Value::Object(fields) = event else { return Vec::new() };
    let mut texts = Vec::new();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("description", text) => texts.push(text),
            ("rubric", rubric) if rubric["type"] == "text" => texts.extend(rubric.get_mut("content")),
            ("content", Value::Array(blocks)) => {
                let of_text = blocks.iter_mut().filter(|block| block["type"] == "text");
                texts.extend(of_text.filter_map(|block| block.get_mut("text")));
            }
            _ => {}
        }
    }
    texts
}

/// A text with every `{{name}}` in it filled, once: what is filled in is not looked at again. `None` where there is none.
fn filled<'a>(
    text: &Value,
    inputs: &'a Inputs,
    named: &mut BTreeSet<&'a str>,
    room: &mut usize,
) -> Result<Option<String>> {
    let text = text.as_str().unwrap_or_default();
    let (mut made, mut rest) = (String::new(), text);
    let mut found = false;
    while let Some(start) = rest.find("{{") {
        let (before, behind) = rest.split_at(start);
        made.push_str(before);
        let Some((name, after)) = placeholder(behind) else {
            made.push('{');
            rest = &behind[1..];
            continue;
        };
        let Some((name, value)) = inputs.get_key_value(name) else {
            return Err(Error::invalid(format_args!(
                "inputs.{name}: Field required: the first events of the deployment have {{{{{name}}}}}"
            )));
        };
        found = true;
        named.insert(name);
        *room = room.checked_sub(value.len()).ok_or_else(too_large)?;
        made.push_str(value);
        rest = after;
    }
    made.push_str(rest);
    Ok(found.then_some(made))
}

/// The name in `{{name}}` at the beginning of `text`, and what follows. Spaces may stand around it.
fn placeholder(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix("{{")?.trim_start_matches(' ');
    let end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
    let (name, behind) = inside.split_at(end);
    let after = behind.trim_start_matches(' ').strip_prefix("}}")?;
    is_input_name(name).then_some((name, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Value {
        json!({"type": "user.message", "content": [{"type": "text", "text": text}]})
    }

    fn given(inputs: &[(&str, &str)], content: Vec<Value>) -> Given {
        let inputs = inputs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Given { inputs: Some(inputs), content }
    }

    fn made(events: &Value, given: &Given) -> Result<Value, String> {
        let made = super::events(&events.to_string(), given).map_err(|error| error.to_string())?;
        Ok(serde_json::from_str(&made).unwrap())
    }

    #[test]
    fn names_are_filled_once_and_what_is_no_name_stays() {
        for (text, filled) in [
            ("on {{branch}}", "on main"),
            ("{{branch}}{{ branch }}{{  branch}}", "mainmainmain"),
            ("{\"a\": {{{branch}}}}", "{\"a\": {main}}"),
            (
                "{{branch}} {{#if x}} {{ a.b }} {{}} {{ {{ 9x {{a b}} }} {{",
                "main {{#if x}} {{ a.b }} {{}} {{ {{ 9x {{a b}} }} {{",
            ),
            ("{{branch}} {{quote}}", "main {{branch}}"),
        ] {
            let inputs: &[_] = if text.contains("quote") {
                &[("branch", "main"), ("quote", "{{branch}}")]
            } else {
                &[("branch", "main")]
            };
            assert_eq!(made(&json!([message(text)]), &given(inputs, vec![])), Ok(json!([message(filled)])), "{text}");
        }
    }

    #[test]
    fn every_text_of_the_first_events_is_filled_and_nothing_else_of_them() {
        let events = |a: &str| {
            json!([
                {"type": "user.message", "content": [
                    {"type": "text", "text": a},
                    {"type": "document", "title": "{{a}}", "source": {"type": "text", "media_type": "text/plain", "data": "{{a}}"}},
                ]},
                {"type": "user.define_outcome", "description": a, "rubric": {"type": "text", "content": a}},
                {"type": "system.message", "content": [{"type": "text", "text": a}]},
            ])
        };
        assert_eq!(made(&events("{{a}}"), &given(&[("a", "one")], vec![])), Ok(events("one")));
    }

    #[test]
    fn a_name_without_an_input_and_an_input_without_a_name_are_refused() {
        let events = json!([message("{{a}} {{b}}")]);
        for (inputs, refused) in [
            (&[][..], "inputs.a: Field required: the first events of the deployment have {{a}}"),
            (&[("a", "1")], "inputs.b: Field required: the first events of the deployment have {{b}}"),
            (
                &[("a", "1"), ("b", "2"), ("c", "3")],
                "inputs.c: the first events of the deployment have no {{c}}; what they have is {{a}}, {{b}}",
            ),
        ] {
            assert_eq!(made(&events, &given(inputs, vec![])).unwrap_err(), refused);
        }
        let refused = made(&json!([message("hi")]), &given(&[("a", "1")], vec![])).unwrap_err();
        assert_eq!(refused, "inputs.a: the first events of the deployment have no {{a}}; what they have is nothing");
        assert_eq!(made(&json!([message("hi")]), &given(&[], vec![])), Ok(json!([message("hi")])));
    }

    #[test]
    fn nothing_given_leaves_every_byte_as_it_was() {
        let stored = "[ {\"type\":\"user.message\", \"content\":[{\"type\":\"text\",\"text\":\"{{a}}\"}]}]";
        assert_eq!(super::events(stored, &Given::default()).unwrap(), stored);
    }

    #[test]
    fn content_follows_the_first_message_or_is_one() {
        let block = json!({"type": "text", "text": "{{more}}"});
        let given = Given { inputs: None, content: vec![block.clone()] };
        let outcome =
            json!({"type": "user.define_outcome", "description": "d", "rubric": {"type": "text", "content": "r"}});
        let with_block = json!({"type": "user.message", "content": [{"type": "text", "text": "{{a}}"}, block]});
        let stored = json!([outcome, message("{{a}}"), message("two")]);
        assert_eq!(made(&stored, &given), Ok(json!([outcome, with_block, message("two")])), "nothing in it is filled");
        let alone = json!({"type": "user.message", "content": [block]});
        assert_eq!(made(&json!([outcome]), &given), Ok(json!([alone, outcome])));
    }

    #[test]
    fn what_comes_out_could_be_the_first_events_of_a_deployment() {
        let blank = made(&json!([message("{{a}}")]), &given(&[("a", " ")], vec![])).unwrap_err();
        let said = "with its inputs and content, initial_events[0].content[0].text: text content blocks must contain \
            non-whitespace text";
        assert_eq!(blank, said);
        let many = message(&"{{a}}".repeat(100));
        let large = made(&json!([many]), &given(&[("a", &"x".repeat(100_000))], vec![])).unwrap_err();
        assert!(
            large.starts_with("inputs: with them and its content, the first events have more than 8 MB"),
            "{large}"
        );
        let blocks = vec![json!({"type": "text", "text": "x"}); 1000];
        let refused = made(&json!([message("hi")]), &given(&[], blocks)).unwrap_err();
        assert!(refused.contains("no more than 1000 item(s)"), "{refused}");
    }
}
