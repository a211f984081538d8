//! Shows that the simulator finds what it is there to find: every planted fault, by the promise that it breaks.

use std::sync::atomic::{AtomicUsize, Ordering};

use mobula_logic::Mutant;
use mobula_sim::campaign::{World, find};
use mobula_sim::{cluster, groups, hauls, mail, names, objects, pressure, tasks, tree};

const PLANTED: &[(Mutant, World, &str)] = &[
    (Mutant::IntensityOffByOne, tree::run, "SUP-3"),
    (Mutant::ForgetBackoff, tree::run, "SUP-4"),
    (Mutant::RestartTemporary, tree::run, "SUP-5"),
    (Mutant::StopInStartOrder, tree::run, "SUP-2"),
    (Mutant::StartInReverseOrder, tree::run, "SUP-1"),
    (Mutant::StopAllAtOnce, tree::run, "SUP-2"),
    (Mutant::EscalateAtOnce, tree::run, "SUP-6"),
    (Mutant::AcceptSuperseded, tasks::run, "TASK-3"),
    (Mutant::ResolveTwice, tasks::run, "TASK-1"),
    (Mutant::RetryOffByOne, tasks::run, "TASK-2"),
    (Mutant::RetryAtMostOnce, tasks::run, "TASK-4"),
    (Mutant::CountBystander, tasks::run, "TASK-5"),
    (Mutant::ForgetRetryWait, tasks::run, "TASK-6"),
    (Mutant::ForgetDeadline, tasks::run, "TASK-7"),
    (Mutant::OverCommit, cluster::run, "SCHED-1"),
    (Mutant::KeepLeasesOnDead, cluster::run, "SCHED-2"),
    (Mutant::KeepLeasesOfDead, cluster::run, "SCHED-3"),
    (Mutant::ForgetAskedOfDead, cluster::run, "SCHED-4"),
    (Mutant::AnyPeerGrants, cluster::run, "SCHED-5"),
    (Mutant::ShareDevices, cluster::run, "SCHED-6"),
    (Mutant::ForgetShare, cluster::run, "SCHED-10"),
    (Mutant::DepthOffByOne, cluster::run, "DISP-4"),
    (Mutant::ForgetLost, cluster::run, "DISP-1"),
    (Mutant::KeepIdle, cluster::run, "DISP-6"),
    (Mutant::SendToRecalled, cluster::run, "DISP-7"),
    (Mutant::LoseHandedBack, cluster::run, "DISP-1"),
    (Mutant::StartBeforeLeft, cluster::run, "HOME-5"),
    (Mutant::SameLifeAgain, cluster::run, "HOME-1"),
    (Mutant::HearStaleLife, cluster::run, "HOME-2"),
    (Mutant::KeepPlace, cluster::run, "HOME-3"),
    (Mutant::ForgetUnacknowledged, cluster::run, "SES-1"),
    (Mutant::DeliverRepeats, cluster::run, "SES-2"),
    (Mutant::FreeOnItsWay, objects::run, "OWN-1"),
    (Mutant::CountBeforeHeld, objects::run, "OWN-2"),
    (Mutant::KeepHoldsOfDead, objects::run, "OWN-3"),
    (Mutant::HearRepeats, objects::run, "OWN-1"),
    (Mutant::ForgetInner, objects::run, "OWN-5"),
    (Mutant::KeepAllRecipes, objects::run, "OWN-6"),
    (Mutant::RunOnceMore, objects::run, "OWN-6"),
    (Mutant::MakeWhileCopied, objects::run, "OWN-7"),
    (Mutant::TrustReplay, objects::run, "OWN-8"),
    (Mutant::ReadInCircles, objects::run, "OWN-11"),
    (Mutant::AskAgainWhereRefused, hauls::run, "HAUL-5"),
    (Mutant::EndWhileWritten, hauls::run, "HAUL-1"),
    (Mutant::AdmitFenced, names::run, "MEM-1"),
    (Mutant::OneRefusal, names::run, "MEM-3"),
    (Mutant::CountHeadStall, names::run, "MEM-3"),
    (Mutant::ForgetSilence, names::run, "MEM-4"),
    (Mutant::AdmitBeforeKept, names::run, "MEM-5"),
    (Mutant::GrantAtLeaseEnd, names::run, "DIR-2"),
    (Mutant::GrantWhileHeld, names::run, "DIR-1"),
    (Mutant::ReviveLease, names::run, "DIR-3"),
    (Mutant::ReuseFencing, names::run, "DIR-4"),
    (Mutant::ForgetLeases, names::run, "DIR-5"),
    (Mutant::TokenTwice, names::run, "DIR-7"),
    (Mutant::CountFromHeard, names::run, "LEASE-2"),
    (Mutant::ForgetToStop, names::run, "LEASE-1"),
    (Mutant::NeverFence, names::run, "LEASE-4"),
    (Mutant::HearOldHead, names::run, "LEASE-5"),
    (Mutant::AnswerBeforeSync, names::run, "HEAD-1"),
    (Mutant::ForgetSent, mail::run, "OUT-1"),
    (Mutant::FourthCrash, mail::run, "OUT-3"),
    (Mutant::BlameAnyDeath, mail::run, "MAIL-5"),
    (Mutant::HandleRepeats, mail::run, "MAIL-2"),
    (Mutant::HandleAhead, mail::run, "MAIL-3"),
    (Mutant::PassInLine, mail::run, "MAIL-1"),
    (Mutant::PullAll, mail::run, "INTAKE-2"),
    (Mutant::TakeRepeatedParts, mail::run, "INTAKE-4"),
    (Mutant::ForgetWaiting, mail::run, "INTAKE-6"),
    (Mutant::ForgetTaken, mail::run, "INTAKE-7"),
    (Mutant::ForgetResumption, mail::run, "ATT-2"),
    (Mutant::WaitForEver, mail::run, "ATT-3"),
    (Mutant::CommitEarly, groups::run, "GRP-3"),
    (Mutant::KeepPlacesOfDead, groups::run, "GRP-4"),
    (Mutant::SpreadLoosely, groups::run, "GRP-5"),
    (Mutant::BelieveCrossed, groups::run, "GRP-6"),
    (Mutant::KeepBeyond, groups::run, "GRP-7"),
    (Mutant::KeepOver, groups::run, "GRP-8"),
    (Mutant::LookOnce, groups::run, "GRP-9"),
    (Mutant::CountRoundsAnew, groups::run, "GRP-10"),
    (Mutant::LeaveUnderReader, pressure::run, "PRESS-1"),
    (Mutant::EvictUnderReader, pressure::run, "PRESS-1"),
    (Mutant::CountFreed, pressure::run, "PRESS-2"),
    (Mutant::ForgetUnread, pressure::run, "PRESS-4"),
    (Mutant::WaitAnew, pressure::run, "PRESS-7"),
    (Mutant::TryFullDisk, pressure::run, "PRESS-8"),
    (Mutant::ReadBeyond, pressure::run, "PRESS-6"),
];

