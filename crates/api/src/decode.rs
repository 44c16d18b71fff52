//! Reading request bodies strictly: every error names the field it is about, and no field is passed over.
//!
//! ```
//! use rota_api::decode;
//!
//! let body = serde_json::json!({"name": "nightly", "colour": "red"});
//! let error = decode::body(&body, |o| o.required("name")?.text(1, 64)).unwrap_err();
//! assert_eq!(error.to_string(), "colour: Extra inputs are not permitted");
//! ```

use std::{cell::Cell, fmt, rc::Rc};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// In which words a body is refused: the hosted service has two readers, and the newer one differs by resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Environments, what administrators manage, and Rota's own: `x: Extra inputs are not permitted`.
    Plain,
    /// Agents: `Failed to parse request body: unknown field "x"`, `name: minimum string length is 1`.
    Agents,
    /// Deployments, vaults and their credentials: as agents, but places are told without the kinds of what stands there.
    Deployments,
    /// Sessions and their events: as agents, but what is missing is `value is required`.
    Sessions,
}

/// What is wrong with a request, in the words that the client reads: `field.path: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    message: String,
    code: Option<&'static str>,
}

impl Invalid {
    /// An error that is about no single field.
    pub fn request(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None }
    }

    /// An error about the field at `path`.
    pub fn field(path: &str, message: impl fmt::Display) -> Self {
        Self::request(if path.is_empty() { message.to_string() } else { format!("{path}: {message}") })
    }

    /// The same error with a name that programs read, in `error.details.error_code`.
    #[must_use]
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The name that programs read, where the error has one.
    pub fn code(&self) -> Option<&'static str> {
        self.code
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
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

/// Reads a whole request body, which must be an object. It is refused in the words of [`Dialect::Plain`], unless `read` says
/// otherwise: [`Object::speak`].
pub fn body<'a, T>(value: &'a Value, read: impl FnOnce(&mut Object<'a>) -> Decoded<T>) -> Decoded<T> {
    Node { dialect: Dialect::Plain, place: Place(None), value }.object(read)
}

/// Where a value stands in a body: the steps to it, the last one first.
#[derive(Debug, Clone)]
struct Place<'a>(Option<Rc<(Place<'a>, Step<'a>)>>);

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Item(usize),
    /// The kind of what stands here, which only some dialects tell.
    Kind(&'static str),
}

impl<'a> Place<'a> {
    fn then(&self, step: Step<'a>) -> Self {
        Self(Some(Rc::new((self.clone(), step))))
    }

    /// `resources[0].url`: how what cannot be parsed is told.
    fn bracketed(&self) -> String {
        self.written(|text, step| match step {
            Step::Field(name) => dotted(text, name),
            Step::Item(i) => *text += &format!("[{i}]"),
            Step::Kind(_) => {}
        })
    }

    /// `resources.0.github_repository.url`: how a broken rule is told.
    fn dotted(&self, kinds: bool) -> String {
        self.written(|text, step| match step {
            Step::Field(name) => dotted(text, name),
            Step::Item(i) => dotted(text, &i.to_string()),
            Step::Kind(name) if kinds => dotted(text, &name.replace('.', "_")),
            Step::Kind(_) => {}
        })
    }

    fn written(&self, write: impl Fn(&mut String, Step<'a>)) -> String {
        let mut steps = Vec::new();
        let mut place = self;
        while let Some(last) = &place.0 {
            steps.push(last.1);
            place = &last.0;
        }
        let mut text = String::new();
        steps.into_iter().rev().for_each(|step| write(&mut text, step));
        text
    }
}

fn dotted(text: &mut String, name: &str) {
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(if name.is_empty() { "\"\"" } else { name });
}

impl Dialect {
    /// An error about what stands at `place` and can be read, but is not allowed.
    fn rule(self, place: &Place<'_>, message: impl fmt::Display) -> Invalid {
        let path = match self {
            Self::Plain => place.bracketed(),
            Self::Agents | Self::Sessions => place.dotted(true),
            Self::Deployments => place.dotted(false),
        };
        Invalid::field(&path, message)
    }

