//! How a call ends that does not end well (G1), and how a function's own error arrives.

use mobula::prelude::*;
use mobula::{ErrorChain, Outcome};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum Overdrawn {
    #[error("{missing} is missing")]
    By { missing: u32 },
}

mod bank {
    /// An alias, whose error the macro does not see.
    pub(super) type Result<T> = std::result::Result<T, super::Overdrawn>;
}

/// Shown, but neither an error nor written by serde.
struct Opinion;

impl std::fmt::Display for Opinion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not like that")
    }
}

struct Account {
    balance: u32,
}

#[actor(max_restarts = 100)]
impl Account {
    fn new(balance: u32) -> Self {
        Account { balance }
    }

    fn take(&mut self, amount: u32) -> std::result::Result<u32, Overdrawn> {
        let missing = amount.saturating_sub(self.balance);
        if missing > 0 {
            return Err(Overdrawn::By { missing });
        }
        self.balance -= amount;
        Ok(self.balance)
    }

    async fn take_later(&mut self, amount: u32) -> bank::Result<u32> {
        tokio::task::yield_now().await;
        self.take(amount)
    }

    fn parse(&self, text: String) -> std::result::Result<u32, std::num::ParseIntError> {
        text.parse()
    }

    fn any_error(&self) -> Result<u32> {
        Err(Error::msg("inside").context("outside"))
    }

    fn opinion(&self) -> std::result::Result<(), Opinion> {
        Err(Opinion)
    }

    fn nested(&self) -> Option<std::result::Result<u32, String>> {
        Some(Err("inside an option it is a value like any other".to_owned()))
    }

    fn panic(&mut self) {
        panic!("spilled")
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn an_error_that_serde_can_write_arrives_as_it_is() -> Result<()> {
    let account = Account::spawn(10).await?;
    assert_eq!(account.take(4).await?, 6);
    assert_eq!(account.take(8).await, Err(CallError::Returned(Overdrawn::By { missing: 2 })));
    assert_eq!(account.take_later(8).await, Err(CallError::Returned(Overdrawn::By { missing: 2 })));
    let any: CallError<Error> = account.any_error().await.unwrap_err();
    assert_eq!(any.to_string(), "outside: inside");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_error_that_serde_cannot_write_arrives_as_text() -> Result<()> {
    let account = Account::spawn(0).await?;
    let failed: CallError<ErrorChain> = account.parse("ten").await.unwrap_err();
    assert_eq!(failed, CallError::Returned(ErrorChain::message("invalid digit found in string")));
    let failed = account.opinion().await.unwrap_err();
    assert_eq!(failed, CallError::Returned(ErrorChain::message("not like that")));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn only_the_return_type_itself_flattens() -> Result<()> {
    let account = Account::spawn(0).await?;
    assert!(account.nested().await?.is_some_and(|inside| inside.is_err()));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_submitted_error_arrives_as_text() -> Result<()> {
    let account = Account::spawn(0).await?;
    let failed = account.take(1).submit().await.unwrap_err();
    assert_eq!(failed, CallError::Returned(ErrorChain::message("1 is missing")));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_panic_is_its_callers_and_the_actor_goes_on() -> Result<()> {
    let account = Account::spawn(5).await?;
    account.take(5).await?;
    let panicked = account.panic().await.unwrap_err();
    assert_eq!(panicked.outcome(), Outcome::Failed);
    let CallError::Panicked(panic) = panicked else { panic!("{panicked}") };
    assert_eq!(panic.message, "spilled");
    assert!(panic.location.is_some_and(|place| place.contains("errors.rs")));
    // It starts again as it was spawned.
    assert_eq!(account.take(5).await?, 0);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_that_has_ended_starts_no_call_and_says_why() -> Result<()> {
    let account = Account::spawn(5).await?;
    account.address().stop();
    let late = loop {
        match account.take(1).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(late.is_retry_safe(), "{late}");
    assert!(matches!(&late, CallError::NotStarted(NotStarted::ActorEnded { actor, .. }) if *actor == account.id()));
    let told = account.take(1).tell().unwrap_err();
    assert!(matches!(told.cause, NotStarted::ActorEnded { .. }));
    assert!(!account.is_alive());
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_argument_without_a_value_is_the_cause() -> Result<()> {
    let account = Account::spawn(0).await?;
    let failed = account.take(account.take(1).submit()).await.unwrap_err();
    let CallError::NotStarted(NotStarted::Argument { cause }) = failed else { panic!("{failed}") };
    assert_eq!(*cause, CallError::Returned(ErrorChain::message("1 is missing")));
    Ok(())
}
