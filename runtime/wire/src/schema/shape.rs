//! What a traced type looks like, and how that is written as text.
//!
//! Every named type is defined once and then meant by its number, so a recursive type has a finite text. Knows nothing
//! of how shapes are found.

use std::fmt::{self, Display, Formatter};

/// What stands at one place of a type.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// Never reached, because something before it refused its made-up value.
    Unknown,
    /// A number, text, bytes or unit, by serde's word for it.
    Plain(&'static str),
    /// Something that cannot be traced, by its type name.
    Opaque(&'static str),
    Option(Box<Shape>),
    List(Box<Shape>),
    Map(Box<(Shape, Shape)>),
    Tuple(Vec<Shape>),
    /// A named type, by its place in the list of definitions.
    Named(usize),
}

/// A named type. A struct is kept as its only variant.
#[derive(Debug)]
pub(super) struct Definition {
    /// The Rust type, which tells `Page<u8>` from `Page<u16>`: a key within this process, no part of the text.
    pub(super) type_name: &'static str,
    pub(super) name: &'static str,
    /// The variants' names; `None` for a struct.
    pub(super) variant_names: Option<&'static [&'static str]>,
    pub(super) variants: Vec<Variant>,
    /// The first variant of which a value could be made; those inside it are of types whose own came before.
    pub(super) finite: Option<usize>,
}

/// What is known of one variant, or of a struct.
#[derive(Clone, Debug, Default)]
pub(super) struct Variant {
    /// The fields' names; `None` when they have none.
    pub(super) field_names: Option<&'static [&'static str]>,
    pub(super) fields: Vec<Shape>,
    /// All fields have been seen.
    pub(super) is_traced: bool,
    /// How often tracing it ended in an error.
    pub(super) failures: u32,
}

impl Variant {
    /// Whether one more try may tell more: by another made-up value, or by leaving out a field that takes none.
    pub(super) fn is_open(&self) -> bool {
        let tries = if self.next_unknown().is_some() { FAILURES_MAX } else { WHOLE_TRIES };
        !self.is_traced && self.failures < tries
    }

    /// The named field to begin with when all of them together have been tried in vain.
    pub(super) fn next_unknown(&self) -> Option<usize> {
        self.field_names?;
        self.fields.iter().position(|field| matches!(field, Shape::Unknown)).filter(|_| self.failures >= WHOLE_TRIES)
    }
}

impl Shape {
    /// Calls `visit` with the number of every named type that is part of this shape.
    pub(super) fn each_named(&self, visit: &mut impl FnMut(usize)) {
        match self {
            Self::Unknown | Self::Plain(_) | Self::Opaque(_) => {}
            Self::Option(inner) | Self::List(inner) => inner.each_named(visit),
            Self::Map(entry) => {
                entry.0.each_named(visit);
                entry.1.each_named(visit);
            }
            Self::Tuple(parts) => parts.iter().for_each(|part| part.each_named(visit)),
            Self::Named(index) => visit(*index),
        }
    }
}

impl Display for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("_"),
            Self::Plain(word) => f.write_str(word),
            Self::Opaque(type_name) => write!(f, "<{type_name}>"),
            Self::Option(inner) => write!(f, "{inner}?"),
            Self::List(inner) => write!(f, "[{inner}]"),
            Self::Map(entry) => write!(f, "{{{}: {}}}", entry.0, entry.1),
            Self::Tuple(parts) => parenthesised(f, parts),
            Self::Named(index) => write!(f, "#{index}"),
        }
    }
}

impl Display for Definition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(names) = self.variant_names else {
            let fields = &self.variants[0];
            let space = if fields.field_names.is_some() { " " } else { "" };
            return write!(f, "struct {}{space}{fields}", self.name);
        };
        write!(f, "enum {} {{", self.name)?;
        for (index, (name, fields)) in names.iter().zip(&self.variants).enumerate() {
            write!(f, "{}{name}{fields}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

impl Display for Variant {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(names) = self.field_names else {
            return if self.fields.is_empty() { Ok(()) } else { parenthesised(f, &self.fields) };
        };
        f.write_str("{")?;
        for (index, (name, shape)) in names.iter().zip(&self.fields).enumerate() {
            write!(f, "{}{name}: {shape}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

fn parenthesised(f: &mut Formatter<'_>, parts: &[Shape]) -> fmt::Result {
    f.write_str("(")?;
    for (index, part) in parts.iter().enumerate() {
        write!(f, "{}{part}", if index == 0 { "" } else { ", " })?;
    }
    f.write_str(")")
}

/// Failed tries with all fields: one for each made-up text, and an enum deeper inside has another variant each time.
const WHOLE_TRIES: u32 = 3;
/// Failed tries altogether, each of which passes over one field that cannot be traced.
const FAILURES_MAX: u32 = 64;
