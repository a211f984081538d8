//! A 64-bit hash of what a type looks like on the wire, so that two programs notice that they mean different types.
//!
//! The layout of [`codec`](crate::codec) names no fields. So the type itself is asked once, at registration: its
//! `Deserialize` runs against a [tracer](self) that hands out made-up values and writes down what was asked for: names,
//! fields, variants, in order. What cannot be traced (a hand-written `Deserialize` that refuses made-up values, or asks
//! the bytes what they are) counts as its type name. The hash says nothing of meaning: two types that look alike are
//! alike, and `#[schema(version = n)]` is there for a change that does not show.

use std::cell::Cell;

use serde::de::DeserializeOwned;

mod shape;
mod trace;

/// The hash of what `T` looks like on the wire: the same in every build of the same type.
///
/// ```
/// use mobula_wire::schema_hash;
/// mod old { #[derive(serde::Deserialize)] pub struct Add { pub n: u32 } }
/// mod new { #[derive(serde::Deserialize)] pub struct Add { pub count: u32 } }
/// assert_eq!(schema_hash::<old::Add>(), schema_hash::<old::Add>());
/// assert_ne!(schema_hash::<old::Add>(), schema_hash::<new::Add>());
/// ```
pub fn schema_hash<T: DeserializeOwned>() -> u64 {
    name_hash(&describe::<T>())
}

/// The text that [`schema_hash`] hashes: what an error shows when two programs differ.
///
/// ```
/// # use serde::Deserialize;
/// #[derive(Deserialize)]
/// struct Tree { value: u8, children: Vec<Tree> }
/// assert_eq!(mobula_wire::schema::describe::<Option<Tree>>(), "#0?; #0 = struct Tree {value: u8, children: [#0]}");
/// ```
pub fn describe<T: DeserializeOwned>() -> String {
    let _tracing = Tracing { outer: TRACING.replace(true) };
    trace::trace::<T>()
}

/// Whether this thread runs a `Deserialize` only to see what it asks for. Types that look themselves up while they are
/// decoded, such as references to actors, answer with a value that stands for nothing then.
pub fn is_tracing() -> bool {
    TRACING.get()
}

/// The hash of a registered name: FNV-1a, 64 bits, so that it can be made while compiling.
///
/// ```
/// const ADD: u64 = mobula_wire::name_hash("counter::Add");
/// assert_eq!(ADD, 0x9798_4fb6_e0b2_7ef6);
/// ```
pub const fn name_hash(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Ends the tracing also when a `Deserialize` panics.
struct Tracing {
    outer: bool,
}

impl Drop for Tracing {
    fn drop(&mut self) {
        TRACING.set(self.outer);
    }
}

thread_local! {
    static TRACING: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
mod tests;