    /// An error about what stands at `place` and cannot be read.
    fn unreadable(self, place: &Place<'_>, message: impl fmt::Display) -> Invalid {
        let invalid = Invalid::field(&place.bracketed(), message);
        if self == Self::Plain { invalid } else { Invalid::request(format!("Failed to parse request: {invalid}")) }
    }

    fn missing(self, place: &Place<'_>) -> Invalid {
        self.rule(place, if self == Self::Sessions { "value is required" } else { "Field required" })
    }

    fn unknown(self, place: &Place<'_>, name: &str) -> Invalid {
        match self {
            Self::Plain => self.rule(place, "Extra inputs are not permitted"),
            _ => Invalid::request(format!("Failed to parse request body: unknown field {name:?}")),
        }
    }

    fn too_short(self, least: usize) -> String {
        match self {
            Self::Plain => format!("String should have at least {least} character{}", plural(least)),
            Self::Agents | Self::Deployments => format!("minimum string length is {least}"),
            Self::Sessions => "value is required".to_owned(),
        }
    }

    fn too_long(self, most: usize) -> String {
        match self {
            Self::Plain => format!("String should have at most {most} characters"),
            Self::Agents | Self::Deployments => format!("maximum string length is {most}"),
            Self::Sessions => format!("must be at most {most} characters"),
        }
    }

    fn too_few(self, least: usize) -> String {
        let value = if matches!(self, Self::Plain | Self::Deployments) { "value " } else { "" };
        format!("{value}must contain at least {least} item{}", plural(least))
    }
}

/// A value in a request and where it stands.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    dialect: Dialect,
    place: Place<'a>,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// The value as it was sent.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Where the value stands: `initial_events[0].type`.
    pub fn path(&self) -> String {
        self.place.bracketed()
    }

    /// The words in which it is refused.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The same value, told as one of the kind `kind` where that is part of its place: `tools.1.custom.name`,
    /// `events.0.user_message.content`.
    #[must_use]
    pub fn of_kind(&self, kind: &'static str) -> Self {
        Self { place: self.place.then(Step::Kind(kind)), ..self.clone() }
    }

    /// The same value, told as standing under `name`.
    #[must_use]
    pub fn under(&self, name: &'static str) -> Self {
        Self { place: self.place.then(Step::Field(name)), ..self.clone() }
    }

    /// An error about this value, which can be read and is not allowed.
    pub fn invalid(&self, message: impl fmt::Display) -> Invalid {
        self.dialect.rule(&self.place, message)
    }

    /// The same about something in it, at the place `below`.
    pub fn invalid_at(&self, below: &str, message: impl fmt::Display) -> Invalid {
        self.dialect.rule(&self.place.then(Step::Field(below)), message)
    }

    /// An error about this value, which cannot be read.
    pub fn unreadable(&self, message: impl fmt::Display) -> Invalid {
        self.dialect.unreadable(&self.place, message)
    }

