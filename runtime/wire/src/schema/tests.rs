#![allow(dead_code, reason = "the types are only traced")]

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::*;

fn check<T: DeserializeOwned>(expect: &str) {
    assert_eq!(describe::<T>(), expect);
    assert_eq!(schema_hash::<T>(), name_hash(expect), "the hash is that of the text");
}

#[test]
fn plain_types_and_what_holds_them() {
    check::<u8>("u8");
    check::<String>("str");
    check::<char>("char");
    check::<()>("()");
    check::<NonZeroU32>("u32");
    check::<Box<[f32]>>("[f32]");
    check::<Vec<Option<(u8, i64)>>>("[(u8, i64)?]");
    check::<HashMap<String, [bool; 2]>>("{str: (bool, bool)}");
    check::<BTreeMap<u16, ()>>("{u16: ()}");
    check::<Arc<str>>("str");
    check::<PhantomData<u8>>("#0; #0 = struct PhantomData");
    check::<Duration>("#0; #0 = struct Duration {secs: u64, nanos: u32}");
    check::<Result<u8, String>>("#0; #0 = enum Result {Ok(u8), Err(str)}");
    check::<IpAddr>(
        "#0; #0 = enum IpAddr {V4((u8, u8, u8, u8)), V6((u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8))}",
    );
}

#[derive(Deserialize)]
struct Unit;
#[derive(Deserialize)]
struct Meters(f64);
#[derive(Deserialize)]
struct Pair(u8, Meters);
#[derive(Deserialize)]
enum Shape {
    Empty,
    Circle(Meters),
    Rectangle(u16, u16),
    Named { name: String, tags: Vec<String> },
}
#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next: Option<u64>,
}

#[test]
fn named_types() {
    check::<Unit>("#0; #0 = struct Unit");
    check::<Pair>("#0; #0 = struct Pair(u8, #1); #1 = struct Meters(f64)");
    check::<Shape>(
        "#0; #0 = enum Shape {Empty, Circle(#1), Rectangle(u16, u16), Named{name: str, tags: [str]}}; \
         #1 = struct Meters(f64)",
    );
    check::<(Page<u8>, Page<u16>)>(
        "(#0, #1); #0 = struct Page {items: [u8], next: u64?}; #1 = struct Page {items: [u16], next: u64?}",
    );
}

