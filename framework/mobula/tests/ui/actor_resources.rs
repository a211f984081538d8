//! Amounts are numbers, each said once; those with names of their own stand together.
use mobula::prelude::*;

struct A;
#[actor(num_cpus = "two")]
impl A {
    fn new() -> Self {
        A
    }
}

struct B;
#[actor(num_gpus = -1)]
impl B {
    fn new() -> Self {
        B
    }
}

struct C;
#[actor(resources = 2)]
impl C {
    fn new() -> Self {
        C
    }
}

struct D;
#[actor(resources(licence = 1, licence = 2))]
impl D {
    fn new() -> Self {
        D
    }
}

struct E;
#[actor(resources(num_cpus = 1))]
impl E {
    fn new() -> Self {
        E
    }
}

struct F;
#[actor(num_cpus = 1, num_cpus = 2)]
impl F {
    fn new() -> Self {
        F
    }
}

fn main() {}