    /// A string of any length.
    pub fn string(&self) -> Decoded<&'a str> {
        self.value.as_str().ok_or_else(|| self.unreadable("Input should be a valid string"))
    }

    /// A string of `least` to `most` characters, none of which is U+0000: not every store can hold that one.
    pub fn text(&self, least: usize, most: usize) -> Decoded<String> {
        let text = self.string()?;
        let length = text.chars().count();
        if length < least {
            return Err(self.invalid(self.dialect.too_short(least)));
        }
        if length > most {
            return Err(self.invalid(self.dialect.too_long(most)));
        }
        if text.contains('\0') {
            return Err(self.invalid("value must not contain the character U+0000"));
        }
        Ok(text.to_owned())
    }

    /// A string that is one of `allowed`.
    pub fn one_of(&self, allowed: &[&'static str]) -> Decoded<&'static str> {
        let text = self.string()?;
        allowed.iter().find(|a| **a == text).copied().ok_or_else(|| {
            if self.dialect == Dialect::Plain {
                return self.not_a_value(text);
            }
            let mut names = allowed.to_vec();
            names.sort_unstable();
            self.unreadable(format_args!("\"{text}\" is not a valid value; expected one of {}", names.join(", ")))
        })
    }

    /// The error for a value that does not exist.
    pub fn not_a_value(&self, text: &str) -> Invalid {
        self.unreadable(format_args!("\"{text}\" is not a valid value"))
    }

    /// A whole number from `least` to `most`.
    pub fn integer(&self, least: i64, most: i64) -> Decoded<i64> {
        let number = self.value.as_i64().ok_or_else(|| self.unreadable("Input should be a valid integer"))?;
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
        self.value.as_bool().ok_or_else(|| self.unreadable("Input should be a valid boolean"))
    }

    /// An object whose every field `read` asks for; one that it does not ask for is an error.
    pub fn object<T>(&self, read: impl FnOnce(&mut Object<'a>) -> Decoded<T>) -> Decoded<T> {
        let mut object = Object {
            dialect: self.dialect,
            place: self.place.clone(),
            fields: self.map()?,
            seen: Vec::new(),
            others: Others::Refused,
        };
        let value = read(&mut object)?;
        object.finish()?;
        Ok(value)
    }

    /// An object whose fields are free.
    pub fn map(&self) -> Decoded<&'a Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.unreadable("Input should be an object"))
    }

    /// The fields of a free object with their places.
    pub fn entries(&self) -> Decoded<impl Iterator<Item = (&'a String, Node<'a>)>> {
        let map = self.map()?;
        Ok(map.iter().map(|(key, value)| (key, self.inner(Step::Field(key), value))))
    }

    /// An array of `least` to `most` items.
    pub fn list(&self, least: usize, most: usize) -> Decoded<Vec<Node<'a>>> {
        let items = self.value.as_array().ok_or_else(|| self.unreadable("Input should be a valid array"))?;
        if items.len() < least {
            return Err(self.invalid(self.dialect.too_few(least)));
        }
        if items.len() > most {
            return Err(self.invalid(format_args!("value must contain no more than {most} item(s)")));
        }
        Ok(items.iter().enumerate().map(|(i, value)| self.inner(Step::Item(i), value)).collect())
    }

    /// An array of `least` to `most` items, each read by `read`.
    pub fn items<T>(&self, least: usize, most: usize, read: impl Fn(&Node<'a>) -> Decoded<T>) -> Decoded<Vec<T>> {
        self.list(least, most)?.iter().map(read).collect()
    }

    /// The `type` of an object, which decides how the rest is read. [`Object::tagged`] then accepts the field.
    pub fn tag(&self) -> Decoded<&'a str> {
        let place = self.place.then(Step::Field("type"));
        match self.map()?.get("type").filter(|tag| !tag.is_null()) {
            Some(tag) => Node { dialect: self.dialect, place, value: tag }.string(),
            None => Err(self.dialect.unreadable(&place, "Field required")),
        }
    }

    /// The `type` of an object, one of `allowed`.
    pub fn tag_of(&self, allowed: &[&'static str]) -> Decoded<&'static str> {
        let tag = self.tag()?;
        let found = allowed.iter().find(|name| **name == tag).copied();
        found.ok_or_else(|| match self.dialect {
            Dialect::Plain => {
                let names: Vec<_> = allowed.iter().map(|name| format!("'{name}'")).collect();
                let names = names.join(", ");
                self.invalid(format_args!(
                    "Input tag '{tag}' found using 'type' does not match any of the expected tags: {names}"
                ))
            }
            _ => self.wrong_tag(tag),
        })
    }

    /// The error for a `type` that does not exist here.
    pub fn wrong_tag(&self, tag: &str) -> Invalid {
        let place = self.place.then(Step::Field("type"));
        self.dialect.unreadable(&place, format_args!("\"{tag}\" is not a valid value"))
    }

    fn inner(&self, step: Step<'a>, value: &'a Value) -> Self {
        Self { dialect: self.dialect, place: self.place.then(step), value }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// An object that is being read field by field.
#[derive(Debug)]
pub struct Object<'a> {
    dialect: Dialect,
    place: Place<'a>,
    fields: &'a Map<String, Value>,
    seen: Vec<&'static str>,
    others: Others<'a>,
}

/// What becomes of fields that nobody asks for.
#[derive(Debug, Clone, Copy)]
enum Others<'a> {
    Refused,
    /// Refused in words that name what the object is for.
    RefusedFor(&'a str),
    Allowed,
}

impl<'a> Object<'a> {
    /// Has this object and all in it refused in the words of `dialect`.
    pub fn speak(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    /// Has the places of all in this object begin with `name`, as those of an agent's update do.
    pub fn stand_under(&mut self, name: &'static str) {
        self.place = self.place.then(Step::Field(name));
    }

    /// A field that must be there. Null counts as missing.
    pub fn required(&mut self, name: &'static str) -> Decoded<Node<'a>> {
        self.optional(name).ok_or_else(|| self.dialect.missing(&self.place.then(Step::Field(name))))
    }

    /// A field that must be there, read by `read`.
    pub fn needs<T>(&mut self, name: &'static str, read: impl FnOnce(&Node<'a>) -> Decoded<T>) -> Decoded<T> {
        read(&self.required(name)?)
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
            Some(value) => Patch::Set(Node { dialect: self.dialect, place: self.place.then(Step::Field(name)), value }),
        }
    }

    /// A field of an update that cannot be cleared.
    pub fn settable(&mut self, name: &'static str) -> Decoded<Option<Node<'a>>> {
        match self.patch(name) {
            Patch::Keep => Ok(None),
            Patch::Clear => Err(self.invalid(name, "value cannot be null")),
            Patch::Set(node) => Ok(Some(node)),
        }
    }

    /// A field of an update of which null is as good as absent: both keep what is stored.
    pub fn kept<T>(&mut self, name: &'static str, read: impl FnOnce(&Node<'a>) -> Decoded<T>) -> Decoded<Option<T>> {
        self.optional(name).map(|node| read(&node)).transpose()
    }

    /// A field of an update that cannot be cleared, read by `read`.
    pub fn needed<T>(&mut self, name: &'static str, read: impl FnOnce(&Node<'a>) -> Decoded<T>) -> Decoded<Option<T>> {
        self.settable(name)?.map(|node| read(&node)).transpose()
    }

    /// Accepts the `type` field after [`Node::tag`] has decided on it.
    pub fn tagged(&mut self) {
        self.seen.push("type");
    }

    /// Accepts every further field: for objects that the contract leaves open.
    pub fn allow_others(&mut self) {
        self.others = Others::Allowed;
    }

    /// Refuses further fields in words that say for which `name` they are not.
    pub fn refuse_others_for(&mut self, name: &'a str) {
        self.others = Others::RefusedFor(name);
    }

    /// An error about the field `name` of this object.
    pub fn invalid(&self, name: &str, message: impl fmt::Display) -> Invalid {
        self.dialect.rule(&self.place.then(Step::Field(name)), message)
    }

    /// The same for one that cannot be read.
    pub fn unreadable(&self, name: &str, message: impl fmt::Display) -> Invalid {
        self.dialect.unreadable(&self.place.then(Step::Field(name)), message)
    }

    fn finish(self) -> Decoded<()> {
        let Some(unknown) = self.fields.keys().find(|key| !self.seen.contains(&key.as_str())) else { return Ok(()) };
        let place = self.place.then(Step::Field(unknown));
        match self.others {
            Others::Allowed => Ok(()),
            Others::Refused => Err(self.dialect.unknown(&place, unknown)),
            Others::RefusedFor(name) => {
                let message = format_args!("Extra inputs are not permitted for name {name:?}");
                Err(self.dialect.unreadable(&place, message))
            }
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
            (json!({"name": ""}), "name: String should have at least 1 character"),
            (json!({"name": "123456"}), "name: String should have at most 5 characters"),
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
