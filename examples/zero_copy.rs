//! A pipeline over a large array that no stage copies: it is written once, and read where it lies.
//!
//! Look at `writer` and at the parameters of type `View`: the array is written in the memory that the processes of a host
//! share, a reference to it goes into each task, and each reads its part of the same bytes. What `scaled` returns is
//! written once too, and looked at by `get_view` where the worker left it. On one host nothing of it passes through a
//! socket; on another it is pulled once for each reader.
//!
//! Run with `cargo run --release --example zero_copy`.

use std::ops::Range;

use mobula::prelude::*;
use mobula::{View, Writer};

const SAMPLES: usize = 1 << 22;
const PARTS: usize = 8;

/// The largest of a part, of an array that is read where it lies.
#[remote]
fn peak(samples: View<Vec<f32>>, part: Range<usize>) -> f32 {
    samples[part].iter().copied().fold(0.0, f32::max)
}

/// All of them, so that the largest is one.
#[remote]
fn scaled(samples: View<Vec<f32>>, peak: f32) -> Vec<f32> {
    samples.iter().map(|sample| sample / peak).collect()
}

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let mut writer: Writer<f32> = mobula::writer(SAMPLES).await?;
    for (number, sample) in writer.iter_mut().enumerate() {
        *sample = wave(number);
    }
    let samples = writer.put();

    let part = SAMPLES / PARTS;
    let peaks: Vec<ObjectRef<f32>> =
        (0..PARTS).map(|number| peak::remote(&samples, number * part..(number + 1) * part)).collect();
    let highest = mobula::get(peaks).await?.iter().map(|peak| **peak).fold(0.0, f32::max);

    let scaled = scaled::remote(&samples, highest);
    let view = mobula::get_view(&scaled).await?;
    println!("{} samples, the highest {highest:.3}, scaled to {:.3}", view.len(), largest(&view));
    assert!((largest(&view) - 1.0).abs() < 1e-6);
    assert!((highest - largest(&mobula::get_view(&samples).await?)).abs() < 1e-6);
    Ok(())
}

fn wave(number: usize) -> f32 {
    (number as f32 * 0.001).sin().abs() * 3.0
}

fn largest(samples: &[f32]) -> f32 {
    samples.iter().copied().fold(0.0, f32::max)
}
