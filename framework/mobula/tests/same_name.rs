//! A program in which two actors have one name: they stand in functions of one module. It does not begin.

use mobula::InitError;
use mobula::prelude::*;

fn one() {
    struct Same;

    #[actor]
    impl Same {
        fn new() -> Self {
            Same
        }
    }
}

fn two() {
    struct Same;

    #[actor]
    impl Same {
        fn new() -> Self {
            Same
        }
    }
}

#[test]
fn a_program_with_one_name_for_two_does_not_begin() {
    one();
    two();
    let refused = mobula::__private::run_main(mobula::init()).unwrap_err();
    assert_eq!(refused, InitError::SaidTwice { name: "same_name::Same" });
}
