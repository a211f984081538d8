//! What cannot be served: one clear line, before anything is loaded where it can be known before.

use std::net::TcpListener;

use crate::program::{Folder, model};

#[test]
fn files_that_are_no_model() {
    let folder = Folder::new();
    let whole = model();
    let check = |name: &str, bytes: &[u8], expect: &str| {
        folder.write(name, bytes);
        folder.refuses(&["serve", name, "--port", "0"], 1, &format!("cannot load {name}: {expect}"));
        folder.refuses(&["run", name, "hello"], 1, &format!("cannot load {name}: {expect}"));
    };
    check("empty.gguf", b"", "empty.gguf is empty");
    check("text.gguf", b"hello, I am text", "not a GGUF file");
    check("head.gguf", &whole[..1000], "a string of a list at byte 996 needs 8 bytes, but the file has only 4 left");
    check("short.gguf", &whole[..whole.len() - 1], "tensor \"blk.2.ffn_down.weight\"");
    let mut other = whole.clone();
    // A key, the kind of its value in 4 bytes, the length of the text in 8, the text.
    let key = b"general.architecture";
    let at = other.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 12;
    assert_eq!(&other[at..at + 5], b"llama");
    other[at..at + 5].copy_from_slice(b"zebra");
    check("other.gguf", &other, "architecture \"zebra\"");
}

#[test]
fn models_that_are_not_there() {
    let folder = Folder::new();
    folder.refuses(&["serve", "none.gguf"], 2, "`none.gguf` is not there: give the path of a .gguf file");
    folder.refuses(&["run", "gpt-5", "hello"], 2, "`gpt-5` is no model of the catalogue (smollm2)");
    for word in ["deploy", "status", "delete"] {
        folder.refuses(&["serve", word], 2, &format!("`serve {word}` is kept for serving applications"));
    }
}

#[test]
fn shards_that_the_model_cannot_be_cut_into() {
    let folder = Folder::new();
    folder.refuses(&["serve", "tiny.gguf", "--tensor-parallel-size", "4"], 1, "4 shards, but the model has 3 KV heads");
    folder.refuses(&["serve", "tiny.gguf", "--tensor-parallel-size", "0"], 2, "invalid value '0'");
}

#[test]
fn a_port_in_use() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = folder.mobula(&["serve", "tiny.gguf", "--port", &port]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    // The only line: nothing was loaded.
    assert!(errors.starts_with(&format!("error: port {port} is in use on 127.0.0.1")), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn hosts_that_others_reach_without_a_key() {
    let folder = Folder::new();
    for host in ["0.0.0.0", "::"] {
        let expect = format!("--host {host} can be reached from other machines: set MOBULA_API_KEY");
        folder.refuses(&["serve", "tiny.gguf", "--host", host], 2, &expect);
    }
    folder.refuses(&["serve", "tiny.gguf", "--api-key", "two words"], 2, "the API key is empty or has characters");
}
