//! Sessions from begin to end, which the tests of the suite are given.

use mobula::prelude::*;
use mobula::{Count, InitError, LookupError, Outcome, SpawnError, WhenFull};

/// Given when a message waits behind the one that is held.
static ENOUGH: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

struct Counter(usize);

#[actor]
impl Counter {
    fn new(start: usize) -> Self {
        Counter(start)
    }

    fn add(&mut self, n: usize) -> usize {
        self.0 += n;
        self.0
    }

    fn panic(&mut self) {
        panic!("counted")
    }

    /// Ends when another message waits.
    async fn hold_and_stop(&mut self, ctx: &Context<Self>) {
        ENOUGH.acquire().await.unwrap().forget();
        ctx.stop();
    }
}

#[remote]
fn double(n: usize) -> usize {
    2 * n
}

/// Everything says that there is no session, and nothing waits for one.
async fn says_that_there_is_none(counter: Option<&ActorRef<Counter>>) {
    const NONE: CallError = CallError::NotStarted(NotStarted::NoSession);
    assert_eq!(mobula::put(1).unwrap_err(), NONE);
    assert_eq!(double::remote(1).await.unwrap_err(), NONE.widen());
    assert_eq!(Counter::spawn(1).await.unwrap_err(), SpawnError::NotStarted(NotStarted::NoSession));
    assert_eq!(mobula::actor::<Counter>("none").await.unwrap_err(), LookupError::NoSession);
    if let Some(counter) = counter {
        assert!(matches!(counter.add(1).await, Err(CallError::NotStarted(_))));
        assert!(counter.add(1).tell().is_err());
    }
}

/// Held where they run until they are given.
static HELD: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

/// Told of each that runs.
static BEGUN: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

#[remote]
fn hold(n: usize) -> usize {
    BEGUN.add_permits(1);
    loop {
        match HELD.try_acquire() {
            Ok(held) => break held.forget(),
            Err(_) => std::thread::yield_now(),
        }
    }
    n
}

/// Submits more than fit, and waits for each place: its CPU is another's meanwhile.
#[remote]
fn fan_out(count: usize) -> usize {
    let doubled: Vec<_> = (0..count).map(double::remote).collect();
    doubled.iter().map(|doubled| *doubled.wait().unwrap()).sum()
}

/// One runs and two wait; there is room for no more.
async fn what_finds_the_queue_full(config: Config) {
    const FULL: CallError<mobula::ErrorChain> = CallError::NotStarted(NotStarted::QueueFull { waiting: 2 });
    let session = mobula::init_with(config.compute_threads(1).queue_tasks_max(2)).await.unwrap();
    BEGUN.forget_permits(usize::MAX);
    let mut held = vec![hold::remote(0)];
    BEGUN.acquire().await.unwrap().forget();
    held.extend((1..=2).map(hold::remote));
    assert_eq!(double::options().when_full(WhenFull::Refuse).remote(1).await.unwrap_err(), FULL);
    let async_code = tokio::spawn(async { double::remote(1).await.map(|_| ()) });
    assert_eq!(async_code.await.unwrap().unwrap_err(), FULL, "a thread that others share is not held up");
    let late = double::options().timeout(mobula::millis(5)).remote(1).await.unwrap_err();
    assert_eq!(late, CallError::DeadlineExceeded { given: Some(mobula::millis(5)) });
    let counted = |count| session.counters().of(count);
    assert_eq!((counted(Count::Refused), counted(Count::Waited)), (2, 1));

    let waiting = std::thread::spawn(|| double::remote(21));
    while counted(Count::Waited) < 2 {
        tokio::task::yield_now().await;
    }
    let mut room = Box::pin(mobula::task_room());
    assert!(futures_util::poll!(&mut room).is_pending() && !waiting.is_finished());
    HELD.add_permits(held.len());
    assert_eq!(*waiting.join().unwrap().await.unwrap(), 42);
    assert_eq!(mobula::get(held).await.unwrap().len(), 3);
    room.await.unwrap();
    // What runs may submit more than fits.
    assert_eq!(*fan_out::remote(100).await.unwrap(), 2 * (0..100).sum::<usize>());
    assert_eq!(counted(Count::Refused), 2);
    session.stop().await;
}

#[remote]
fn length(bytes: Vec<u8>) -> usize {
    bytes.len()
}

/// Given when the bytes are to come.
static COMES: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

#[remote]
async fn bytes_later(count: usize) -> Vec<u8> {
    COMES.acquire().await.unwrap().forget();
    vec![0; count]
}

