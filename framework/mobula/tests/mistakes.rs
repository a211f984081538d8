//! What the macros refuse, and what they say: each file of `ui` is a mistake, its `.stderr` the answer.

#[test]
fn each_mistake_is_named_at_its_token() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
