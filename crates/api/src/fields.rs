//! Bodies that are declared: which fields a resource has, how each is read, what null means, and what an update makes of what is
//! stored. A create request is an update of what holds where nobody said anything.

use schemars::{Schema, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::decode::{Decoded, Node, Object};

/// What can be read from a request.
pub trait Decode: Sized {
    /// Reads the value at `node`.
    ///
    /// # Errors
    /// When it is none; the message names the place.
    fn decode(node: &Node<'_>) -> Decoded<Self>;
}

/// The name of a field without the mark of one that is a word of Rust's.
#[must_use]
pub fn plain(name: &'static str) -> &'static str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Declares what is stored, what a body says of it, and how the one becomes the other.
///
/// Each field is `name: Type, mode = how its value is read`. The mode says what null means and what is kept:
///
/// - `keeps`: absent or null keeps what is stored.
/// - `needs`: absent keeps it, null is refused.
/// - `required`: absent or null is refused, in an update too.
/// - `clears`: absent keeps it, null clears it; what is stored is an `Option`.
/// - `resets`: absent keeps it, null is the default.
/// - `joins<Sent>`: as `keeps`, and what was sent is merged with what is stored.
/// - `merges<Sent>`: as `resets`, and what was sent is merged with what is stored.
/// - `pairs`: metadata; see [`Changes`](crate::metadata::Changes).
macro_rules! fields {
    (
        $(#[$of_stored:meta])* $stored:ident,
        $(#[$of_sent:meta])* $sent:ident {
            $($(#[$doc:meta])* $name:ident: $type:ty, $mode:ident $(<$inner:ty>)? = $read:expr;)*
        }
    ) => {
        $(#[$of_stored])*
        pub struct $stored {
            $($(#[$doc])* pub $name: $crate::fields::fields!(@stored $mode $type),)*
        }

        $(#[$of_sent])*
        #[derive(Debug, Clone)]
        pub struct $sent {
            $($(#[$doc])* pub $name: $crate::fields::fields!(@sent $mode $type $(, $inner)?),)*
        }

        impl $sent {
            /// Reads the fields of an object.
            ///
            /// # Errors
            /// When one is not what it should be; the message names it.
            pub fn read(o: &mut $crate::decode::Object<'_>) -> $crate::decode::Decoded<Self> {
                Ok(Self { $($name: $crate::fields::fields!(@read $mode o, $crate::fields::plain(stringify!($name)), $read)?,)* })
            }

            /// What `stored` becomes.
            ///
            /// # Errors
            /// When what is kept and what is new do not go together.
            pub fn merged(&self, stored: &$stored) -> $crate::decode::Decoded<$stored> {
                Ok($stored { $($name: $crate::fields::fields!(@merged $mode self.$name, stored.$name),)* })
            }
        }

        impl $crate::fields::Decode for $sent {
            fn decode(node: &$crate::decode::Node<'_>) -> $crate::decode::Decoded<Self> {
                node.object(Self::read)
            }
        }
    };
    (@stored clears $type:ty) => { Option<$type> };
    (@stored $mode:ident $type:ty) => { $type };
    (@sent keeps $type:ty) => { Option<$type> };
    (@sent needs $type:ty) => { Option<$type> };
    (@sent required $type:ty) => { $type };
    (@sent clears $type:ty) => { $crate::decode::Patch<$type> };
    (@sent resets $type:ty) => { $crate::decode::Patch<$type> };
    (@sent joins $type:ty, $inner:ty) => { Option<$inner> };
    (@sent merges $type:ty, $inner:ty) => { $crate::decode::Patch<$inner> };
    (@sent pairs $type:ty) => { $crate::metadata::Changes };
    (@read keeps $o:ident, $name:expr, $read:expr) => { $o.kept($name, $read) };
    (@read joins $o:ident, $name:expr, $read:expr) => { $o.kept($name, $read) };
    (@read needs $o:ident, $name:expr, $read:expr) => { $o.needed($name, $read) };
    (@read required $o:ident, $name:expr, $read:expr) => { $o.needs($name, $read) };
    (@read clears $o:ident, $name:expr, $read:expr) => { $o.patch($name).read($read) };
    (@read resets $o:ident, $name:expr, $read:expr) => { $o.patch($name).read($read) };
    (@read merges $o:ident, $name:expr, $read:expr) => { $o.patch($name).read($read) };
    (@read pairs $o:ident, $name:expr, $read:expr) => { $read($o.patch($name)) };
    (@merged keeps $sent:expr, $stored:expr) => { $sent.as_ref().unwrap_or(&$stored).clone() };
    (@merged needs $sent:expr, $stored:expr) => { $sent.as_ref().unwrap_or(&$stored).clone() };
    (@merged required $sent:expr, $stored:expr) => {{
        let _ = &$stored;
        $sent.clone()
    }};
    (@merged clears $sent:expr, $stored:expr) => { $sent.clone().over($stored.clone()) };
    (@merged resets $sent:expr, $stored:expr) => { $sent.clone().over_or($stored.clone(), Default::default()) };
    (@merged joins $sent:expr, $stored:expr) => {
        match &$sent {
            Some(sent) => sent.merged(&$stored)?,
            None => $stored.clone(),
        }
    };
    (@merged merges $sent:expr, $stored:expr) => {
        match &$sent {
            $crate::decode::Patch::Keep => $stored.clone(),
            $crate::decode::Patch::Clear => Default::default(),
            $crate::decode::Patch::Set(sent) => sent.merged(&$stored)?,
        }
    };
    (@merged pairs $sent:expr, $stored:expr) => { $sent.over(&$stored)? };
    (@null needs) => { Null::Refused };
    (@null required) => { Null::Missing };
    (@null $mode:ident) => { Null::Taken };
}

/// As [`fields!`], for a body whose schema is made from the same declaration: each field is `name: Type, mode as kind`, where the kind
/// is a [`Kind`].
macro_rules! described {
    (
        $(#[$of_stored:meta])* $stored:ident,
        $(#[$of_sent:meta])* $sent:ident {
            $($(#[$doc:meta])* $name:ident: $type:ty, $mode:ident as $kind:expr;)*
        }
    ) => {
        $crate::fields::fields! {
            $(#[$of_stored])* $stored,
            $(#[$of_sent])* $sent {
                $($(#[$doc])* $name: $type, $mode = |node| $crate::fields::Kind::<$type>::read(&$kind, node);)*
            }
        }

        impl schemars::JsonSchema for $sent {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($sent).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                use $crate::fields::{Kind, Null};

                $crate::fields::schema_of(&[$((
                    $crate::fields::plain(stringify!($name)),
                    Kind::<$type>::schema(&$kind),
                    $crate::fields::fields!(@null $mode),
                ),)*])
            }
        }
    };
}

/// Declares an object of several kinds, told apart by its `type`: what is stored, and what a body says of it. Another kind than the
/// stored one begins from its own defaults.
macro_rules! tagged {
    (
        $(#[$of_stored:meta])* $stored:ident,
        $(#[$of_sent:meta])* $sent:ident {
            $($(#[$doc:meta])* $tag:literal => $variant:ident($kept:ty, $said:ty),)*
        }
    ) => {
        $(#[$of_stored])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "type")]
        pub enum $stored {
            $($(#[$doc])* #[serde(rename = $tag)] $variant($kept),)*
        }

        $(#[$of_sent])*
        #[derive(Debug, Clone)]
        pub enum $sent {
            $($(#[$doc])* $variant($said),)*
        }

        impl $sent {
            /// What `stored` becomes.
            ///
            /// # Errors
            /// When what is kept and what is new do not go together.
            pub fn merged(&self, stored: &$stored) -> $crate::decode::Decoded<$stored> {
                match (self, stored) {
                    $((Self::$variant(sent), $stored::$variant(kept)) => sent.merged(kept).map($stored::$variant),)*
                    $((Self::$variant(sent), _) => sent.merged(&Default::default()).map($stored::$variant),)*
                }
            }
        }

        impl $crate::fields::Decode for $sent {
            fn decode(node: &$crate::decode::Node<'_>) -> $crate::decode::Decoded<Self> {
                let tag = node.tag_of(&[$($tag),*])?;
                node.object(|o| {
                    o.tagged();
                    match tag {
                        $($tag => <$said>::read(o).map(Self::$variant),)*
                        other => Err(node.wrong_tag(other)),
                    }
                })
            }
        }
    };
}

/// Declares a text that is one of several, which are named here and nowhere else.
macro_rules! names {
    (
        $(#[$of:meta])* $enum:ident {
            $($(#[$doc:meta])* $name:literal => $variant:ident,)*
        }
    ) => {
        $crate::fields::named! { $(#[$of])* $enum { $($(#[$doc])* $name => $variant,)* } }

        impl $crate::fields::Decode for $enum {
            fn decode(node: &$crate::decode::Node<'_>) -> $crate::decode::Decoded<Self> {
                let name = node.one_of(Self::NAMES)?;
                Self::from_name(name).ok_or_else(|| node.not_a_value(name))
            }
        }
    };
}

/// Declares an object that is nothing but its `type`, which is one of several, named here and nowhere else.
macro_rules! types {
    (
        $(#[$of:meta])* $enum:ident {
            $($(#[$doc:meta])* $name:literal => $variant:ident,)*
        }
    ) => {
        $crate::fields::named! { $(#[$of])* #[serde(tag = "type")] $enum { $($(#[$doc])* $name => $variant,)* } }

        impl $crate::fields::Decode for $enum {
            fn decode(node: &$crate::decode::Node<'_>) -> $crate::decode::Decoded<Self> {
                let name = node.tag()?;
                node.object(|o| {
                    o.tagged();
                    Self::from_name(name).ok_or_else(|| node.wrong_tag(name))
                })
            }
        }
    };
}

/// What [`names!`] and [`types!`] declare alike.
macro_rules! named {
    (
        $(#[$of:meta])* $enum:ident {
            $($(#[$doc:meta])* $name:literal => $variant:ident,)*
        }
    ) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $(#[$of])*
        pub enum $enum {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl $enum {
            /// Every name, in the order of their declaration.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// Each of them, in the order of their declaration.
            pub const ALL: [Self; Self::NAMES.len()] = [$(Self::$variant),*];

            /// The name on the wire and in the store.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Reads a name. `None` when there is none such.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use {described, fields, named, names, tagged, types};

/// How the value of a field is read, and what its schema says of it.
pub trait Kind<T> {
    /// Reads the value at `node`.
    ///
    /// # Errors
    /// When it is none; the message names the place.
    fn read(&self, node: &Node<'_>) -> Decoded<T>;

    /// The schema of a value that can be read.
    fn schema(&self) -> Value;
}

/// A text of so many characters, at least and at most.
pub struct Text(pub usize, pub usize);

impl Kind<String> for Text {
    fn read(&self, node: &Node<'_>) -> Decoded<String> {
        node.text(self.0, self.1)
    }

    fn schema(&self) -> Value {
        let mut schema = json!({"type": "string", "maxLength": self.1});
        if self.0 > 0 {
            schema["minLength"] = self.0.into();
        }
        schema
    }
}

/// A whole number, at least and at most. Both are numbers that a `u32` holds.
pub struct Whole(pub i64, pub i64);

impl Kind<u32> for Whole {
    fn read(&self, node: &Node<'_>) -> Decoded<u32> {
        node.integer(self.0, self.1).map(|number| number as u32)
    }

    fn schema(&self) -> Value {
        json!({"type": "integer", "minimum": self.0, "maximum": self.1})
    }
}

/// Yes or no.
pub struct Flag;

impl Kind<bool> for Flag {
    fn read(&self, node: &Node<'_>) -> Decoded<bool> {
        node.boolean()
    }

    fn schema(&self) -> Value {
        json!({"type": "boolean"})
    }
}

/// One of the names of an enum: its `NAMES`.
pub struct OneOf(pub &'static [&'static str]);

impl<T: Decode> Kind<T> for OneOf {
    fn read(&self, node: &Node<'_>) -> Decoded<T> {
        T::decode(node)
    }

    fn schema(&self) -> Value {
        json!({"enum": self.0})
    }
}

/// What a null is in place of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Null {
    /// It means something.
    Taken,
    /// It is refused.
    Refused,
    /// It is refused, as no value is.
    Missing,
}

/// The schema of an object with these fields and no others.
pub fn schema_of(fields: &[(&str, Value, Null)]) -> Schema {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema, null) in fields {
        let schema = if *null == Null::Taken { or_null(schema.clone()) } else { schema.clone() };
        properties.insert((*name).to_owned(), schema);
        if *null == Null::Missing {
            required.push(*name);
        }
    }
    let mut schema = json_schema!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    schema
}

/// A schema that a null fits too.
fn or_null(mut schema: Value) -> Value {
    if let Some(r#type) = schema.get_mut("type") {
        *r#type = json!([r#type, "null"]);
    } else if let Some(kinds) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        kinds.push(json!({"type": "null"}));
    } else {
        schema = json!({"anyOf": [schema, {"type": "null"}]});
    }
    schema
}

/// A kind of object that has no fields of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// What a body says of it: nothing.
#[derive(Debug, Clone)]
pub struct SaidNothing;

impl SaidNothing {
    /// Asks for no field.
    ///
    /// # Errors
    /// None.
    pub fn read(_: &mut Object<'_>) -> Decoded<Self> {
        Ok(Self)
    }

    /// It stays what it is.
    ///
    /// # Errors
    /// None.
    pub fn merged(&self, stored: &Nothing) -> Decoded<Nothing> {
        Ok(stored.clone())
    }
}