/// The same type name in another module, with one thing changed.
macro_rules! changed {
    ($($case:ident { $($body:tt)* })*) => {
        $(mod $case { #[derive(serde::Deserialize)] pub(super) $($body)* })*
    };
}

changed! {
    same { struct Add { n: u32, by: u8 } }
    renamed { struct Add { count: u32, by: u8 } }
    reordered { struct Add { by: u8, n: u32 } }
    retyped { struct Add { n: u64, by: u8 } }
    optional { struct Add { n: Option<u32>, by: u8 } }
    longer { struct Add { n: u32, by: u8, more: () } }
    by_position { struct Add(u32, u8); }
    two { enum Add { One, Two } }
    three { enum Add { One, Two, Three } }
    swapped { enum Add { Two, One } }
    filled { enum Add { One, Two(u8) } }
}

#[test]
fn every_change_shows() {
    let hashes = [
        schema_hash::<same::Add>(),
        schema_hash::<renamed::Add>(),
        schema_hash::<reordered::Add>(),
        schema_hash::<retyped::Add>(),
        schema_hash::<optional::Add>(),
        schema_hash::<longer::Add>(),
        schema_hash::<by_position::Add>(),
        schema_hash::<two::Add>(),
        schema_hash::<three::Add>(),
        schema_hash::<swapped::Add>(),
        schema_hash::<filled::Add>(),
        schema_hash::<Vec<same::Add>>(),
        schema_hash::<Option<same::Add>>(),
        schema_hash::<(same::Add,)>(),
        schema_hash::<HashMap<u8, same::Add>>(),
    ];
    let distinct: std::collections::BTreeSet<_> = hashes.iter().collect();
    assert_eq!(distinct.len(), hashes.len());
}

#[derive(Deserialize)]
struct List {
    value: u8,
    next: Option<Box<List>>,
}
#[derive(Deserialize)]
struct Bare(Option<Box<Bare>>);
#[derive(Deserialize)]
enum Expr {
    Add(Box<Expr>, Box<Expr>),
    Let { name: String, value: Box<Expr>, body: Box<Expr> },
    Block(Vec<Statement>),
    Number(i64),
}
#[derive(Deserialize)]
enum Statement {
    Expr(Expr),
    While { condition: Expr, body: Vec<Statement> },
    Stop(Reason),
}
#[derive(Deserialize)]
enum Reason {
    Done,
    Because(Box<Expr>),
}
#[derive(Deserialize)]
enum OnlyThroughItself {
    A(Box<Other>),
}
#[derive(Deserialize)]
enum Other {
    X(Box<OnlyThroughItself>),
    Y,
}

#[test]
fn recursive_types_end() {
    check::<List>("#0; #0 = struct List {value: u8, next: #0?}");
    check::<Bare>("#0; #0 = struct Bare(#0?)");
    check::<OnlyThroughItself>("#0; #0 = enum OnlyThroughItself {A(#1)}; #1 = enum Other {X(#0), Y}");
    check::<Expr>(
        "#0; #0 = enum Expr {Add(#0, #0), Let{name: str, value: #0, body: #0}, Block([#1]), Number(i64)}; \
         #1 = enum Statement {Expr(#0), While{condition: #0, body: [#1]}, Stop(#2)}; \
         #2 = enum Reason {Done, Because(#0)}",
    );
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Email(String);

impl TryFrom<String> for Email {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.contains('@') { Ok(Self(text)) } else { Err(format!("no @ in `{text}`")) }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() { Err("empty".into()) } else { Ok(Self(text)) }
    }
}

#[derive(Deserialize)]
struct Letter {
    from: Name,
    to: Email,
    loose: Loose,
    weight: u8,
    page: Option<Page<u8>>,
}

#[derive(Deserialize)]
enum Mail {
    Lost,
    Sent { to: Email, copies: u8 },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Loose {
    Number(u8),
    Text(String),
}

#[test]
fn what_cannot_be_traced_counts_as_its_type_name() {
    check::<Loose>("<mobula_wire::schema::tests::Loose>");
    check::<Name>("str");
    check::<Vec<Email>>("[<mobula_wire::schema::tests::Email>]");
    check::<Letter>(
        "#0; #0 = struct Letter {from: str, to: <mobula_wire::schema::tests::Email>, \
         loose: <mobula_wire::schema::tests::Loose>, weight: u8, page: #1?}; \
         #1 = struct Page {items: [u8], next: u64?}",
    );
    check::<Mail>("#0; #0 = enum Mail {Lost, Sent{to: <mobula_wire::schema::tests::Email>, copies: u8}}");
}

struct Endless;

impl<'de> Deserialize<'de> for Endless {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Self>::deserialize(deserializer).map(|_| Self)
    }
}

#[test]
fn recursion_without_a_name_ends() {
    let text = describe::<Endless>();
    assert!(text.starts_with("[[[[") && text.len() < 200, "{text}");
}

#[test]
fn tracing_is_told_and_ends_with_a_panic() {
    struct Asks;
    impl<'de> Deserialize<'de> for Asks {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            assert!(!is_tracing(), "traced");
            Ok(Self)
        }
    }
    assert!(!is_tracing());
    std::panic::catch_unwind(describe::<Asks>).unwrap_err();
    assert!(!is_tracing());
}

#[test]
fn names_hash_as_fnv_1a_does() {
    // From the reference's list of test vectors.
    assert_eq!(name_hash(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(name_hash("a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(name_hash("foobar"), 0x8594_4171_f739_67e8);
}
