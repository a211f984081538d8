//! What the reader takes, and what it refuses with which words.

use super::*;
use crate::random::SplitMix64;

fn small() -> Writer {
    Writer::new()
        .key("general.architecture", Value::String("llama".into()))
        .key("a.flag", Value::Bool(true))
        .key("a.number", Value::Unsigned(7))
        .key("a.negative", Value::Signed(-7))
        .key("a.float", Value::Float(0.5))
        .strings("a.strings", &["one", "", "drei"])
        .integers("a.integers", &[1, -2, 3])
        .tensor("norm", &[2], Dtype::F32, [1f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect())
        .tensor("matrix", &[64, 3], Dtype::Q4_1, vec![7; 2 * 20 * 3])
}

fn refused(bytes: Vec<u8>, words: &str) {
    let error = Gguf::from_bytes(bytes).expect_err("a broken file").to_string();
    assert!(error.contains(words), "{error:?} does not say {words:?}");
}

/// Replaces the only occurrence of `from`.
fn patched(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).expect("the bytes to patch");
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn reads_what_was_written() {
    let file = Gguf::from_bytes(small().finish()).unwrap();
    assert_eq!(file.string("general.architecture").unwrap(), "llama");
    assert!(file.boolean("a.flag").unwrap());
    assert_eq!(file.unsigned("a.number").unwrap(), 7);
    assert_eq!(file.float("a.float").unwrap(), 0.5);
    assert_eq!(file.strings("a.strings").unwrap(), ["one", "", "drei"]);
    assert_eq!(file.integers("a.integers").unwrap(), [1, -2, 3]);
    assert_eq!(file.floats_of("norm").unwrap(), [1.0, 2.0]);
    let matrix = file.shaped("matrix", &[64, 3]).unwrap();
    assert_eq!((matrix.columns(), matrix.rows(), matrix.range.len()), (64, 3, 120));
    assert!(file.bytes()[matrix.range.clone()].iter().all(|&b| b == 7));
}

#[test]
fn wrong_questions_name_the_key() {
    let file = Gguf::from_bytes(small().finish()).unwrap();
    let error = |e: Error| e.to_string();
    assert_eq!(error(file.string("nope").unwrap_err()), "key \"nope\" is missing");
    assert_eq!(error(file.string("a.number").unwrap_err()), "key \"a.number\" is the number 7, expected a string");
    assert!(error(file.unsigned("a.negative").unwrap_err()).contains("-7"));
    assert!(error(file.strings("a.integers").unwrap_err()).contains("list of 3 values of I32"));
    assert!(error(file.integers("a.strings").unwrap_err()).contains("expected a list of whole numbers"));
    assert!(error(file.floats_of("matrix").unwrap_err()).contains("Q4_1"));
    assert_eq!(
        error(file.shaped("matrix", &[64, 4]).unwrap_err()),
        "tensor \"matrix\" has dimensions [64, 3], expected [64, 4]"
    );
    assert_eq!(optional(file.unsigned("nope")).unwrap(), None);
}

#[test]
fn refuses_by_name() {
    let good = small().finish();
    refused(vec![], "the magic number at byte 0 needs 4 bytes");
    refused(b"GGML\x03\0\0\0".to_vec(), "not a GGUF file");
    refused(patched(good.clone(), b"GGUF\x03", b"GGUF\x01"), "version 1 is not supported");
    refused(patched(good.clone(), b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), "little endian");
    refused(patched(good.clone(), b"\x02\0\0\0\0\0\0\0", &u64::MAX.to_le_bytes()), "the limit is 65536");
    refused(good[..good.len() - 1].to_vec(), "tensor \"matrix\"");
    refused(patched(good.clone(), b"a.flag\x07\0\0\0\x01", b"a.flag\x07\0\0\0\x02"), "expected 0 or 1");
    refused(patched(good.clone(), b"a.flag\x07", b"a.flag\x63"), "kind 99");
    refused(patched(good.clone(), b"a.flag", b"a.\xff\xfe\xff\xff"), "not UTF-8");
    refused(small().tensor("norm", &[1], Dtype::F32, vec![0; 4]).finish(), "\"norm\": appears twice");
    refused(small().key("a.flag", Value::Bool(true)).finish(), "\"a.flag\": appears twice");
    refused(small().key("general.alignment", Value::Unsigned(3)).finish(), "expected a power of two");
    refused(small().tensor("odd", &[33], Dtype::Q8_0, vec![0; 34]).finish(), "a multiple of 32 for Q8_0");
    refused(small().tensor("none", &[0], Dtype::F32, vec![]).finish(), "rows of 0 elements");
    refused(small().tensor("none", &[1, 0], Dtype::F32, vec![]).finish(), "impossible dimensions");
    refused(small().tensor("huge", &[1 << 40, 1 << 40], Dtype::F32, vec![]).finish(), "impossible dimensions");
    refused(small().tensor("flat", &[], Dtype::F32, vec![]).finish(), "0 dimensions");
    refused(small().tensor("deep", &[1; 9], Dtype::F32, vec![0; 4]).finish(), "9 dimensions");
}

#[test]
fn names_formats_that_come_later() {
    // After the dimensions [64, 3] stands the format's number.
    let dims = [64u64.to_le_bytes(), 3u64.to_le_bytes()].concat();
    let with = |number: u8| patched(small().finish(), &[&dims[..], &[3]].concat(), &[&dims[..], &[number]].concat());
    refused(with(12), "tensor \"matrix\" has format Q4_K, supported: F32, F16, BF16, Q4_0, Q4_1, Q8_0");
    refused(with(200), "has format number 200");
}

#[test]
fn refuses_ranges_outside_or_overlapping() {
    // After the format of "matrix" stands its offset, 32.
    let offset = |n: u64| {
        let from = [3u32.to_le_bytes().to_vec(), 32u64.to_le_bytes().to_vec()].concat();
        let to = [3u32.to_le_bytes().to_vec(), n.to_le_bytes().to_vec()].concat();
        patched(small().finish(), &from, &to)
    };
    refused(offset(0), "overlaps");
    refused(offset(33), "expected a multiple of 32");
    refused(offset(1 << 20), "but the file has");
    refused(offset(u64::MAX), "impossible offset");
    refused(offset(u64::MAX - 31 - 120), "tensor \"matrix\"");
}

#[test]
fn a_long_string_is_refused_before_it_is_read() {
    let long = 8u64.to_le_bytes(); // Nothing else in the file is 8 bytes long but this string.
    let file = Writer::new().key("k", Value::String("12345678".into())).finish();
    refused(patched(file, &long, &(1u64 << 21).to_le_bytes()), "the limit is 1048576");
}

/// Bytes flipped, cut, doubled and overwritten with extreme numbers: an error or a file, never a panic, and whatever
/// opens can be read to its end.
#[test]
fn fuzz() {
    let good = small().finish();
    let mut opened = 0;
    for seed in 0..20_000 {
        let mut random = SplitMix64::new(seed);
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(4) {
            mutate(&mut bytes, &mut random);
        }
        let Ok(file) = Gguf::from_bytes(bytes) else {
            continue;
        };
        opened += 1;
        for tensor in file.tensors() {
            assert!(file.bytes().get(tensor.range.clone()).is_some(), "seed {seed}");
            let _ = (tensor.rows(), tensor.columns());
        }
        for key in file.directory.values.keys() {
            let _ = (file.strings(key), file.integers(key), file.floats(key), file.string(key), file.unsigned(key));
        }
    }
    // Most mutations hit data or names and leave a valid file: both sides of the reader are exercised.
    assert!((1_000..19_000).contains(&opened), "{opened} of 20,000 opened");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut SplitMix64) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len() as u64) as usize;
    match random.below(5) {
        0 => bytes[at] = random.next_u64() as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes.truncate(at),
        3 => {
            let extreme = [0, 1, u64::MAX, i64::MAX as u64, u32::MAX.into(), 1 << 20, 1 << 40];
            let number = extreme[random.below(extreme.len() as u64) as usize].to_le_bytes();
            let end = (at + 8).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        _ => {
            let end = (at + 1 + random.below(64) as usize).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}
