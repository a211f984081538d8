//! Values by reference: `put` and `get`.
//!
//! In one process a value is shared, not copied, so Ray's rows that count gigabytes have no counterpart here.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use mobula::{ObjectRef, Value};

use super::within::{a_session, per_second};
use super::{Better, Effort, Row};

/// Operations of one run.
const OPS: usize = 50_000;

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    a_session(async |_| {
        let (mut puts, mut gets, mut put_rates, mut get_rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut many, mut kilobytes) = (Vec::new(), Vec::new());
        let seven = mobula::put(7_u64)?;
        let ten_thousand = (0..10_000_u64).map(mobula::put).collect::<Result<Vec<_>, _>>()?;
        let containing = mobula::put(ten_thousand)?;
        for _ in 0..effort.runs(20) {
            let start = Instant::now();
            for n in 0..OPS as u64 {
                black_box(mobula::put(n)?);
            }
            puts.push(start.elapsed().as_secs_f64() * 1e9 / OPS as f64);
            put_rates.push(per_second(OPS, start));
            let start = Instant::now();
            for _ in 0..OPS {
                black_box(mobula::get(&seven).await?);
            }
            gets.push(start.elapsed().as_secs_f64() * 1e9 / OPS as f64);
            get_rates.push(per_second(OPS, start));
            let start = Instant::now();
            for _ in 0..OPS {
                black_box(mobula::put([0_u8; 1024])?);
            }
            kilobytes.push(start.elapsed().as_secs_f64() * 1e9 / OPS as f64);
            let start = Instant::now();
            let refs: Value<Vec<ObjectRef<u64>>> = mobula::get(&containing).await?;
            black_box(mobula::get(&*refs).await?);
            many.push(per_second(1, start));
        }
        Ok(vec![
            Row::of("put, a u64", "ns", Better::Lower, puts),
            Row::of("put, 1 KB", "ns", Better::Lower, kilobytes),
            Row::of("get, a u64", "ns", Better::Lower, gets),
            Row::of("single client put calls (Plasma Store) per second", "1/s", Better::Higher, put_rates),
            Row::of("single client get calls (Plasma Store) per second", "1/s", Better::Higher, get_rates),
            Row::of("single client get object containing 10k refs per second", "1/s", Better::Higher, many),
        ])
    })
}
