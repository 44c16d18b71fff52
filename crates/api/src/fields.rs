//! Bodies that are declared: which fields a resource has, how each is read, what null means, and what an update makes of what is
//! stored. A create request is an update of what holds where nobody said anything.

use serde::{Deserialize, Serialize};

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
            $($(#[$doc])* pub $name: fields!(@stored $mode $type),)*
        }

        $(#[$of_sent])*
        #[derive(Debug, Clone)]
        pub struct $sent {
            $($(#[$doc])* pub $name: fields!(@sent $mode $type $(, $inner)?),)*
        }

        impl $sent {
            /// Reads the fields of an object.
            ///
            /// # Errors
            /// When one is not what it should be; the message names it.
            pub fn read(o: &mut $crate::decode::Object<'_>) -> $crate::decode::Decoded<Self> {
                Ok(Self { $($name: fields!(@read $mode o, $crate::fields::plain(stringify!($name)), $read)?,)* })
            }

            /// What `stored` becomes.
            ///
            /// # Errors
            /// When what is kept and what is new do not go together.
            pub fn merged(&self, stored: &$stored) -> $crate::decode::Decoded<$stored> {
                Ok($stored { $($name: fields!(@merged $mode self.$name, stored.$name),)* })
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
    (@merged required $sent:expr, $stored:expr) => { $sent.clone() };
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

pub(crate) use {fields, named, names, tagged, types};

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
