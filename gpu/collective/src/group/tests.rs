//! The promises COL-1 to COL-3, with real threads.

use super::*;
use std::thread;
use std::time::Duration;

fn soon() -> Instant {
    // Far beyond what any of these takes; a hang ends as a failure.
    Instant::now() + Duration::from_secs(30)
}

/// Runs `each` on a thread per rank and gives their results by rank.
fn together<T: Send>(name: &str, size: usize, each: impl Fn(Member) -> T + Sync) -> Vec<T> {
    thread::scope(|threads| {
        let spawned: Vec<_> = (0..size)
            .map(|rank| {
                let each = &each;
                threads.spawn(move || each(join(name, rank, size).unwrap()))
            })
            .collect();
        spawned.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A number whose sums depend on their order in the last bits.
fn value(rank: usize, round: usize, i: usize) -> f32 {
    1.0 / (1.0 + rank as f32 * 0.37 + round as f32 * 0.11 + i as f32)
}

#[test]
fn sums_run_in_the_order_of_ranks() {
    for size in 1..=5 {
        let sums = together(&format!("order {size}"), size, |mut member| {
            let mut values: Vec<f32> = (0..576).map(|i| value(member.rank(), 0, i)).collect();
            member.all_reduce_sum(&mut values, soon()).unwrap();
            member.leave();
            values
        });
        let expected: Vec<f32> =
            (0..576).map(|i| (1..size).fold(value(0, 0, i), |sum, rank| sum + value(rank, 0, i))).collect();
        assert!(sums.iter().all(|sum| *sum == expected), "COL-1");
    }
}

#[test]
fn ten_thousand_rounds_do_not_mix() {
    for size in [2, 3, 4] {
        together(&format!("rounds {size}"), size, |mut member| {
            for round in 0..10_000 {
                let mut values = [value(member.rank(), round, 0); 3];
                member.all_reduce_sum(&mut values, soon()).unwrap();
                let expected = (1..size).fold(value(0, round, 0), |sum, rank| sum + value(rank, round, 0));
                assert_eq!(values, [expected; 3], "round {round}");
            }
            member.leave();
        });
    }
}

#[test]
fn a_late_member_is_waited_for() {
    let sums = together("late", 2, |mut member| {
        let mut values = [1.0];
        for round in 0..4 {
            // Longer than anybody spins, so the other one parks; each is late in turn.
            if round % 2 == member.rank() {
                thread::sleep(Duration::from_millis(5));
            }
            member.all_reduce_sum(&mut values, soon()).unwrap();
        }
        member.leave();
        values[0]
    });
    assert_eq!(sums, [16.0, 16.0]);
}

#[test]
fn a_panic_of_one_ends_the_wait_of_all() {
    let results = thread::scope(|threads| {
        let spawned: Vec<_> = (0..3)
            .map(|rank| {
                threads.spawn(move || {
                    let mut member = join("panic", rank, 3).unwrap();
                    member.barrier(soon()).unwrap();
                    assert_ne!(rank, 1, "this is the death that the test is about");
                    member.barrier(soon())
                })
            })
            .collect();
        spawned.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    assert!(results[1].is_err());
    for survivor in [0, 2] {
        let error = results[survivor].as_ref().unwrap().clone().unwrap_err();
        assert_eq!(error, Error::Aborted { rank: 1, group: "panic".into() }, "COL-2");
    }
}

#[test]
fn an_abort_reaches_the_parked() {
    let results = together("abort", 2, |mut member| {
        if member.rank() == 0 {
            return member.barrier(soon());
        }
        let aborter = member.aborter();
        thread::sleep(Duration::from_millis(20));
        thread::spawn(move || aborter.abort()).join().unwrap();
        member.barrier(soon())
    });
    let aborted = Err(Error::Aborted { rank: 1, group: "abort".into() });
    assert_eq!(results, [aborted.clone(), aborted], "COL-2, COL-3");
}

#[test]
fn nobody_waits_beyond_the_deadline() {
    let mut member = join("deadline", 0, 2).unwrap();
    let started = Instant::now();
    let error = member.all_reduce_sum(&mut [0.0], started + Duration::from_millis(30)).unwrap_err();
    assert_eq!(error, Error::DeadlineExceeded { size: 2, group: "deadline".into() });
    assert!(started.elapsed() < Duration::from_secs(5));
    // Who comes later learns that it was given up, at once.
    let late = member.barrier(soon()).unwrap_err();
    assert_eq!(late, Error::Aborted { rank: 0, group: "deadline".into() }, "COL-3");
}

#[test]
fn different_lengths_are_an_error_on_all_or_an_abort() {
    let errors = together("length", 2, |mut member| {
        let mut values = vec![0.0; 2 + member.rank()];
        member.all_reduce_sum(&mut values, soon()).unwrap_err()
    });
    for (rank, error) in errors.iter().enumerate() {
        let (other, found, expected) = (1 - rank, 3 - rank, 2 + rank);
        assert_eq!(*error, Error::Length { rank: other, group: "length".into(), found, expected });
    }
}

#[test]
fn a_rank_joins_once_and_a_name_is_free_again() {
    let first = join("names", 0, 2).unwrap();
    assert_eq!(join("names", 0, 2).unwrap_err(), JoinError::Taken { group: "names".into(), rank: 0 });
    assert_eq!(join("names", 1, 3).unwrap_err(), JoinError::Size { group: "names".into(), expected: 2, found: 3 });
    assert_eq!(join("names", 2, 2).unwrap_err(), JoinError::Rank { rank: 2, size: 2 });
    assert!(join("names", 0, 65).is_err());
    // An aborted group does not keep its name, even while a member of it lives.
    first.abort();
    let second = join("names", 0, 3).unwrap();
    drop(first);
    assert_eq!(join("names", 0, 3).unwrap_err(), JoinError::Taken { group: "names".into(), rank: 0 });
    second.leave();
    assert!(!GROUPS.lock().contains_key("names"), "the entry went with its last member");
}

/// Not a test of speed, but it shows: about sixty of these make a token.
#[test]
fn prints_what_a_round_costs() {
    let took = together("cost", 2, |mut member| {
        let mut values = [0.0; 576];
        let started = Instant::now();
        for _ in 0..2_000 {
            member.all_reduce_sum(&mut values, soon()).unwrap();
        }
        member.leave();
        started.elapsed() / 2_000
    });
    println!("an all-reduce of 576 floats between 2 threads takes {:?}", took[0]);
    assert!(took[0] < Duration::from_millis(50));
}
