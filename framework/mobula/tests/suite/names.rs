//! Names by which actors are found, and handles that stop them.

use std::future::IntoFuture;

use mobula::prelude::*;
use mobula::{LookupError, SpawnError};

use crate::apparatus::{Journal, NotedDrop, until};

struct Named {
    _noted: NotedDrop,
}

#[actor]
impl Named {
    fn new(journal: Journal) -> Self {
        Named { _noted: NotedDrop(journal, "gone") }
    }

    fn id(&self, ctx: &Context<Self>) -> String {
        ctx.id().to_string()
    }
}

struct Other;

#[actor]
impl Other {
    fn new() -> Self {
        Other
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn a_named_actor_is_found_by_its_name() -> Result<()> {
    let named = Named::spawn(Journal::new()).name("words").await?;
    let found = mobula::actor::<Named>("words").await?;
    assert_eq!(found, named);
    assert_eq!(found.id().await?, named.address().id().to_string());
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn nobody_else_is_found() -> Result<()> {
    let nobody = mobula::actor::<Named>("nobody").await.unwrap_err();
    assert_eq!(nobody, LookupError::NoSuchName { name: "nobody".to_owned() });
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_of_another_type_is_not_found() -> Result<()> {
    let _other = Other::spawn().name("other").await?;
    let wrong = mobula::actor::<Named>("other").await.unwrap_err();
    assert!(matches!(wrong, LookupError::OtherType { name, .. } if name == "other"));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_name_is_free_again_when_its_actor_has_ended() -> Result<()> {
    let first = Named::spawn(Journal::new()).name("one").await?;
    let second = Named::spawn(Journal::new()).name("one").await;
    assert!(matches!(second, Err(SpawnError::NameTaken { name, by }) if name == "one" && by == first.address().id()));
    first.stop();
    until(|| !first.is_alive()).await;
    Named::spawn(Journal::new()).name("one").await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn who_has_the_name_is_given_and_else_one_is_started() -> Result<()> {
    let first = Named::spawn(Journal::new()).name("one").get_if_exists().await?;
    assert_eq!(Named::spawn(Journal::new()).name("one").get_if_exists().await?, first);
    let racing = (0..8).map(|_| Named::spawn(Journal::new()).name("two").get_if_exists().into_future());
    let mut racing = futures_util::future::try_join_all(racing).await?;
    racing.dedup();
    assert_eq!(racing.len(), 1, "whoever asks at the same time gets the same");
    assert_ne!(racing[0], first);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn another_type_is_not_given() -> Result<()> {
    let _other = Other::spawn().name("other").await?;
    let wrong = Named::spawn(Journal::new()).name("other").get_if_exists().await.unwrap_err();
    assert!(
        matches!(&wrong, SpawnError::OtherType(LookupError::OtherType { name, .. }) if name == "other"),
        "{wrong:?}"
    );
    let nameless = Named::spawn(Journal::new()).get_if_exists().await.unwrap_err();
    assert!(nameless.to_string().contains("give one with `.name(..)`"), "{nameless}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_namespace_has_names_of_its_own() -> Result<()> {
    let own = Named::spawn(Journal::new()).name("one").await?;
    let shared = Named::spawn(Journal::new()).name("one").namespace("shop").await?;
    assert_ne!(own, shared);
    assert_eq!(mobula::actor::<Named>("one").await?, own);
    assert_eq!(mobula::actor::<Named>("one").namespace("shop").await?, shared);
    let taken = Named::spawn(Journal::new()).name("one").namespace("shop").await.unwrap_err();
    assert!(matches!(&taken, SpawnError::NameTaken { name, .. } if name == "shop/one"), "{taken:?}");
    assert!(taken.to_string().contains(".get_if_exists()"), "{taken}");
    let nobody = mobula::actor::<Named>("one").namespace("town").await.unwrap_err();
    assert_eq!(nobody, LookupError::NoSuchName { name: "town/one".to_owned() });
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_tell_that_is_sent_until_handled_is_handled() -> Result<()> {
    let named = Named::spawn(Journal::new()).name("told").await?;
    named.id().at_least_once().tell()?;
    assert_eq!(named.id().await?, named.address().id().to_string());
    named.stop();
    until(|| !named.is_alive()).await;
    let refused = named.id().at_least_once().tell().unwrap_err();
    assert!(matches!(refused.cause, NotStarted::ActorEnded { .. }), "{refused:?}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_scoped_actor_stops_with_its_handle() -> Result<()> {
    let journal = Journal::new();
    let scoped = Named::spawn(journal).name("scoped").scoped().await?;
    assert_eq!(scoped.id().await?, scoped.address().id().to_string());
    let kept = scoped.clone();
    drop(scoped);
    assert_eq!(journal.next().await, "gone");
    until(|| !kept.is_alive()).await;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_outlives_its_references() -> Result<()> {
    let journal = Journal::new();
    drop(Named::spawn(journal).name("kept").await?);
    assert!(mobula::actor::<Named>("kept").await?.is_alive());
    assert!(journal.is_read().await);
    Ok(())
}
