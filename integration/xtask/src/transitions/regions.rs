//! What ran how often: LLVM's tools, which come with the compiler, read what the programs have left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::functions::Place;

/// A region of code, and how often it ran in all programs and all instances of its function.
pub(super) struct Region {
    pub(super) start: Place,
    pub(super) end: Place,
    pub(super) count: u64,
}

/// The tools of the compiler in use: counts are only read by those of its own version.
pub(super) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// # Errors
    /// They are not installed.
    pub(super) fn find() -> Result<Self> {
        let rustc = || Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let root = output(rustc().args(["--print", "sysroot"]))?;
        let host = output(rustc().args(["--print", "host-tuple"]))?;
        let folder = Path::new(root.trim()).join("lib/rustlib").join(host.trim()).join("bin");
        ensure!(folder.join("llvm-cov").exists(), "llvm-cov is missing: `rustup component add llvm-tools`");
        Ok(Self { folder })
    }

    /// The regions of `sources` by file, counted by `programs`, which left their counts in `folder`.
    pub(super) fn read(
        &self,
        folder: &Path,
        programs: &[&Path],
        sources: &str,
    ) -> Result<BTreeMap<String, Vec<Region>>> {
        let counts = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
        let counts: Vec<PathBuf> = counts.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        ensure!(!counts.is_empty(), "no program has left counts in {}", folder.display());
        let merged = folder.join("merged");
        output(self.command("llvm-profdata").args(["merge", "-sparse", "-o"]).arg(&merged).args(counts))?;
        let mut export = self.command("llvm-cov");
        export.args(["export", "-format=text", "-skip-expansions", "-instr-profile"]).arg(&merged);
        programs.iter().for_each(|program| {
            export.arg("-object").arg(program);
        });
        let told: Value = serde_json::from_str(&output(&mut export)?).context("parse what llvm-cov says")?;
        regions(&told, sources).context("llvm-cov says something else than expected")
    }

    fn command(&self, tool: &str) -> Command {
        Command::new(self.folder.join(tool))
    }
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("start {name}"))?;
    ensure!(
        output.status.success(),
        "{name} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).with_context(|| format!("{name} said what is not text"))
}

/// The regions of the sources, tests and invariants left out: those check machines and are none.
fn regions(told: &Value, sources: &str) -> Option<BTreeMap<String, Vec<Region>>> {
    let mut counts = BTreeMap::<(String, Place, Place), u64>::new();
    for function in told["data"][0]["functions"].as_array()? {
        let files = function["filenames"].as_array()?;
        for region in function["regions"].as_array()? {
            let number = |at: usize| region[at].as_u64();
            let place = |at: usize| Some((usize::try_from(number(at)?).ok()?, usize::try_from(number(at + 1)?).ok()?));
            let file = files.get(usize::try_from(number(5)?).ok()?)?.as_str()?;
            let Some((_, file)) = file.split_once(&format!("{sources}/")) else { continue };
            let is_code = number(7)? == 0;
            if is_code && !file.ends_with("tests.rs") && !file.ends_with("invariants.rs") {
                *counts.entry((file.to_owned(), place(0)?, place(2)?)).or_default() += number(4)?;
            }
        }
    }
    let mut regions = BTreeMap::<String, Vec<Region>>::new();
    for ((file, start, end), count) in counts {
        regions.entry(file).or_default().push(Region { start, end, count });
    }
    Some(regions)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn instances_of_a_function_are_added_up() {
        let function = |file: &str, count: u64| json!({"filenames": [format!("/house/runtime/logic/src/{file}")], "regions": [[3, 5, 4, 6, count, 0, 0, 0]]});
        let functions = [function("task/mod.rs", 70), function("task/mod.rs", 50), function("task/tests.rs", 1)];
        let found = regions(&json!({"data": [{"functions": functions}]}), "runtime/logic/src").unwrap();
        let found: Vec<_> = found
            .iter()
            .flat_map(|(file, regions)| regions.iter().map(move |it| (file.as_str(), it.start, it.end, it.count)))
            .collect();
        assert_eq!(found, [("task/mod.rs", (3, 5), (4, 6), 120)]);
        assert!(regions(&json!({"data": []}), "runtime/logic/src").is_none());
    }
}
