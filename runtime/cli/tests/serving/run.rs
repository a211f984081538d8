//! `mobula run`: the answer on standard output, all else on standard error.

use crate::program::Folder;

/// What `mobula run tiny.gguf` with these words prints.
fn answer(folder: &Folder, words: &[&str]) -> String {
    let output = folder.mobula(&["run", "tiny.gguf"]).args(words).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("loaded in "), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prompts_are_answered_by_template_and_raw() {
    let folder = Folder::new();
    let chat = answer(&folder, &["the thing", "--max-tokens", "12"]);
    assert!(chat.len() > 1 && chat.ends_with('\n'), "{chat:?}");
    assert_eq!(answer(&folder, &["the thing", "--max-tokens", "12"]), chat, "greedy answers are alike");
    let raw = answer(&folder, &["the thing", "--max-tokens", "12", "--raw"]);
    assert_ne!(raw, chat, "the template makes a difference");
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let folder = Folder::new();
    let seeded = |seed| answer(&folder, &["in", "--max-tokens", "24", "--temperature", "1", "--seed", seed]);
    assert_eq!(seeded("7"), seeded("7"));
    assert_ne!(seeded("7"), seeded("8"));
}

#[test]
fn values_that_cannot_be_are_named() {
    let folder = Folder::new();
    folder.refuses(
        &["run", "tiny.gguf", "hi", "--temperature", "3"],
        2,
        "--temperature 3: expected a number from 0 to 2",
    );
    folder.refuses(&["run", "tiny.gguf", "hi", "--temperature", "NaN"], 2, "--temperature NaN");
    folder.refuses(&["run", "tiny.gguf", "hi", "--max-tokens", "0"], 2, "invalid value '0'");
    let long = "thing ".repeat(1000);
    folder.refuses(&["run", "tiny.gguf", &long], 1, "tokens; the model's context holds 256");
}
