//! Reading request bodies strictly: every error names the field it is about, and no field is passed over.
//!
//! ```
//! use rota_api::decode;
//!
//! let body = serde_json::json!({"name": "nightly", "colour": "red"});
//! let error = decode::body(&body, |o| o.required("name")?.text(1, 64)).unwrap_err();
//! assert_eq!(error.to_string(), "colour: Extra inputs are not permitted");
//! ```

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What is wrong with a request, in the words that the client reads: `field.path: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(String);

impl Invalid {
    /// An error that is about no single field.
    pub fn request(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// An error about the field at `path`.
    pub fn field(path: &str, message: impl fmt::Display) -> Self {
        if path.is_empty() { Self(message.to_string()) } else { Self(format!("{path}: {message}")) }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// The result of reading a part of a body.
pub type Decoded<T> = Result<T, Invalid>;

/// What an update says about a field: leave it, clear it, or set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patch<T> {
    /// The field was not sent: keep what is stored.
    Keep,
    /// The field was sent as null.
    Clear,
    /// The field was sent with a value.
    Set(T),
}

impl<T> Patch<T> {
    /// The value that `stored` becomes, where null clears it.
    pub fn over(self, stored: Option<T>) -> Option<T> {
        match self {
            Self::Keep => stored,
            Self::Clear => None,
            Self::Set(value) => Some(value),
        }
    }

    /// The value that `stored` becomes, where null means `cleared`.
    pub fn over_or(self, stored: T, cleared: T) -> T {
        match self {
            Self::Keep => stored,
            Self::Clear => cleared,
            Self::Set(value) => value,
        }
    }
}

impl Patch<Node<'_>> {
    /// The same with the value that was sent read by `read`.
    pub fn read<T>(self, read: impl FnOnce(&Node<'_>) -> Decoded<T>) -> Decoded<Patch<T>> {
        Ok(match self {
            Self::Keep => Patch::Keep,
            Self::Clear => Patch::Clear,
            Self::Set(node) => Patch::Set(read(&node)?),
        })
    }
}

/// Reads JSON of at most `most` values, those inside of others counted: a text of `[[],[],…` takes forty times its own size
/// in memory, so reading ends where there are more.
///
/// # Errors
/// When it is not JSON, is nested more than 127 deep, or has more values.
pub fn json(text: &[u8], most: usize) -> Decoded<Value> {
    let left = Cell::new(most);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Tree { left: &left }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    read.map_err(|error| {
        Invalid::request(if error.is_data() {
            format!("the body has more than {most} JSON values")
        } else {
            format!("the body is not JSON: {error}")
        })
    })
}

/// Builds a value, counting down for each one in it.
#[derive(Clone, Copy)]
struct Tree<'a> {
    left: &'a Cell<usize>,
}

impl Tree<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.left.set(left);
        Ok(())
    }

    fn leaf<E: Error>(self, value: impl Into<Value>) -> Result<Value, E> {
        self.count()?;
        Ok(value.into())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.leaf(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.leaf(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.leaf(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.leaf(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.leaf(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.leaf(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.count()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        // Room for three more would be most of what a short list takes.
        list.shrink_to_fit();
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        self.count()?;
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            map.insert(name, fields.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

/// Reads a whole request body, which must be an object.
pub fn body<'a, T>(value: &'a Value, read: impl FnOnce(&mut Object<'a>) -> Decoded<T>) -> Decoded<T> {
    Node { path: String::new(), value }.object(read)
}

/// A value in a request and where it stands.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// The value as it was sent.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Where the value stands: `initial_events[0].type`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// An error about this value.
    pub fn invalid(&self, message: impl fmt::Display) -> Invalid {
        Invalid::field(&self.path, message)
    }

    /// A string of any length.
    pub fn string(&self) -> Decoded<&'a str> {
        self.value.as_str().ok_or_else(|| self.invalid("Input should be a valid string"))
    }

    /// A string of `least` to `most` characters, none of which is U+0000: not every store can hold that one.
    pub fn text(&self, least: usize, most: usize) -> Decoded<String> {
        let text = self.string()?;
        let length = text.chars().count();
        if length < least {
            return Err(self.invalid(format_args!("value must contain at least {least} character(s)")));
        }
        if length > most {
            return Err(self.invalid(format_args!("value must contain no more than {most} character(s)")));
        }
        if text.contains('\0') {
            return Err(self.invalid("value must not contain the character U+0000"));
        }
        Ok(text.to_owned())
    }

    /// A string that is one of `allowed`.
    pub fn one_of(&self, allowed: &[&'static str]) -> Decoded<&'static str> {
        let text = self.string()?;
        allowed.iter().find(|a| **a == text).copied().ok_or_else(|| self.not_a_value(text))
    }

    /// The error for a discriminator or enum value that does not exist.
    pub fn not_a_value(&self, text: &str) -> Invalid {
        self.invalid(format_args!("\"{text}\" is not a valid value"))
    }

    /// A whole number from `least` to `most`.
    pub fn integer(&self, least: i64, most: i64) -> Decoded<i64> {
        let number = self.value.as_i64().ok_or_else(|| self.invalid("Input should be a valid integer"))?;
        if number < least {
            return Err(self.invalid(format_args!("value must be greater than or equal to {least}")));
        }
        if number > most {
            return Err(self.invalid(format_args!("value must be less than or equal to {most}")));
        }
        Ok(number)
    }

    /// A boolean.
    pub fn boolean(&self) -> Decoded<bool> {
        self.value.as_bool().ok_or_else(|| self.invalid("Input should be a valid boolean"))
    }

    /// An object whose every field `read` asks for; one that it does not ask for is an error.
    pub fn object<T>(&self, read: impl FnOnce(&mut Object<'a>) -> Decoded<T>) -> Decoded<T> {
        let mut object = Object { path: self.path.clone(), fields: self.map()?, seen: Vec::new(), open: false };
        let value = read(&mut object)?;
        object.finish()?;
        Ok(value)
    }

    /// An object whose fields are free.
    pub fn map(&self) -> Decoded<&'a Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.invalid("Input should be an object"))
    }

    /// The fields of a free object with their places.
    pub fn entries(&self) -> Decoded<impl Iterator<Item = (&'a String, Node<'a>)>> {
        let map = self.map()?;
        Ok(map.iter().map(|(key, value)| (key, Node { path: join(&self.path, key), value })))
    }

    /// An array of `least` to `most` items.
    pub fn list(&self, least: usize, most: usize) -> Decoded<Vec<Node<'a>>> {
        let items = self.value.as_array().ok_or_else(|| self.invalid("Input should be a valid array"))?;
        if items.len() < least {
            return Err(self.invalid(format_args!("value must contain at least {least} item{}", plural(least))));
        }
        if items.len() > most {
            return Err(self.invalid(format_args!("value must contain no more than {most} item(s)")));
        }
        let place = |(i, value)| Node { path: format!("{}[{i}]", self.path), value };
        Ok(items.iter().enumerate().map(place).collect())
    }

    /// An array of `least` to `most` items, each read by `read`.
    pub fn items<T>(&self, least: usize, most: usize, read: impl Fn(&Node<'a>) -> Decoded<T>) -> Decoded<Vec<T>> {
        self.list(least, most)?.iter().map(read).collect()
    }

    /// The `type` of an object, which decides how the rest is read. [`Object::tagged`] then accepts the field.
    pub fn tag(&self) -> Decoded<&'a str> {
        let tag = self.map()?.get("type").filter(|v| !v.is_null());
        let tag = tag.ok_or_else(|| Invalid::field(&join(&self.path, "type"), "Field required"))?;
        Node { path: join(&self.path, "type"), value: tag }.string()
    }

    /// The error for a `type` that does not exist here.
    pub fn wrong_tag(&self, tag: &str) -> Invalid {
        Invalid::field(&join(&self.path, "type"), format_args!("\"{tag}\" is not a valid value"))
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn join(path: &str, field: &str) -> String {
    let field = if field.is_empty() { "\"\"" } else { field };
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// An object that is being read field by field.
#[derive(Debug)]
pub struct Object<'a> {
    path: String,
    fields: &'a Map<String, Value>,
    seen: Vec<&'static str>,
    open: bool,
}

impl<'a> Object<'a> {
    /// A field that must be there. Null counts as missing.
    pub fn required(&mut self, name: &'static str) -> Decoded<Node<'a>> {
        self.optional(name).ok_or_else(|| Invalid::field(&join(&self.path, name), "Field required"))
    }

    /// A field that may be absent or null.
    pub fn optional(&mut self, name: &'static str) -> Option<Node<'a>> {
        match self.patch(name) {
            Patch::Set(node) => Some(node),
            Patch::Keep | Patch::Clear => None,
        }
    }

    /// A field of an update, where absent and null differ.
    pub fn patch(&mut self, name: &'static str) -> Patch<Node<'a>> {
        self.seen.push(name);
        match self.fields.get(name) {
            None => Patch::Keep,
            Some(Value::Null) => Patch::Clear,
            Some(value) => Patch::Set(Node { path: join(&self.path, name), value }),
        }
    }

    /// A field of an update that cannot be cleared.
    pub fn settable(&mut self, name: &'static str) -> Decoded<Option<Node<'a>>> {
        match self.patch(name) {
            Patch::Keep => Ok(None),
            Patch::Clear => Err(Invalid::field(&join(&self.path, name), "value cannot be null")),
            Patch::Set(node) => Ok(Some(node)),
        }
    }

    /// Accepts the `type` field after [`Node::tag`] has decided on it.
    pub fn tagged(&mut self) {
        self.seen.push("type");
    }

    /// Accepts every further field: for objects that the contract leaves open.
    pub fn allow_others(&mut self) {
        self.open = true;
    }

    /// An error about the field `name` of this object.
    pub fn invalid(&self, name: &str, message: impl fmt::Display) -> Invalid {
        Invalid::field(&join(&self.path, name), message)
    }

    fn finish(self) -> Decoded<()> {
        match self.fields.keys().find(|key| !self.seen.contains(&key.as_str())) {
            Some(unknown) if !self.open => {
                Err(Invalid::field(&join(&self.path, unknown), "Extra inputs are not permitted"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Decoded<()> {
        body(value, |o| {
            o.required("name")?.text(1, 5)?;
            if let Some(schedule) = o.optional("schedule") {
                match schedule.tag()? {
                    "cron" => schedule.object(|o| {
                        o.tagged();
                        o.required("timezone")?.string().map(drop)
                    })?,
                    other => return Err(schedule.wrong_tag(other)),
                }
            }
            if let Some(events) = o.optional("events") {
                events.items(1, 2, |event| event.integer(0, 9))?;
            }
            Ok(())
        })
    }

    #[test]
    fn json_is_read_as_it_was_sent() {
        for text in [
            "null",
            "-7",
            "18446744073709551615",
            "1.5e300",
            "\"\\u00fc\\n\"",
            r#"{"b": [1, {"a": null}, [], {}], "a": true, "b": "again", "$serde_json::private::RawValue": "[1]"}"#,
        ] {
            let plain = |value: &Value| serde_json::to_string(value).unwrap();
            let ours = json(text.as_bytes(), 100).unwrap();
            if !text.contains('$') {
                assert_eq!(plain(&ours), plain(&serde_json::from_str(text).unwrap()));
            }
            assert_eq!(plain(&json(plain(&ours).as_bytes(), 100).unwrap()), plain(&ours));
        }
    }

    #[test]
    fn json_of_too_many_values_is_refused_while_it_is_read() {
        let read = |text: &str, most| json(text.as_bytes(), most).map_err(|error| error.to_string());
        assert!(read("[[], [], {\"a\": 1}]", 5).is_ok(), "the list and what is in it");
        let refused = Err("the body has more than 4 JSON values".to_owned());
        assert_eq!(read("[[], [], {\"a\": 1}]", 4), refused);
        assert_eq!(read("[[], [], {\"a\": 1}, and never read", 4), refused);
        for wrong in ["", "{", "[1,]", "{} x", "\"\u{1}\""] {
            assert!(read(wrong, 4).unwrap_err().starts_with("the body is not JSON: "), "{wrong}");
        }
        assert!(read(&"[".repeat(100_000), 1_000_000).unwrap_err().starts_with("the body is not JSON: recursion"));
    }

    #[test]
    fn each_error_names_its_field() {
        for (value, message) in [
            (json!([]), "Input should be an object"),
            (json!({}), "name: Field required"),
            (json!({"name": null}), "name: Field required"),
            (json!({"name": 1}), "name: Input should be a valid string"),
            (json!({"name": ""}), "name: value must contain at least 1 character(s)"),
            (json!({"name": "123456"}), "name: value must contain no more than 5 character(s)"),
            (json!({"name": "a", "x": 1}), "x: Extra inputs are not permitted"),
            (json!({"name": "a", "": 1}), "\"\": Extra inputs are not permitted"),
            (json!({"name": "a", "schedule": {}}), "schedule.type: Field required"),
            (
                json!({"name": "a", "schedule": {"type": "interval"}}),
                "schedule.type: \"interval\" is not a valid value",
            ),
            (json!({"name": "a", "schedule": {"type": "cron"}}), "schedule.timezone: Field required"),
            (
                json!({"name": "a", "schedule": {"type": "cron", "timezone": "UTC", "at": 1}}),
                "schedule.at: Extra inputs are not permitted",
            ),
            (json!({"name": "a", "events": []}), "events: value must contain at least 1 item"),
            (json!({"name": "a", "events": [1, 2, 3]}), "events: value must contain no more than 2 item(s)"),
            (json!({"name": "a", "events": [1, "b"]}), "events[1]: Input should be a valid integer"),
            (json!({"name": "a", "events": [10]}), "events[0]: value must be less than or equal to 9"),
        ] {
            assert_eq!(read(&value).unwrap_err().to_string(), message, "{value}");
        }
        assert_eq!(read(&json!({"name": "a", "schedule": null, "events": [1]})), Ok(()));
    }
}
