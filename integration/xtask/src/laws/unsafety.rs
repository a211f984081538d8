//! Law 3: `unsafe` lives in the folders named below, and every other crate forbids it at its root.
//!
//! The attribute makes the compiler the judge of a crate's own code; the search for the word also covers tests, benches,
//! examples and build scripts, which are crates of their own without the attribute.

use super::source::Source;

/// Where `unsafe` may stand.
const FOLDERS: &[&str] = &["runtime/store/src/sys/", "gpu/device/", "gpu/kernels/"];

/// Crates that have such a folder, and so cannot forbid it as a whole.
const CRATES: &[&str] = &["runtime/store/", "gpu/device/", "gpu/kernels/"];

/// Breaches of law 3 in `source`.
pub(super) fn findings(source: &Source) -> Vec<String> {
    let file = &source.file;
    let is_in = |folders: &[&str]| folders.iter().any(|folder| file.starts_with(folder));
    let mut findings = Vec::new();
    if !is_in(FOLDERS) {
        let unsafes = source.names.iter().filter(|name| name.path.iter().any(|word| word == "unsafe"));
        findings.extend(
            unsafes.map(|name| format!("{file}:{}: `unsafe` may stand only in {}", name.line, FOLDERS.join(", "))),
        );
    }
    let is_crate_root = file.ends_with("/src/lib.rs") || file.ends_with("/src/main.rs");
    if is_crate_root && !is_in(CRATES) && !forbids_unsafe(source) {
        findings.push(format!("{file}: a crate's root says #![forbid(unsafe_code)]"));
    }
    findings
}

/// Whether `#![forbid(unsafe_code)]` is there: no other construct puts these two words side by side.
fn forbids_unsafe(source: &Source) -> bool {
    source.names.windows(2).any(|pair| pair[0].path == ["forbid"] && pair[1].path == ["unsafe_code"])
}

#[cfg(test)]
mod tests {
    use super::super::source::parse;

    fn check(file: &str, text: &str, expect: &[&str]) {
        let findings = super::findings(&parse(file, text).unwrap());
        assert_eq!(findings.len(), expect.len(), "{findings:?}");
        for (finding, expected) in findings.iter().zip(expect) {
            assert!(finding.starts_with(expected), "{finding} does not start with {expected}");
        }
    }

    #[test]
    fn planted_unsafe_is_found() {
        check(
            "framework/actor/src/cell.rs",
            "fn a() {\n unsafe { b() } }",
            &["framework/actor/src/cell.rs:2: `unsafe`"],
        );
        check("gpu/llm/tests/a.rs", "#[unsafe(no_mangle)] fn a() {}", &["gpu/llm/tests/a.rs:1: `unsafe`"]);
        check("runtime/store/src/arena.rs", "unsafe impl Send for A {}", &["runtime/store/src/arena.rs:1: `unsafe`"]);
    }

    #[test]
    fn a_root_without_the_attribute_is_found() {
        check(
            "framework/serve/src/lib.rs",
            "//! Serves.\nmod a;",
            &["framework/serve/src/lib.rs: a crate's root says"],
        );
        check(
            "runtime/cli/src/main.rs",
            "#![deny(unsafe_code)] fn main() {}",
            &["runtime/cli/src/main.rs: a crate's root"],
        );
        check("runtime/cli/src/main.rs", "#![forbid(unsafe_code)]\nfn main() {}", &[]);
    }

    #[test]
    fn the_named_folders_may() {
        check("gpu/kernels/src/lib.rs", "unsafe fn a() {}", &[]);
        check("runtime/store/src/sys/map.rs", "unsafe fn a() {}", &[]);
        check("runtime/wire/src/frame.rs", "// unsafe\nlet a = \"unsafe\";", &[]);
    }
}