/// One runs, and what waits has no room for as many bytes again. Those are known when they are encoded.
async fn what_finds_too_many_bytes(config: Config) {
    const BYTES: usize = 1 << 12;
    let config = config.compute_threads(1).queue_bytes_max(BYTES as u64 * 3 / 2);
    let session = mobula::init_with(config).await.unwrap();
    let counted = |count| session.counters().of(count);
    BEGUN.forget_permits(usize::MAX);
    let held = hold::remote(1);
    BEGUN.acquire().await.unwrap().forget();
    let first = length::remote(vec![0; BYTES]);
    let too_many = length::options().when_full(WhenFull::Refuse).remote(vec![0; BYTES]).await.unwrap_err();
    assert!(matches!(too_many, CallError::NotStarted(NotStarted::QueueFull { .. })), "{too_many}");
    let never = length::remote(vec![0; 2 * BYTES]).await.unwrap_err();
    assert!(matches!(never, CallError::NotStarted(NotStarted::QueueFull { .. })), "nobody waits for what cannot be");
    // Its argument comes when the submission is long over: it is held back, and no thread with it.
    let late = length::remote(bytes_later::remote(BYTES));
    COMES.add_permits(1);
    while counted(Count::Waited) < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!((counted(Count::Refused), late.is_ready()), (2, false));
    HELD.add_permits(1);
    assert_eq!((*held.await.unwrap(), *first.await.unwrap(), *late.await.unwrap()), (1, BYTES, BYTES));
    session.stop().await;
}

/// One test, because a process has one session of its own.
#[test]
fn sessions_from_begin_to_end() {
    mobula::__private::run_main(async {
        says_that_there_is_none(None).await;
        for encode_all in [false, true] {
            session_from_begin_to_end(Config::default().encode_all(encode_all)).await;
            what_finds_the_queue_full(Config::default().encode_all(encode_all)).await;
        }
        what_finds_too_many_bytes(Config::default().encode_all(true)).await;
    });
}

async fn session_from_begin_to_end(config: Config) {
    let session = mobula::init_with(config).await.unwrap();
    assert_eq!(mobula::init().await.unwrap_err(), InitError::Second);

    let counter = Counter::spawn(1).name("counter").await.unwrap();
    assert_eq!(counter.add(1).await, Ok(2));
    assert_eq!(*double::remote(3).await.unwrap(), 6);
    counter.panic().await.unwrap_err();
    // It has started again, so all of the panic has been counted.
    assert_eq!(counter.add(1).await, Ok(2));
    assert!(matches!(session.actors().as_slice(), [only] if only.name.as_deref() == Some("counter")));

    let counters = session.counters();
    assert_eq!((counters.of(Count::Submitted), counters.pending()), (4, 0));
    assert_eq!((counters.outcomes(Outcome::Ok), counters.outcomes(Outcome::Failed)), (3, 1));
    tells_of_dead_letters(&session, &counter).await;

    drop(session);
    says_that_there_is_none(Some(&counter)).await;
}

/// Tells that reach nobody are told to the hook, with the cause (G8, G21).
async fn tells_of_dead_letters(session: &Session, counter: &ActorRef<Counter>) {
    let (sender, mut letters) = tokio::sync::mpsc::unbounded_channel();
    session.on_dead_letter(move |letter| sender.send(letter.clone()).unwrap());
    // The panic of a tell is nobody's error, so its message is a dead letter.
    counter.panic().tell().unwrap();
    let poison = letters.recv().await.unwrap();
    assert_eq!(poison.to, counter.id());
    assert!(poison.message.contains("Counter_panic"), "{}", poison.message);
    assert!(matches!(poison.reason, ExitReason::Panicked(panic) if panic.message == "counted"));
    // So is what waits when its actor ends.
    counter.hold_and_stop().tell().unwrap();
    counter.add(1).tell().unwrap();
    ENOUGH.add_permits(1);
    let late = letters.recv().await.unwrap();
    assert!(late.message.contains("Counter_add"), "{}", late.message);
    assert_eq!(late.reason, ExitReason::Normal);
}

/// `main` is what the user wrote, with its error; it is called where a program would begin.
#[mobula::main]
async fn main_with_an_error() -> std::result::Result<(), std::num::ParseIntError> {
    let _: u8 = "many".parse()?;
    Ok(())
}

#[test]
fn main_returns_what_it_says() {
    assert_eq!(main_with_an_error().unwrap_err().to_string(), "invalid digit found in string");
}
