//! A parameter server: one actor holds the weights, trainers hold the data and push gradients as they have them.
//!
//! Look at `push`: a trainer that computed with weights of too long ago is told so, and takes fresh ones. Nobody waits
//! for the slowest, and the weights stay close to what each trainer saw.
//!
//! Run with `cargo run --example parameter_server`.

use mobula::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Weights {
    version: u64,
    values: Vec<f64>,
}

/// The only place where weights change.
struct Server {
    weights: Weights,
}

#[actor]
impl Server {
    fn new(size: usize) -> Self {
        Server { weights: Weights { version: 0, values: vec![0.0; size] } }
    }

    fn weights(&self) -> Weights {
        self.weights.clone()
    }

    /// Takes one step down `gradient`, unless it was made from weights that are too old.
    fn push(&mut self, made_from: u64, gradient: Vec<f64>) -> Result<Weights, Stale> {
        let behind = self.weights.version - made_from;
        if behind > BEHIND_MAX {
            return Err(Stale { behind });
        }
        for (value, slope) in self.weights.values.iter_mut().zip(gradient) {
            *value -= RATE * slope;
        }
        self.weights.version += 1;
        Ok(self.weights.clone())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Stale {
    behind: u64,
}

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the weights have moved on by {} versions", self.behind)
    }
}

/// Holds one part of the data, which never travels.
struct Trainer {
    points: Vec<(Vec<f64>, f64)>,
    server: ActorRef<Server>,
}

#[actor]
impl Trainer {
    fn new(part: usize, server: ActorRef<Server>) -> Self {
        Trainer { points: points(part), server }
    }

    /// Pushes `steps` gradients, and says how many more were too late.
    async fn train(&mut self, steps: usize) -> Result<usize> {
        let mut weights = self.server.weights().await?;
        let (mut pushed, mut late) = (0, 0);
        while pushed < steps {
            let gradient = gradient(&self.points, &weights.values);
            match self.server.push(weights.version, gradient).await {
                Ok(fresh) => {
                    weights = fresh;
                    pushed += 1;
                }
                Err(CallError::Returned(Stale { .. })) => {
                    weights = self.server.weights().await?;
                    late += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(late)
    }
}

const TRAINERS: usize = 4;
const STEPS: usize = 150;
const BEHIND_MAX: u64 = 2;
const RATE: f64 = 0.05;
/// What the points were made from, and what the server shall find.
const TRUTH: [f64; 3] = [2.0, -1.0, 0.5];

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let server = Server::spawn(TRUTH.len()).name("weights").await?;
    let mut trainers = Vec::new();
    for part in 0..TRAINERS {
        trainers.push(Trainer::spawn(part, server.clone()).spread_nodes().await?);
    }
    let runs: Vec<ObjectRef<usize>> = trainers.iter().map(|trainer| trainer.train(STEPS).submit()).collect();
    for (part, late) in mobula::get(runs).await?.iter().enumerate() {
        println!("trainer {part}: {STEPS} steps, {late} too late");
    }

    let found = server.weights().await?;
    println!("version {}: {:.3?}", found.version, found.values);
    assert_eq!(found.version, (TRAINERS * STEPS) as u64);
    for (value, truth) in found.values.iter().zip(TRUTH) {
        assert!((value - truth).abs() < 0.01, "{value} is not {truth}");
    }
    Ok(())
}

/// The points of one part: the same wherever they are made.
fn points(part: usize) -> Vec<(Vec<f64>, f64)> {
    let point = |number: usize| {
        let at = (part * 64 + number) as f64;
        let inputs = vec![1.0, (at * 0.7).sin(), (at * 1.3).cos()];
        let output = inputs.iter().zip(TRUTH).map(|(input, weight)| input * weight).sum();
        (inputs, output)
    };
    (0..64).map(point).collect()
}

/// Of the mean squared error of a linear model.
fn gradient(points: &[(Vec<f64>, f64)], weights: &[f64]) -> Vec<f64> {
    let mut slopes = vec![0.0; weights.len()];
    for (inputs, output) in points {
        let guess: f64 = inputs.iter().zip(weights).map(|(input, weight)| input * weight).sum();
        for (slope, input) in slopes.iter_mut().zip(inputs) {
            *slope += 2.0 * (guess - output) * input / points.len() as f64;
        }
    }
    slopes
}
