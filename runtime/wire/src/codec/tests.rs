use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

fn check<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T, expect: &[u8]) {
    assert_eq!(encode(&value).unwrap(), expect, "{value:?}");
    assert_eq!(decode::<T>(expect).unwrap(), value);
    let (peer, _) = bincode::serde::decode_from_slice::<T, _>(expect, bincode::config::legacy()).unwrap();
    assert_eq!(peer, value, "bincode reads the same");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Empty,
    Circle(f32),
    Rectangle(u16, i16),
    Named { name: String, tags: Vec<char> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tree {
    value: u8,
    children: Vec<Tree>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct List(Option<Box<List>>);

#[test]
fn layout_never_changes() {
    check(0x0102u16, &[2, 1]);
    check(-2i32, &[0xfe, 0xff, 0xff, 0xff]);
    check(1u128, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    check(1.0f32, &[0, 0, 0x80, 0x3f]);
    check(('a', 'é', '€', '🦀'), "aé€🦀".as_bytes());
    check((true, false, ()), &[1, 0]);
    check((Some(7u8), None::<u8>), &[1, 7, 0]);
    check("hé".to_owned(), &[3, 0, 0, 0, 0, 0, 0, 0, b'h', 0xc3, 0xa9]);
    check(vec![1u8, 2], &[2, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    check(BTreeMap::from([(1u8, 2u8)]), &[1, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    check(Shape::Empty, &[0, 0, 0, 0]);
    check(Shape::Rectangle(3, -1), &[2, 0, 0, 0, 3, 0, 0xff, 0xff]);
    check(Tree { value: 9, children: Vec::new() }, &[9, 0, 0, 0, 0, 0, 0, 0, 0]);
}

fn refused<T: DeserializeOwned + fmt::Debug>(bytes: &[u8], expect: DecodeError) {
    assert_eq!(decode::<T>(bytes).unwrap_err(), expect);
}

#[test]
fn every_wrong_byte_has_a_name() {
    refused::<u32>(&[1, 2], DecodeError::UnexpectedEnd { wanted: 4, left: 2 });
    refused::<u8>(&[1, 2, 3], DecodeError::Trailing { bytes: 2 });
    refused::<bool>(&[2], DecodeError::Bool { found: 2 });
    refused::<Option<u8>>(&[9], DecodeError::OptionTag { found: 9 });
    refused::<char>(&[0x80], DecodeError::Utf8 { valid_bytes: 0 });
    refused::<char>(&[0xff], DecodeError::UnexpectedEnd { wanted: 8, left: 1 });
    refused::<char>(&[], DecodeError::UnexpectedEnd { wanted: 1, left: 0 });
    refused::<String>(&[2, 0, 0, 0, 0, 0, 0, 0, b'a', 0xff], DecodeError::Utf8 { valid_bytes: 1 });
    refused::<String>(&[0xff; 9], DecodeError::UnexpectedEnd { wanted: u64::MAX, left: 1 });
    refused::<Vec<u32>>(&[0xff; 8], DecodeError::Length { len: u64::MAX, left: 0 });
    let message = "invalid value: integer `9`, expected variant index 0 <= i < 4".to_owned();
    refused::<Shape>(&[9, 0, 0, 0], DecodeError::Value { message });
    let error = decode_limited::<Vec<u8>, 8>(&encode(&vec![1u8]).unwrap()).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { bytes: 9, max: 8 });
}

#[test]
fn types_that_look_at_the_data_are_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Loose {
        Number(u8),
    }
    refused::<Loose>(&[1], DecodeError::NotSelfDescribing { asked: "any" });
}

#[test]
fn values_too_large_are_refused_while_they_are_written() {
    let error = encode_onto(Vec::new(), &vec![0u8; 64], 64).unwrap_err();
    assert_eq!(error, EncodeError::TooLarge { bytes: 72, max: 64 });
    assert!(encode_onto(Vec::new(), &vec![0u8; 56], 64).is_ok());
}

#[test]
fn depth_is_bounded_however_the_type_recurs() {
    let deep = |levels: usize| (0..levels).fold(List(None), |inner, _| List(Some(Box::new(inner))));
    // A list's element is two levels, the struct and its option; the innermost has no option inside.
    let fits = DEPTH_MAX / 2 - 1;
    assert_eq!(decode::<List>(&encode(&deep(fits)).unwrap()), Ok(deep(fits)));
    refused::<List>(&encode(&deep(fits + 1)).unwrap(), DecodeError::Depth { max: DEPTH_MAX });
    refused::<List>(&vec![1; 1 << 20], DecodeError::Depth { max: DEPTH_MAX });
    let one_child = [[0, 1, 0, 0, 0, 0, 0, 0, 0]; 100_000];
    refused::<Tree>(one_child.as_flattened(), DecodeError::Depth { max: DEPTH_MAX });
}

#[test]
fn depth_fits_a_small_stack() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only decoded")]
    struct Wide {
        value: u8,
        name: String,
        numbers: Vec<u64>,
        children: Vec<Wide>,
    }
    let decode_all = || {
        let one_child = [[0u8; 17].as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
        refused::<Wide>(&one_child.repeat(1_000), DecodeError::Depth { max: DEPTH_MAX });
        refused::<List>(&[1; 1_000], DecodeError::Depth { max: DEPTH_MAX });
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(decode_all).unwrap().join().unwrap();
}

#[test]
fn a_refusal_quotes_little() {
    let text = "€".repeat(10_000);
    let error = serde::de::Error::custom(&text);
    let DecodeError::Value { message } = error else { panic!("{error:?}") };
    assert_eq!(message.len(), 1023, "cut between characters");
}

#[test]
fn elements_without_bytes_are_counted() {
    let len = |len: u64| len.to_le_bytes();
    assert_eq!(decode::<Vec<()>>(&len(3)).unwrap(), [(); 3]);
    assert_eq!(decode::<Vec<()>>(&len(EMPTY_ELEMENTS_MAX as u64)).unwrap().len(), EMPTY_ELEMENTS_MAX);
    refused::<Vec<()>>(&len(1 << 60), DecodeError::Length { len: 1 << 60, left: 0 });
    // Many lists share one allowance.
    let lists = [len(3), len(EMPTY_ELEMENTS_MAX as u64), len(1), len(0)].concat();
    refused::<Vec<Vec<()>>>(&lists, DecodeError::EmptyElements { max: EMPTY_ELEMENTS_MAX });
}

#[test]
fn announced_lengths_take_no_memory() {
    /// Takes what the size hint promises, as a careless `Deserialize` does.
    #[derive(Debug)]
    struct Trusting(usize);
    impl<'de> Deserialize<'de> for Trusting {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Trusting;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a list")
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Trusting, A::Error> {
                    let hint = list.size_hint().expect("lists know their length");
                    while list.next_element::<u8>()?.is_some() {}
                    Ok(Trusting(hint))
                }
            }
            deserializer.deserialize_seq(Visitor)
        }
    }
    refused::<Trusting>(&[0xff; 100], DecodeError::Length { len: u64::MAX, left: 92 });
    assert_eq!(decode::<Trusting>(&encode(&vec![1u8; 5]).unwrap()).unwrap().0, 5);
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Empty),
        any::<u16>().prop_map(|n| Shape::Circle(f32::from(n))),
        any::<(u16, i16)>().prop_map(|(w, h)| Shape::Rectangle(w, h)),
        any::<(String, Vec<char>)>().prop_map(|(name, tags)| Shape::Named { name, tags }),
    ]
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = any::<u8>().prop_map(|value| Tree { value, children: Vec::new() });
    leaf.prop_recursive(4, 16, 3, |tree| {
        (any::<u8>(), prop::collection::vec(tree, 0..3)).prop_map(|(value, children)| Tree { value, children })
    })
}

type Everything = (Vec<Shape>, HashMap<String, Option<i64>>, Option<Box<(u8, i128)>>, [bool; 3], Tree);

/// Seeded by hand: the same cases in every run.
fn runner(cases: u32) -> proptest::test_runner::TestRunner {
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"mobula-wire codec, every time :)");
    TestRunner::new_with_rng(Config { cases, failure_persistence: None, ..Config::default() }, rng)
}

#[test]
fn reads_what_bincode_reads() {
    let values = (
        prop::collection::vec(shapes(), 0..4),
        prop::collection::hash_map(any::<String>(), any::<Option<i64>>(), 0..4),
        any::<Option<(u8, i128)>>().prop_map(|pair| pair.map(Box::new)),
        any::<[bool; 3]>(),
        trees(),
    );
    runner(300)
        .run(&values, |value: Everything| {
            let bytes = encode(&value).unwrap();
            prop_assert_eq!(&bincode::serde::encode_to_vec(&value, bincode::config::legacy()).unwrap(), &bytes);
            prop_assert_eq!(decode::<Everything>(&bytes).unwrap(), value);
            Ok(())
        })
        .unwrap();
}

/// SplitMix64: the same bytes in every run.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Small numbers mostly: they make lengths and tags plausible.
    fn plausible(&mut self) -> Vec<u8> {
        let len = self.next() % 96;
        let byte = |drawn: u64| if drawn.is_multiple_of(3) { 0 } else { (drawn >> 8) as u8 % 4 };
        (0..len).map(|_| self.next()).map(|n| if n % 7 == 6 { (n >> 8) as u8 } else { byte(n / 7) }).collect()
    }
}

#[test]
fn any_bytes_are_a_value_or_an_error() {
    let mut source = Bytes(2);
    let mut read = 0;
    let leaf = Tree { value: 1, children: Vec::new() };
    let sample: Everything = (
        vec![Shape::Rectangle(1, 2), Shape::Named { name: "ray".into(), tags: vec!['é'] }],
        HashMap::from([("a".into(), None)]),
        Some(Box::new((3, 4))),
        [true, false, true],
        Tree { value: 2, children: vec![leaf.clone(), leaf] },
    );
    let sample = encode(&sample).unwrap();
    for case in 0..50_000 {
        // Every other time a value with one byte changed.
        let mut bytes = if case % 2 == 0 { source.plausible() } else { sample.clone() };
        if let Some(at) = (source.next() as usize).checked_rem(bytes.len()) {
            bytes[at] = source.next() as u8;
        }
        let ours = decode::<Everything>(&bytes);
        if let Ok(value) = &ours {
            read += 1;
            assert_eq!(decode::<Everything>(&encode(value).unwrap()).as_ref(), Ok(value), "case {case}");
        }
        let peer =
            bincode::serde::decode_from_slice::<Everything, _>(&bytes, bincode::config::legacy().with_limit::<4096>());
        match (ours, peer) {
            (Ok(ours), Ok((peer, _))) => assert_eq!(ours, peer, "case {case}"),
            (Err(DecodeError::Trailing { bytes: rest }), Ok((_, len))) => assert_eq!(len + rest, bytes.len()),
            (Err(_), Err(_)) => {}
            (ours, peer) => panic!("case {case}: ours {ours:?}, bincode {peer:?}"),
        }
    }
    assert!(read > 1_000, "{read} of the bytes were a value");
}
