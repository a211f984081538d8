//! Runs a type's `Deserialize` on made-up values until everything it can ask for has been seen.
//!
//! One run sees one variant of every enum it passes, so it takes several. A run *records* until it comes to a type that
//! is being traced already (a recursive one) or is fully known; from there on it is *dry*: it only needs some value, the
//! smallest there is: no option, empty lists, and of an enum the variant of which a value is known to end.

use std::any::type_name;
use std::fmt::{self, Display};

use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

use super::shape::{Definition, Shape, Variant};

/// The shape of `T` as text.
pub(super) fn trace<T: DeserializeOwned>() -> String {
    let mut trace = Trace::default();
    let mut root = Shape::Unknown;
    let mut is_traced = false;
    let mut failures_in_row = 0;
    for run in 0..RUNS_MAX {
        trace.run = run;
        trace.steps_left = STEPS_MAX;
        let mut shape = Shape::Unknown;
        let result = T::deserialize(Tracer { trace: &mut trace, shape: &mut shape, dry: false, depth: 0 });
        note_refusal::<T, _>(&mut shape, &result);
        failures_in_row = if result.is_ok() { 0 } else { failures_in_row + 1 };
        if result.is_ok() || !is_traced {
            root = shape;
        }
        is_traced |= result.is_ok();
        if failures_in_row >= FAILURES_IN_ROW_MAX || is_traced && trace.is_complete(&root) {
            break;
        }
    }
    let mut text = root.to_string();
    for (index, definition) in trace.definitions.iter().enumerate() {
        text += &format!("; #{index} = {definition}");
    }
    text
}

/// A value that was asked for and then refused, as by a `try_from`, counts as its type's name.
fn note_refusal<T, R>(shape: &mut Shape, result: &Result<R, Untraceable>) {
    if result.is_err() && matches!(shape, Shape::Unknown | Shape::Plain(_) | Shape::Opaque(_)) {
        *shape = Shape::Opaque(type_name::<T>());
    }
}

#[derive(Default)]
struct Trace {
    definitions: Vec<Definition>,
    /// The named types that are being traced, outermost first, each with its variant.
    stack: Vec<(usize, usize)>,
    run: usize,
    steps_left: usize,
}

impl Trace {
    /// The number of a named type, which is defined when it is seen for the first time.
    fn define(
        &mut self,
        type_name: &'static str,
        name: &'static str,
        variant_names: Option<&'static [&'static str]>,
    ) -> usize {
        let known = self.definitions.iter().position(|known| known.type_name == type_name && known.name == name);
        known.unwrap_or_else(|| {
            let variants = vec![Variant::default(); variant_names.map_or(1, <[_]>::len)];
            self.definitions.push(Definition { type_name, name, variant_names, variants, finite: None });
            self.definitions.len() - 1
        })
    }

    fn is_on_stack(&self, index: usize) -> bool {
        self.stack.iter().any(|&(open, _)| open == index)
    }

    /// Whether nothing more can be learnt below `shape`, but for what is being traced at this moment.
    fn is_complete(&self, shape: &Shape) -> bool {
        self.is_complete_but_for(shape, None)
    }

    fn is_complete_but_for(&self, shape: &Shape, left_out: Option<usize>) -> bool {
        let mut seen = vec![false; self.definitions.len()];
        if let Some(index) = left_out {
            seen[index] = true;
        }
        for &(open, _) in &self.stack {
            seen[open] = true;
        }
        let mut todo = Vec::new();
        shape.each_named(&mut |index| todo.push(index));
        while let Some(index) = todo.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            for variant in &self.definitions[index].variants {
                if variant.is_open() {
                    return false;
                }
                variant.fields.iter().for_each(|field| field.each_named(&mut |index| todo.push(index)));
            }
        }
        true
    }

    /// The variant that tells most: the one not seen yet that failed least, else one with something open below it.
    fn variant_to_record(&self, index: usize) -> Option<usize> {
        let variants = &self.definitions[index].variants;
        let closed_below = |field: &Shape| self.is_complete_but_for(field, Some(index));
        let open_below = |variant: &Variant| variant.is_traced && !variant.fields.iter().all(closed_below);
        let open = variants.iter().enumerate().filter(|(_, variant)| variant.is_open());
        let least_failed = open.min_by_key(|(_, variant)| variant.failures).map(|(variant, _)| variant);
        least_failed.or_else(|| variants.iter().position(open_below))
    }

    /// The variant of which a value is known to end; else the one least often open, which comes round to it.
    fn variant_to_finish(&self, index: usize) -> Option<usize> {
        let uses = |variant: &usize| self.stack.iter().filter(|&&open| open == (index, *variant)).count();
        let definition = &self.definitions[index];
        definition.finite.or_else(|| (0..definition.variants.len()).min_by_key(uses))
    }
}

