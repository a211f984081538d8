//! Tables of inputs and what follows.

use super::*;

fn at(secs: u64) -> Time {
    Time::ZERO + Duration::from_secs(secs)
}

fn outputs(outbox: &mut Outbox) -> Vec<Output> {
    std::iter::from_fn(|| outbox.poll_output()).collect()
}

fn send(seq: u64, crashes: u8) -> Output {
    Output::Send { seq, crashes }
}

fn with(count: u64) -> Outbox {
    let mut outbox = Outbox::default();
    for _ in 0..count {
        outbox.submit(at(0)).unwrap();
    }
    outbox
}

#[test]
fn what_waits_is_sent_in_order_once_the_actor_is_there() {
    let mut outbox = with(2);
    assert_eq!(outputs(&mut outbox), []);
    outbox.handle(at(1), Input::Up);
    outbox.submit(at(1)).unwrap();
    assert_eq!(outputs(&mut outbox), [send(1, 0), send(2, 0), send(3, 0)]);
    for seq in [2, 1, 1, 3, 9] {
        outbox.handle(at(1), Input::Acknowledged { seq });
    }
    let confirmed = [2, 1, 3].map(|seq| Output::Confirmed { seq });
    assert_eq!(outputs(&mut outbox), confirmed, "each once, in the order of the acknowledgements");
    assert!(outbox.is_empty());
}

#[test]
fn only_what_was_handled_counts_a_crash() {
    let mut outbox = with(3);
    // The first may have been handled, and its acknowledgement lost with the process.
    for (handling, crashes) in [(None, 0), (Some(2), 1), (Some(9), 1), (Some(2), 2)] {
        outbox.handle(at(1), Input::Up);
        outputs(&mut outbox);
        outbox.handle(at(1), Input::Lost { handling });
        outbox.handle(at(1), Input::Up);
        assert_eq!(outputs(&mut outbox), [send(1, 0), send(2, crashes), send(3, 0)]);
    }
    outbox.handle(at(2), Input::Lost { handling: Some(2) });
    outbox.handle(at(2), Input::Up);
    let dead = Output::Dead { seq: 2, cause: DeadCause::Poison };
    assert_eq!(outputs(&mut outbox), [dead, send(1, 0), send(3, 0)], "G8: the third crash, and the actor goes on");
}

#[test]
fn a_death_before_anything_was_sent_blames_nothing() {
    let mut outbox = with(1);
    for _ in 0..9 {
        outbox.handle(at(1), Input::Lost { handling: Some(1) });
    }
    outbox.handle(at(1), Input::Up);
    assert_eq!(outputs(&mut outbox), [send(1, 0)]);
}

#[test]
fn age_and_count_are_bounded() {
    let mut outbox = with(1);
    outbox.submit(at(1)).unwrap();
    assert_eq!(outbox.next_timeout(), Some(at(600)));
    outbox.handle(at(600), Input::Tick);
    assert_eq!(outputs(&mut outbox), [Output::Dead { seq: 1, cause: DeadCause::TooOld }]);
    let mut outbox = with(MESSAGES_MAX as u64);
    assert_eq!(outbox.submit(at(0)), Err(Refused::Full { waiting: MESSAGES_MAX }));
    outbox.handle(at(0), Input::Gone);
    assert_eq!(outputs(&mut outbox).len(), MESSAGES_MAX);
    assert_eq!(outbox.submit(at(0)), Err(Refused::Gone));
}

#[test]
fn a_receiver_takes_each_number_once_and_forgets_the_silent() {
    let mut inbox = Inbox::default();
    let taken = [(1, 1), (1, 2), (2, 1), (1, 2), (1, 1), (1, 4), (2, 1)].map(|(sender, seq)| inbox.takes(sender, seq));
    assert_eq!(taken, [true, true, true, false, false, true, false]);
    for sender in 10..10 + SENDERS_MAX as u64 {
        assert!(inbox.takes(sender, 1));
    }
    assert!(inbox.is_bounded());
    assert!(!inbox.takes(10 + SENDERS_MAX as u64 - 1, 1), "the newest is remembered");
}

