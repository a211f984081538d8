//! `mobula serve` and `mobula run` as a user runs them, with a tiny model of random weights: the program is started, its
//! one line is read, and it is asked over HTTP.

#![forbid(unsafe_code)]

mod http;
mod program;

mod answers;
mod faults;
mod refusals;
mod run;
mod stopping;
