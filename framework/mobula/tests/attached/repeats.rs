//! Messages that are sent again until they are handled, over the deaths of their receiver's process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use mobula::prelude::*;
use mobula::{ActorId, DeadLetter};

use super::{HANGS, Test};

pub(crate) const TESTS: &[Test] = &[
    ("every tell is handled at least once", || Box::pin(every_tell_is_handled_at_least_once())),
    ("one life handles no message twice", || Box::pin(one_life_handles_no_message_twice())),
    ("poison ends in the dead letters", || Box::pin(poison_ends_in_the_dead_letters())),
    ("what another message did is held against nobody", || Box::pin(what_another_did_is_held_against_nobody())),
    ("a panic consumes its message", || Box::pin(a_panic_consumes_its_message())),
    ("an actor that has ended takes nothing", || Box::pin(an_actor_that_has_ended_takes_nothing())),
];

/// By message: in which lives it was handled.
type Lives = BTreeMap<u64, Vec<u32>>;

/// Keeps what others have handled: it outlives them, because it lives in a process of its own.
struct Book {
    lives: Lives,
}

#[actor]
impl Book {
    fn new() -> Self {
        Book { lives: BTreeMap::new() }
    }

    fn note(&mut self, n: u64, life: u32) {
        self.lives.entry(n).or_default().push(life);
    }

    fn lives(&mut self) -> Lives {
        self.lives.clone()
    }
}

/// Handles messages by noting them in the book, and falls over some.
struct Clerk {
    book: ActorRef<Book>,
    life: u32,
}

#[actor(max_restarts = 1000)]
impl Clerk {
    fn new(book: ActorRef<Book>, ctx: &Context<Self>) -> Self {
        Clerk { book, life: ctx.incarnation().0 }
    }

    async fn handle(&mut self, n: u64) -> Result<()> {
        self.book.note(n, self.life).await?;
        Ok(())
    }

    fn abort(&mut self) {
        std::process::abort();
    }

    fn panic(&mut self) {
        panic!("not this one");
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }
}

async fn office() -> Result<(ActorRef<Book>, ActorRef<Clerk>)> {
    let book = Book::spawn().isolated().await?;
    let clerk = Clerk::spawn(book.clone()).isolated().await?;
    Ok((book, clerk))
}

/// Waits until the book says what is expected of it.
async fn written(book: &ActorRef<Book>, is_all: impl Fn(&Lives) -> bool) -> Result<Lives> {
    let read = async {
        loop {
            let lives = book.lives().await?;
            if is_all(&lives) {
                return Ok(lives);
            }
            tokio::time::sleep(mobula::millis(2)).await;
        }
    };
    tokio::time::timeout(HANGS, read).await.expect("all is written down")
}

