//! Reads the arguments of a call as a model wrote them.

use serde_json::{Map, Value, value::RawValue};

/// How deep arguments may be nested: an event with them in it is read by a parser that takes 128 levels.
const MAX_DEPTH: usize = 100;

/// Whether `json` says nothing: a call without arguments has an empty object, or not even that.
pub(super) fn is_none(json: &str) -> bool {
    matches!(json.trim(), "" | "{}" | "null")
}

/// The arguments, a JSON object that can be read whole. None at all stand for an empty one. Halves of surrogate pairs that
/// stand alone become U+FFFD, because they are no characters.
///
/// # Errors
/// What is wrong with them, for the model to read.
pub(super) fn read(json: &str) -> Result<Box<RawValue>, String> {
    if is_none(json) {
        return Ok(RawValue::from_string("{}".to_owned()).expect("it is JSON"));
    }
    let mended = mend(json);
    // Some gateways send them as a text that holds the JSON.
    if let Ok(text) = serde_json::from_str::<String>(&mended) {
        return if text.trim_start().starts_with('{') { read(&text) } else { Err("they are a text".to_owned()) };
    }
    let arguments = serde_json::from_str::<Map<String, Value>>(&mended).map_err(|error| error.to_string())?;
    if arguments.values().any(|value| is_deeper(value, MAX_DEPTH - 1)) {
        return Err(format!("they are nested more than {MAX_DEPTH} levels deep"));
    }
    RawValue::from_string(mended.trim().to_owned()).map_err(|error| error.to_string())
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| is_deeper(item, levels - 1)),
        Value::Object(fields) => levels == 0 || fields.values().any(|field| is_deeper(field, levels - 1)),
        _ => false,
    }
}

/// The JSON with `\ufffd` for each escaped half of a surrogate pair that has no other half.
fn mend(json: &str) -> String {
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match (escape(rest), rest.get(6..).and_then(escape)) {
            (Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
            (Some(0xD800..0xE000), _) => {
                mended.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            // With what it escapes, which may be another one.
            _ => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        mended.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    mended + rest
}

/// The number of the `\uXXXX` that `text` begins with.
fn escape(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_object_that_can_be_read_or_say_what_is_wrong() {
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        let (deepest, too_deep, far_too_deep) = (deep(100), deep(101), deep(200));
        for (json, expected) in [
            ("", Ok("{}")),
            ("null", Ok("{}")),
            (r#" {"a": 1.50} "#, Ok(r#"{"a": 1.50}"#)),
            (r#"{"a":"\ud83d\ude00 \ud83d \ude00"}"#, Ok(r#"{"a":"\ud83d\ude00 \ufffd \ufffd"}"#)),
            (r#"{"a":"\ud83d\ud83d\ude00\\ud83d\u00e9"}"#, Ok(r#"{"a":"\ufffd\ud83d\ude00\\ud83d\u00e9"}"#)),
            (r#""{\"a\":1}""#, Ok(r#"{"a":1}"#)),
            (&deepest, Ok(&*deepest)),
            (&too_deep, Err("nested more than 100")),
            (&far_too_deep, Err("recursion limit")),
            (r#"{"a":1e999}"#, Err("number out of range")),
            (r#"{"a":"#, Err("EOF")),
            (r#"{"a":1} {"#, Err("trailing characters")),
            ("[1]", Err("invalid type: sequence")),
            ("\"text\"", Err("a text")),
            ("7", Err("invalid type: integer")),
        ] {
            match (read(json), expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read.get(), expected),
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{json}: {problem}"),
                (found, _) => panic!("{json}: {found:?}, not {expected:?}"),
            }
        }
    }
}