/// Serde's deserialiser for one place of the type: makes a value up and notes in `shape` what was asked for.
struct Tracer<'a> {
    trace: &'a mut Trace,
    shape: &'a mut Shape,
    dry: bool,
    depth: usize,
}

impl<'a> Tracer<'a> {
    /// Every question passes here: the bounds of a run.
    fn step(&mut self) -> Result<(), Untraceable> {
        self.trace.steps_left = self.trace.steps_left.checked_sub(1).ok_or(Untraceable)?;
        self.dry |= self.depth > RECORDED_DEPTH_MAX;
        if self.depth > DEPTH_MAX { Err(Untraceable) } else { Ok(()) }
    }

    fn plain(mut self, word: &'static str) -> Result<(), Untraceable> {
        self.step()?;
        *self.shape = Shape::Plain(word);
        Ok(())
    }

    fn inner(&mut self) -> (Shape, usize) {
        (Shape::Unknown, self.depth + 1)
    }

    /// Traces a struct, or one variant of an enum, with `read` asking for its `len` fields.
    fn fields<R>(
        self,
        (index, variant): (usize, usize),
        field_names: Option<&'static [&'static str]>,
        len: usize,
        read: impl FnOnce(Parts<'_>) -> Result<R, Untraceable>,
    ) -> Result<R, Untraceable> {
        let Self { trace, dry, depth, .. } = self;
        let known = &trace.definitions[index].variants[variant];
        let begin = known.next_unknown().filter(|_| !dry);
        let mut shapes = if begin.is_some() { known.fields.clone() } else { vec![Shape::Unknown; len] };
        trace.stack.push((index, variant));
        let next = begin.unwrap_or(0);
        let names = begin.and(field_names);
        let result = read(Parts { trace, shapes: &mut shapes, next, names, dry, depth: depth + 1 });
        trace.stack.pop();
        let definition = &mut trace.definitions[index];
        if result.is_ok() {
            definition.finite.get_or_insert(variant);
        }
        let known = &mut definition.variants[variant];
        if !dry && !known.is_traced {
            known.field_names = field_names;
            known.fields = shapes;
            known.is_traced = result.is_ok();
            known.failures += u32::from(result.is_err());
        }
        result
    }

    fn structure<R>(
        mut self,
        type_name: &'static str,
        name: &'static str,
        field_names: Option<&'static [&'static str]>,
        len: usize,
        read: impl FnOnce(Parts<'_>) -> Result<R, Untraceable>,
    ) -> Result<R, Untraceable> {
        self.step()?;
        let index = self.trace.define(type_name, name, None);
        *self.shape = Shape::Named(index);
        self.dry |= self.trace.is_on_stack(index) || self.trace.is_complete(self.shape);
        self.fields((index, 0), field_names, len, read)
    }
}

macro_rules! plain {
    ($($method:ident $word:literal $visit:ident($($value:expr)?)),* $(,)?) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Untraceable> {
                self.plain($word)?;
                visitor.$visit($($value)?)
            }
        )*
    };
}