/// To whom each was, its type, and why nobody handles it.
type Letters = Vec<(ActorId, &'static str, ExitReason)>;

/// The letters that nobody handles, from now on.
fn dead_letters() -> Arc<Mutex<Letters>> {
    let letters: Arc<Mutex<Letters>> = Arc::default();
    let kept = letters.clone();
    let system = mobula_actor::current::system().expect("a test has a session");
    system.on_dead_letter(move |letter: &DeadLetter| {
        kept.lock().expect("no test panics here").push((letter.to, letter.message, letter.reason.clone()));
    });
    letters
}

async fn every_tell_is_handled_at_least_once() -> Result<()> {
    const COUNT: u64 = 2_000;
    const KILLS: usize = 3;
    let (book, clerk) = office().await?;
    let telling = async {
        for n in 0..COUNT {
            clerk.handle(n).at_least_once().tell()?;
            if n % 50 == 0 {
                tokio::time::sleep(mobula::millis(1)).await;
            }
        }
        Ok::<_, mobula::Error>(())
    };
    let killing = async {
        let mut killed = Vec::new();
        while killed.len() < KILLS {
            let pid = match clerk.pid().await {
                Ok(pid) if !killed.contains(&pid) => pid,
                _ => {
                    tokio::time::sleep(mobula::millis(2)).await;
                    continue;
                }
            };
            let pid_of = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process has a number");
            rustix::process::kill_process(pid_of, rustix::process::Signal::KILL).expect("it lives");
            killed.push(pid);
        }
        Ok(())
    };
    let (told, killed): (Result<()>, Result<()>) = futures_util::future::join(telling, killing).await;
    told?;
    killed?;
    let lives = written(&book, |lives| lives.len() as u64 == COUNT).await?;
    assert_eq!(lives.keys().copied().collect::<Vec<_>>(), (0..COUNT).collect::<Vec<_>>());
    for (n, mut by) in lives {
        let handled = by.len();
        by.dedup();
        assert_eq!(by.len(), handled, "{n} was handled twice by one life");
    }
    Ok(())
}

async fn one_life_handles_no_message_twice() -> Result<()> {
    const COUNT: u64 = 500;
    let (book, clerk) = office().await?;
    for n in 0..COUNT {
        clerk.handle(n).at_least_once().tell()?;
        // A kill breaks off what is handled; all that is not acknowledged is sent again, and most of it waits in the
        // mailbox still.
        if n % 150 == 100 {
            // One that is just being started again would end by a kill.
            while clerk.pid().await.is_err() {}
            (0..20).try_for_each(|more| clerk.handle(COUNT + n + more).at_least_once().tell())?;
            clerk.kill();
        }
    }
    let lives = written(&book, |lives| lives.len() as u64 == COUNT + 3 * 20).await?;
    assert!(lives.values().flatten().any(|life| *life > 1), "nothing was broken off");
    for (n, mut by) in lives {
        let handled = by.len();
        by.dedup();
        assert_eq!(by.len(), handled, "{n} was handled twice by one life: {by:?}");
    }
    assert!(clerk.pid().await.is_ok());
    Ok(())
}

async fn poison_ends_in_the_dead_letters() -> Result<()> {
    let letters = dead_letters();
    let (book, clerk) = office().await?;
    clerk.handle(1).at_least_once().tell()?;
    clerk.abort().at_least_once().tell()?;
    clerk.handle(2).at_least_once().tell()?;
    let lives = written(&book, |lives| lives.contains_key(&2)).await?;
    assert!(lives.contains_key(&1), "{lives:?}");
    // It was given up before what stands behind it was sent.
    let buried = letters.lock().expect("no test panics here").clone();
    let poison = buried.iter().filter(|(to, message, _)| *to == clerk.address().id() && message.contains("abort"));
    let poison: Vec<_> = poison.collect();
    let [(_, _, ExitReason::ProcessDied(death))] = &poison[..] else { panic!("{buried:?}") };
    assert_eq!(death.cause, mobula_types::DeathCause::Aborted);
    assert!(clerk.pid().await.is_ok(), "the actor goes on");
    Ok(())
}

/// Handles messages beside one another.
struct Patient {
    book: ActorRef<Book>,
    life: u32,
}

#[actor(max_restarts = 1000, concurrency = 4)]
impl Patient {
    fn new(book: ActorRef<Book>, ctx: &Context<Self>) -> Self {
        Patient { book, life: ctx.incarnation().0 }
    }

    /// Is handled by a life after `LIVES` others.
    async fn wait(&self, n: u64) -> Result<()> {
        self.book.note(n, self.life).await?;
        match u64::from(self.life) < LIVES {
            true => std::future::pending().await,
            false => Ok(()),
        }
    }

    async fn abort(&self) {
        std::process::abort();
    }
}

/// Deaths by plain calls, as many as a message survives that has caused them; and then by one that is sent again.
const LIVES: u64 = 3 + 3;

async fn what_another_did_is_held_against_nobody() -> Result<()> {
    let letters = dead_letters();
    let book = Book::spawn().isolated().await?;
    let patient = Patient::spawn(book.clone()).isolated().await?;
    patient.wait(1).at_least_once().tell()?;
    let mut last = None;
    let is_later = |lives: &Lives, last| lives.get(&1).is_some_and(|lives| lives.last().copied() > last);
    for _ in 0..3 {
        let lives = written(&book, |lives| is_later(lives, last)).await?;
        last = lives[&1].last().copied();
        assert!(patient.abort().await.is_err());
    }
    written(&book, |lives| is_later(lives, last)).await?;
    patient.abort().at_least_once().tell()?;
    let is_handled = |lives: &Lives| lives[&1].iter().any(|life| u64::from(*life) >= LIVES);
    let lives = written(&book, is_handled).await?;
    assert!(lives[&1].is_sorted_by(|one, other| one < other), "a life handled it twice: {lives:?}");
    let buried = letters.lock().expect("no test panics here").clone();
    let poison = buried.iter().filter(|(to, ..)| *to == patient.address().id());
    let poison: Vec<_> = poison.map(|(_, message, _)| *message).collect();
    assert!(matches!(poison[..], [message] if message.contains("abort")), "{buried:?}");
    Ok(())
}

async fn a_panic_consumes_its_message() -> Result<()> {
    let letters = dead_letters();
    let (book, clerk) = office().await?;
    clerk.panic().at_least_once().tell()?;
    clerk.handle(1).at_least_once().tell()?;
    let lives = written(&book, |lives| lives.contains_key(&1)).await?;
    assert_eq!(lives[&1].len(), 1);
    // That it is consumed is heard from the clerk, and what is written from the book.
    let of_panics = || {
        let buried = letters.lock().expect("no test panics here").clone();
        buried.iter().filter(|(_, _, reason)| matches!(reason, ExitReason::Panicked(_))).count()
    };
    let heard = async {
        while of_panics() == 0 {
            tokio::time::sleep(mobula::millis(2)).await;
        }
    };
    tokio::time::timeout(HANGS, heard).await.expect("its letter is dead");
    assert_eq!(of_panics(), 1);
    Ok(())
}

async fn an_actor_that_has_ended_takes_nothing() -> Result<()> {
    let (_, clerk) = office().await?;
    clerk.stop();
    let ended = async {
        while clerk.is_alive() {
            tokio::time::sleep(mobula::millis(1)).await;
        }
    };
    tokio::time::timeout(HANGS, ended).await.expect("it ends");
    let refused = clerk.handle(1).at_least_once().tell().expect_err("nobody takes it");
    assert!(matches!(refused.cause, NotStarted::ActorEnded { .. }), "{refused:?}");
    Ok(())
}