/// A fault that more seeds than this do not show is not looked for.
const SEEDS: u64 = 2_000;

#[test]
fn every_mutant_is_found() {
    let next = AtomicUsize::new(0);
    let look = || {
        let mut unseen = Vec::new();
        while let Some(&(mutant, world, invariant)) = PLANTED.get(next.fetch_add(1, Ordering::Relaxed)) {
            match find(world, mutant, invariant, SEEDS) {
                Some(failure) => println!("{mutant:?}: seed {}: {}", failure.seed, failure.violation),
                None => unseen.push(format!("{mutant:?} was not found by {invariant} in {SEEDS} seeds")),
            }
        }
        unseen
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let unseen: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(look)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a world does not panic")).collect()
    });
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
}

#[test]
fn every_mutant_is_planted() {
    let planted: Vec<Mutant> = PLANTED.iter().map(|(mutant, ..)| *mutant).collect();
    let all =
        [Mutant::ALL, Mutant::OF_OBJECTS, Mutant::OF_HEAD, Mutant::OF_MAIL, Mutant::OF_GROUPS, Mutant::OF_PRESSURE];
    assert_eq!(planted, all.concat());
}

#[test]
fn a_failure_comes_again_and_says_how() {
    let run =
        || tree::run(6, Some(Mutant::IntensityOffByOne)).expect_err("the mutant is found at this seed").to_string();
    let text = run();
    assert_eq!(text, run(), "the same seed gives the same run");
    assert!(text.ends_with("MOBULA_SIM_SEED=6 cargo test -p mobula-sim --test tree"), "{text}");
    assert!(text.contains("is told Exited") && text.contains("SUP-3 does not hold"), "{text}");
    assert_eq!(tree::run(7, None).unwrap(), tree::run(7, None).unwrap());
}
