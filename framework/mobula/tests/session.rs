//! A session from begin to end. One test, because a process has one session of its own: the tests of the suite have
//! theirs beside it.

use mobula::prelude::*;
use mobula::{Count, InitError, LookupError, Outcome, SpawnError};

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

#[test]
fn a_session_from_begin_to_end() {
    mobula::__private::run_main(async {
        says_that_there_is_none(None).await;

        let session = mobula::init().await.unwrap();
        assert_eq!(mobula::init().await.unwrap_err(), InitError::Second);

        let counter = Counter::spawn(1).name("counter").await.unwrap();
        assert_eq!(counter.add(1).await, Ok(2));
        assert_eq!(*double::remote(3).await.unwrap(), 6);
        counter.panic().await.unwrap_err();
        // It has started again, so all of the panic has been counted.
        assert_eq!(counter.add(1).await, Ok(2));
        assert!(matches!(session.actors().as_slice(), [only] if only.name.as_deref() == Some("counter")));

        let counters = session.counters();
        assert_eq!(counters.of(Count::Submitted), 4);
        assert_eq!((counters.outcomes(Outcome::Ok), counters.outcomes(Outcome::Failed)), (3, 1));
        assert_eq!((counters.pending(), counters.of(Count::Panics)), (0, 1));

        drop(session);
        says_that_there_is_none(Some(&counter)).await;
    });
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
