use mobula_types::Epoch;

use super::*;

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn head(epoch: u64) -> HeadId {
    HeadId { epoch: Epoch(epoch), nonce: epoch * 10 }
}

fn outputs(lease: &mut Lease) -> Vec<Output> {
    std::iter::from_fn(|| lease.poll_output()).collect()
}

fn registered(term: u64, sent: u64, is_new: bool) -> Input {
    Input::Registered { head: head(1), term, sent: at(sent), is_new }
}

fn answered(number: u64, term: u64) -> Input {
    Input::Answered { head: head(1), number, term }
}

/// Each input at its time, and what the machine said to all of them.
fn run(inputs: &[(u64, Input)]) -> (Lease, Vec<Output>) {
    let mut lease = Lease::default();
    let mut said = Vec::new();
    for (ms, input) in inputs {
        lease.handle(at(*ms), *input);
        said.extend(outputs(&mut lease));
    }
    (lease, said)
}

#[test]
fn tables() {
    let told = Output::Fence { why: Why::DeclaredDead };
    let alone = Output::Fence { why: Why::NoHead };
    let stop = Output::StopNamed;
    let old = Input::Answered { head: HeadId { epoch: Epoch(1), nonce: 99 }, number: 1, term: 1 };
    let begun = (0, registered(1, 0, true));
    type Row<'a> = (&'a str, &'a [(u64, Input)], bool, &'a [Output]);
    let tables: &[Row<'_>] = &[
        ("a node without a head has no names", &[(5, Input::Tick)], false, &[]),
        ("LEASE-1: it ends a second early", &[begun, (9_000, Input::Tick)], false, &[stop]),
        ("not earlier", &[begun, (8_999, Input::Tick)], true, &[]),
        (
            "LEASE-2: an answer renews from when its beat was sent",
            &[begun, (1_000, Input::Sent { number: 1 }), (8_000, answered(1, 1)), (9_999, Input::Tick)],
            true,
            &[],
        ),
        (
            "and not a moment more",
            &[begun, (1_000, Input::Sent { number: 1 }), (8_000, answered(1, 1)), (10_000, Input::Tick)],
            false,
            &[stop],
        ),
        (
            "an answer that comes twice renews nothing",
            &[
                begun,
                (1_000, Input::Sent { number: 1 }),
                (2_000, Input::Sent { number: 2 }),
                (3_000, answered(2, 1)),
                (3_000, answered(1, 1)),
                (10_999, Input::Tick),
            ],
            true,
            &[],
        ),
        ("what was never sent renews nothing", &[begun, (8_000, answered(7, 1)), (9_000, Input::Tick)], false, &[stop]),
        (
            "LEASE-3: a new term stops what the one before allowed",
            &[begun, (1_000, Input::Sent { number: 1 }), (2_000, answered(1, 2))],
            true,
            &[stop],
        ),
        (
            "what was lost comes back with the next answer",
            &[begun, (9_000, Input::Sent { number: 1 }), (9_100, answered(1, 2))],
            true,
            &[stop],
        ),
        ("LEASE-4: alone for 30 s", &[begun, (9_000, Input::Tick), (30_000, Input::Tick)], false, &[stop, alone]),
        ("at once, when nobody looked", &[begun, (40_000, Input::Tick)], false, &[stop, alone]),
        (
            "told, it fences itself once",
            &[begun, (1, Input::Fenced { head: head(1) }), (2, Input::Fenced { head: head(1) })],
            false,
            &[stop, told],
        ),
        (
            "what comes later is not heard",
            &[begun, (0, Input::Sent { number: 1 }), (1, Input::Fenced { head: head(1) }), (2, answered(1, 1))],
            false,
            &[stop, told],
        ),
        (
            "until it is admitted again",
            &[begun, (1, Input::Fenced { head: head(1) }), (9, registered(3, 5, true))],
            true,
            &[stop, told],
        ),
        (
            "LEASE-5: a copy of the head is not heard",
            &[begun, (1_000, Input::Sent { number: 1 }), (2_000, old), (9_000, Input::Tick)],
            false,
            &[stop],
        ),
        (
            "a later head may count its terms anew",
            &[
                begun,
                (5_000, Input::Registered { head: head(2), term: 9, sent: at(4_000), is_new: false }),
                (12_999, Input::Tick),
            ],
            true,
            &[],
        ),
        ("a registration that was answered too late renews nothing", &[(9_500, registered(1, 0, true))], false, &[]),
    ];
    for (name, inputs, may_act, expect) in tables {
        let (lease, said) = run(inputs);
        assert_eq!((lease.may_act(lease.looked), &said[..]), (*may_act, *expect), "{name}");
    }
}

#[test]
fn a_grant_of_an_earlier_term_is_not_used() {
    let (lease, _) = run(&[(0, registered(1, 0, true)), (1, Input::Sent { number: 1 }), (2, answered(1, 2))]);
    assert!(lease.accepts(at(2), 2) && !lease.accepts(at(2), 1) && !lease.accepts(at(9_001), 2));
}

#[test]
fn beats_without_an_answer_are_bounded() {
    let mut lease = Lease::default();
    lease.handle(at(0), registered(1, 0, true));
    (0..1_000).for_each(|number| lease.handle(at(0), Input::Sent { number }));
    assert_eq!(lease.sent.len(), SENT_MAX);
    lease.handle(at(1), answered(999, 1));
    assert_eq!(lease.sent.len(), 1);
}

/// LEASE-1 from outside: whatever is lost or late, nobody acts 9 s after the last renewal that the head heard was sent.
#[test]
fn whatever_the_network_does_the_node_ends_before_the_head_grants_again() {
    for seed in 0..200u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut lease = Lease::default();
        lease.handle(at(0), registered(1, 0, true));
        // The head's side: until when it takes the node for the holder.
        let mut ends = at(0) + LEASE;
        let mut term = 1;
        let mut answers: Vec<(u64, u64, u64)> = Vec::new();
        let loss = draw(100);
        for step in 0..600u64 {
            let now = step * 100;
            lease.handle(at(now), Input::Tick);
            answers.retain(|(due, number, term)| {
                let is_due = *due <= now;
                if is_due {
                    lease.handle(at(now), answered(*number, *term));
                }
                !is_due
            });
            if step % 2 == 0 {
                lease.handle(at(now), Input::Sent { number: step });
                if draw(100) >= loss {
                    // Heard within 3 s, answered within 3 s more.
                    let heard = now + draw(3_000);
                    term += u64::from(at(heard) >= ends);
                    ends = ends.max(at(heard) + LEASE);
                    answers.push((heard + draw(3_000), step, term));
                }
            }
            assert!(
                !lease.may_act(at(now)) || at(now) < ends,
                "seed {seed}: acts at {now} ms, the head ends at {ends:?}"
            );
        }
    }
}