#[test]
fn what_was_broken_off_is_taken_again_and_nothing_else() {
    let mut reception = Reception::default();
    for seq in 1..=3 {
        assert_eq!(reception.take(7, seq, seq - 1, seq), Taking::Handle);
    }
    // The handling of the first is broken off; all that is not acknowledged comes again.
    assert_eq!(reception.finish(7, 1, false), []);
    let again = [1, 2, 3].map(|seq| reception.take(7, seq, seq - 1, 10 + seq));
    assert_eq!(again, [Taking::Handle, Taking::Wait, Taking::Wait], "OUT-4: the others wait in the mailbox still");
    assert_eq!((reception.finish(7, 2, true), reception.finish(7, 3, true)), (vec![12], vec![13]));
    assert_eq!(reception.finish(7, 1, true), []);
    assert_eq!([1, 2, 3].map(|seq| reception.take(7, seq, seq - 1, 0)), [Taking::Acknowledge; 3]);
    assert_eq!(reception.take(8, 1, 0, 0), Taking::Handle, "another sender counts for itself");
    assert_eq!(check_reception(&reception), Ok(()));
}

#[test]
fn what_was_broken_off_longest_ago_is_forgotten_first() {
    let mut reception = Reception::default();
    let mut break_off = |sender, seq| {
        assert_eq!(reception.take(sender, seq, 0, 0), Taking::Handle);
        reception.finish(sender, seq, false);
    };
    // The first to break off is of the highest sender, and the last of the lowest.
    break_off(9, 1);
    for seq in 1..FAILED_MAX as u64 {
        break_off(5, seq);
    }
    break_off(1, 1);
    assert_eq!(check_reception(&reception), Ok(()), "OUT-7");
    assert_eq!(reception.take(9, 1, 0, 0), Taking::Acknowledge, "a sender that never came back is forgotten");
    assert_eq!(reception.take(5, 1, 0, 0), Taking::Handle);
    assert_eq!(reception.take(1, 1, 0, 0), Taking::Handle);
}

#[test]
fn nothing_passes_what_was_dropped_on_its_way() {
    let (mut outbox, mut reception) = (with(4), Reception::default());
    outbox.handle(at(1), Input::Up);
    let mut come = |outbox: &Outbox, seq| reception.take(7, seq, outbox.before(seq), seq);
    // The receiver had no room for the second, and had some again when the third came.
    assert_eq!([1, 3, 4].map(|seq| come(&outbox, seq)), [Taking::Handle, Taking::Later, Taking::Later]);
    outbox.handle(at(1), Input::Acknowledged { seq: 1 });
    outbox.handle(at(2), Input::Lost { handling: None });
    outbox.handle(at(2), Input::Up);
    assert_eq!([2, 3, 4].map(|seq| come(&outbox, seq)), [Taking::Handle; 3], "OUT-6: all come again, in order");
    for seq in 2..=4 {
        outbox.handle(at(2), Input::Acknowledged { seq });
    }
    let next = outbox.submit(at(2)).unwrap();
    assert_eq!(outbox.before(next), 0);
    assert_eq!(come(&outbox, next), Taking::Handle);
}

#[test]
fn what_will_never_come_keeps_nobody_waiting() {
    let (mut outbox, mut reception) = (with(1), Reception::default());
    outbox.submit(at(1)).unwrap();
    outbox.handle(at(1), Input::Up);
    // The first was dropped on its way, and grew too old before it was sent again.
    assert_eq!(reception.take(7, 2, outbox.before(2), 0), Taking::Later);
    outbox.handle(at(600), Input::Lost { handling: None });
    outbox.handle(at(600), Input::Up);
    assert_eq!(reception.take(7, 2, outbox.before(2), 0), Taking::Handle);
    assert_eq!(reception.take(7, 4, 3, 0), Taking::Later);
}
