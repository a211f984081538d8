//! Examples from the user's side, one idea per file, built and run by the checks.
//!
//! | example | idea |
//! |---|---|
//! | `actor` | state behind messages, by macro |
//! | `actor_by_hand` | the same by the traits the macro writes |
//! | `supervision` | a tree that heals |
//! | `word_count` | remote functions and references to their results |
//! | `count_files` | many files, so many tasks at once |
//! | `monte_carlo` | tasks that tell an actor how far they are |
//! | `parameter_server` | shared weights, data that stays where it is |
//! | `placement_group` | actors that get their CPUs together, or not at all |
//! | `crawler` | a tree of actors in which a page kills one |
//! | `stages` | a pipeline whose slowest stage sets the pace |
//! | `zero_copy` | a large array that no stage copies |
//! | `tree_reduce` | a tree of tasks, submitted at once, that a lost node does not change |
//! | `streamed` | results that are read while others are made |
//! | `model_actor` | a language model as an actor of your program |

#![forbid(unsafe_code)]

/// The program of the README, which is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