macro_rules! opaque {
    ($($method:ident),*) => {
        $(
            fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Untraceable> {
                *self.shape = Shape::Opaque(type_name::<V::Value>());
                Err(Untraceable)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Untraceable;

    // Ones, because zero is refused by the `NonZero` types.
    plain! {
        deserialize_bool "bool" visit_bool(true), deserialize_char "char" visit_char('a'),
        deserialize_i8 "i8" visit_i8(1), deserialize_i16 "i16" visit_i16(1), deserialize_i32 "i32" visit_i32(1),
        deserialize_i64 "i64" visit_i64(1), deserialize_i128 "i128" visit_i128(1),
        deserialize_u8 "u8" visit_u8(1), deserialize_u16 "u16" visit_u16(1), deserialize_u32 "u32" visit_u32(1),
        deserialize_u64 "u64" visit_u64(1), deserialize_u128 "u128" visit_u128(1),
        deserialize_f32 "f32" visit_f32(1.0), deserialize_f64 "f64" visit_f64(1.0),
        deserialize_bytes "bytes" visit_borrowed_bytes(&[]), deserialize_byte_buf "bytes" visit_borrowed_bytes(&[]),
        deserialize_unit "()" visit_unit(),
    }

    opaque! { deserialize_any, deserialize_ignored_any, deserialize_identifier }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Untraceable> {
        let text = TEXTS[self.trace.run % TEXTS.len()];
        self.plain("str")?;
        visitor.visit_borrowed_str(text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Untraceable> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Untraceable> {
        self.step()?;
        if self.dry {
            return visitor.visit_none();
        }
        let (mut shape, depth) = self.inner();
        let result = visitor.visit_some(Tracer { trace: self.trace, shape: &mut shape, dry: false, depth });
        *self.shape = Shape::Option(Box::new(shape));
        result
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Untraceable> {
        self.structure(type_name::<V::Value>(), name, None, 0, |_| visitor.visit_unit())
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        self.structure(type_name::<V::Value>(), name, None, 1, |parts| visitor.visit_newtype_struct(parts.only()))
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Untraceable> {
        self.step()?;
        let (shape, depth) = self.inner();
        let mut shapes = [shape];
        let len = if self.dry { 0 } else { 1 };
        let parts = Parts { trace: self.trace, shapes: &mut shapes[..len], next: 0, names: None, dry: self.dry, depth };
        let result = visitor.visit_seq(parts);
        let [shape] = shapes;
        *self.shape = Shape::List(Box::new(shape));
        result
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value, Untraceable> {
        self.step()?;
        let mut shapes = vec![Shape::Unknown; len];
        let depth = self.depth + 1;
        let parts = Parts { trace: self.trace, shapes: &mut shapes, next: 0, names: None, dry: self.dry, depth };
        let result = visitor.visit_seq(parts);
        *self.shape = Shape::Tuple(shapes);
        result
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        self.structure(type_name::<V::Value>(), name, None, len, |parts| visitor.visit_seq(parts))
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Untraceable> {
        self.step()?;
        let mut shapes = [Shape::Unknown, Shape::Unknown];
        let len = if self.dry { 0 } else { 2 };
        let depth = self.depth + 1;
        let parts = Parts { trace: self.trace, shapes: &mut shapes[..len], next: 0, names: None, dry: self.dry, depth };
        let result = visitor.visit_map(parts);
        *self.shape = Shape::Map(Box::new(shapes.into()));
        result
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        self.structure(type_name::<V::Value>(), name, Some(fields), fields.len(), |parts| parts.named(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        self.step()?;
        let index = self.trace.define(type_name::<V::Value>(), name, Some(variants));
        *self.shape = Shape::Named(index);
        let to_record = self.trace.variant_to_record(index).filter(|_| !self.dry && !self.trace.is_on_stack(index));
        self.dry = to_record.is_none();
        let variant = to_record.or_else(|| self.trace.variant_to_finish(index)).ok_or(Untraceable)?;
        visitor.visit_enum(Chosen { tracer: self, index, variant })
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The fields of a struct, the parts of a tuple, the one element of a list, the key and value of a map's one entry.
struct Parts<'a> {
    trace: &'a mut Trace,
    shapes: &'a mut [Shape],
    next: usize,
    /// The fields' names, when they are given one by one because together they are refused.
    names: Option<&'static [&'static str]>,
    dry: bool,
    depth: usize,
}

impl<'a> Parts<'a> {
    fn named<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Untraceable> {
        match self.names {
            None => visitor.visit_seq(self),
            Some(_) => visitor.visit_map(self),
        }
    }

    fn only(self) -> Tracer<'a> {
        Tracer { trace: self.trace, shape: &mut self.shapes[0], dry: self.dry, depth: self.depth }
    }

    fn next<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Untraceable> {
        let Some(shape) = self.shapes.get_mut(self.next) else { return Ok(None) };
        self.next += 1;
        let result = seed.deserialize(Tracer { trace: self.trace, shape, dry: self.dry, depth: self.depth });
        note_refusal::<S::Value, _>(shape, &result);
        result.map(Some)
    }
}

impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = Untraceable;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Untraceable> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.shapes.len() - self.next)
    }
}

impl<'de> MapAccess<'de> for Parts<'_> {
    type Error = Untraceable;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Untraceable> {
        let Some(names) = self.names else { return self.next(seed) };
        let Some(&name) = names.get(self.next) else { return Ok(None) };
        let name: StrDeserializer<'_, Untraceable> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Untraceable> {
        self.next(seed)?.ok_or(Untraceable)
    }
}

/// An enum whose variant is chosen.
struct Chosen<'a> {
    tracer: Tracer<'a>,
    index: usize,
    variant: usize,
}

impl Chosen<'_> {
    fn read<R>(
        self,
        field_names: Option<&'static [&'static str]>,
        len: usize,
        read: impl FnOnce(Parts<'_>) -> Result<R, Untraceable>,
    ) -> Result<R, Untraceable> {
        self.tracer.fields((self.index, self.variant), field_names, len, read)
    }
}

impl<'de> EnumAccess<'de> for Chosen<'_> {
    type Error = Untraceable;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Untraceable> {
        let by_index: U32Deserializer<Untraceable> = (self.variant as u32).into_deserializer();
        match seed.deserialize(by_index) {
            Ok(value) => Ok((value, self)),
            // A variant that this platform does not have: it is never asked for its fields.
            Err(error) => {
                let known = &mut self.tracer.trace.definitions[self.index].variants[self.variant];
                known.failures += u32::from(!self.tracer.dry);
                Err(error)
            }
        }
    }
}

impl<'de> VariantAccess<'de> for Chosen<'_> {
    type Error = Untraceable;

    fn unit_variant(self) -> Result<(), Untraceable> {
        self.read(None, 0, |_| Ok(()))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Untraceable> {
        self.read(None, 1, |parts| seed.deserialize(parts.only()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Untraceable> {
        self.read(None, len, |parts| visitor.visit_seq(parts))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        self.read(Some(fields), fields.len(), |parts| parts.named(visitor))
    }
}

/// A made-up value was refused, or a bound was met.
#[derive(Debug)]
struct Untraceable;

impl Display for Untraceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot be traced")
    }
}

impl std::error::Error for Untraceable {}

impl serde::de::Error for Untraceable {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

/// Made-up texts, in turn: what is refused once may be taken next time.
const TEXTS: [&str; 3] = ["", "a", "1"];
/// Runs of one type: an enum of as many variants is still seen whole.
const RUNS_MAX: usize = 4096;
/// Runs that fail in a row before the rest counts as untraceable.
const FAILURES_IN_ROW_MAX: usize = 256;
/// Questions of one run: types that unfold to more are no messages.
const STEPS_MAX: usize = 100_000;
/// Levels that are recorded. Only a recursion without a name, through a hand-written `Deserialize`, gets there.
const RECORDED_DEPTH_MAX: usize = 64;
/// Levels after which a run gives up; 128 of them took 96 KiB of stack in an unoptimised build.
const DEPTH_MAX: usize = 128;
