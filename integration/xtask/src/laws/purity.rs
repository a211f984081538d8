//! Law 2: under any folder called `logic` there is no clock, socket, file, thread, async or unseeded randomness.
//!
//! Decisions get time and seeds as inputs and give outputs, so that a simulator can run a thousand clusters a second and
//! repeat any of them. Forbidden is the naming of a thing, which is stricter than its use and needs no type checker.

use super::source::{Name, Source};

/// What may not be named, and what to do instead. A pattern of several segments matches them in a row, anywhere in a
/// path; what any use of a thing must name once, its import, is enough.
const FORBIDDEN: &[(&[&str], &str)] = &[
    (&["async"], "async: let the driver await, and take its answer as an input"),
    (&["await"], "async: let the driver await, and take its answer as an input"),
    (&["Future"], "async: let the driver await, and take its answer as an input"),
    (&["tokio"], "async, sockets and clocks: they belong to the driver"),
    (&["futures_util"], "async: let the driver await, and take its answer as an input"),
    (&["futures"], "async: let the driver await, and take its answer as an input"),
    (&["actix"], "threads and async: they belong to the driver"),
    (&["actix_rt"], "threads and async: they belong to the driver"),
    (&["Instant"], "a clock: take `now` as an argument"),
    (&["SystemTime"], "a clock: take `now` as an argument"),
    (&["std", "net"], "sockets: they belong to the driver"),
    (&["mio"], "sockets: they belong to the driver"),
    (&["quinn"], "sockets: they belong to the driver"),
    (&["std", "fs"], "files: they belong to the driver"),
    (&["std", "os"], "the operating system: it belongs to the driver"),
    (&["std", "env"], "the environment: take settings as arguments"),
    (&["std", "process"], "processes: they belong to the driver"),
    (&["std", "io"], "files and sockets: they belong to the driver"),
    (&["memmap2"], "files: they belong to the driver"),
    (&["rustix"], "the operating system: it belongs to the driver"),
    (&["libc"], "the operating system: it belongs to the driver"),
    (&["nix"], "the operating system: it belongs to the driver"),
    (&["std", "thread"], "threads: they belong to the driver"),
    (&["thread_local"], "threads: keep state in the machine"),
    (&["rayon"], "threads: they belong to the driver"),
    (&["crossbeam"], "threads: they belong to the driver"),
    (&["std", "collections", "HashMap"], "unseeded randomness: it iterates in another order each run, use BTreeMap"),
    (&["std", "collections", "HashSet"], "unseeded randomness: it iterates in another order each run, use BTreeSet"),
    (&["std", "hash", "RandomState"], "unseeded randomness: take a seed as an input"),
    (&["std", "collections", "hash_map"], "unseeded randomness: it iterates in another order each run, use BTreeMap"),
    (&["rand", "rng"], "unseeded randomness: take a seed as an input"),
    (&["rand", "random"], "unseeded randomness: take a seed as an input"),
    (&["thread_rng"], "unseeded randomness: take a seed as an input"),
    (&["OsRng"], "unseeded randomness: take a seed as an input"),
    (&["from_os_rng"], "unseeded randomness: take a seed as an input"),
    (&["from_entropy"], "unseeded randomness: take a seed as an input"),
    (&["getrandom"], "unseeded randomness: take a seed as an input"),
    (&["fastrand"], "unseeded randomness: take a seed as an input"),
    (&["std", "*"], "all of std, and its clocks and files with it: name what is needed"),
    (&["std", "collections", "*"], "all collections, and the unseeded ones with them: name what is needed"),
    (&["std", "time", "*"], "all of std::time, and its clocks with it: name what is needed"),
];

/// Breaches of law 2 in `source`.
pub(super) fn findings(source: &Source) -> Vec<String> {
    let in_logic = source.file.split('/').rev().skip(1).any(|folder| folder == "logic");
    if !in_logic {
        return Vec::new();
    }
    let breaches = source.names.iter().filter_map(|name| forbidden(name).map(|why| (name, why)));
    breaches
        .map(|(name, why)| {
            format!("{}:{}: `{}` under a folder `logic` is {why}", source.file, name.line, name.path.join("::"))
        })
        .collect()
}

fn forbidden(name: &Name) -> Option<&'static str> {
    let contains = |pattern: &[&str]| name.path.windows(pattern.len()).any(|segments| segments == pattern);
    FORBIDDEN.iter().find(|(pattern, _)| contains(pattern)).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::super::source::parse;

    fn check(file: &str, text: &str, expect: &[&str]) {
        let findings = super::findings(&parse(file, text).unwrap());
        assert_eq!(findings.len(), expect.len(), "{text}: {findings:?}");
        for (finding, expected) in findings.iter().zip(expect) {
            assert!(finding.contains(expected), "{finding} does not say {expected}");
        }
    }

    #[test]
    fn planted_impurities_are_found() {
        let file = "runtime/logic/src/task.rs";
        check(file, "use std::time::{Duration, Instant};", &["a clock"]);
        check(file, "fn now() -> u64 { std::time::SystemTime::now() }", &["a clock"]);
        check(file, "use std::net::UdpSocket;", &["sockets"]);
        check(file, "use std::{collections::BTreeMap, fs::File};", &["files"]);
        check(
            file,
            "\nfn a() { std::thread::spawn(|| ()); }",
            &["task.rs:2: `std::thread::spawn` under a folder `logic` is threads"],
        );
        check(file, "async fn a() { b().await }", &["async", "async"]);
        check(file, "use rand::random; use tokio::sync::mpsc;", &["randomness", "async"]);
        check(file, "use std::collections::{HashMap, VecDeque};", &["BTreeMap"]);
        check(file, "use std::collections::*;", &["all collections"]);
        check(file, "macro_rules! m { () => { std::fs::read(\"a\") } }", &["files"]);
    }

    #[test]
    fn pure_code_and_other_folders_are_left_alone() {
        let pure = "//! Never a std::fs.\nuse std::collections::BTreeMap; use std::time::Duration; fn handle(now: Time, seed: u64) {}";
        check("runtime/logic/src/task.rs", pure, &[]);
        check("runtime/node/src/host.rs", "use std::{fs, thread, time::Instant};", &[]);
        check("framework/serve/src/logic.rs", "use std::fs;", &[]);
        check("framework/serve/src/logic/batch.rs", "use std::fs;", &["files"]);
    }
}
