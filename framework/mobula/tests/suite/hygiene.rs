//! What the macros write meets nothing that a user has named, and shows no more than the user does.

use mobula::prelude::*;

use crate::apparatus::within;

/// Types of the names that generated code uses.
mod taken {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Actor(pub(super) u8);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Options(pub(super) u8);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Option<T>(pub(super) T);
}

struct Odd;

#[actor]
impl Odd {
    fn new(_ctx: u8, _message: taken::Actor) -> Self {
        Odd
    }

    #[expect(clippy::too_many_arguments, reason = "as many names as generated code has")]
    fn names(
        &mut self,
        make: u8,
        message: u8,
        ctx: u8,
        args: u8,
        items: u8,
        address: u8,
        rt: u8,
        of: u8,
        r#fn: u8,
        context: &Context<Self>,
    ) -> Vec<u8> {
        assert!(context.deadline().is_set());
        vec![make, message, ctx, args, items, address, rt, of, r#fn]
    }

    fn types(&self, actor: taken::Actor, option: taken::Option<u8>) -> (taken::Actor, taken::Option<u8>) {
        (actor, option)
    }

    /// Methods of traits that the macro implements.
    fn start(&self) -> u8 {
        1
    }

    fn handle(&mut self) -> u8 {
        2
    }

    async fn handle_sync(&mut self, handle_shared: u8) -> u8 {
        handle_shared
    }

    fn r#type(&self) -> u8 {
        4
    }

    #[cfg(any())]
    fn never(&self, missing: Missing) {}
}

#[remote]
fn options(options: taken::Options, remote: u8, self_: Option<taken::Options>) -> taken::Options {
    taken::Options(options.0 + remote + self_.map_or(0, |options| options.0))
}

#[mobula::test(plain, encoded, cluster)]
async fn arguments_and_types_have_any_names() -> Result<()> {
    let odd = Odd::spawn(0, taken::Actor(0)).await?;
    assert_eq!(odd.names(1, 2, 3, 4, 5, 6, 7, 8, 9).await?, (1..10).collect::<Vec<_>>());
    assert_eq!(odd.types(taken::Actor(1), taken::Option(2)).await?, (taken::Actor(1), taken::Option(2)));
    assert_eq!((odd.start().await?, odd.handle().await?, odd.handle_sync(3).await?, odd.r#type().await?), (1, 2, 3, 4));
    let sum = options::options().remote(taken::Options(1), 2, Some(taken::Options(3)));
    assert_eq!(*within(sum).await?, taken::Options(6));
    Ok(())
}

mod library {
    use mobula::prelude::*;
    use serde::{Deserialize, Serialize};

    /// Seen by all.
    pub(crate) struct Open;

    /// Seen here only, as are the types that only private methods name.
    struct Closed;

    #[derive(Serialize, Deserialize)]
    struct Inside(u8);

    #[actor]
    impl Open {
        pub(crate) fn new() -> Self {
            Open
        }

        /// Of no use outside.
        fn inside(&self, inside: Inside) -> Inside {
            inside
        }

        pub(crate) async fn outside(&self, ctx: &Context<Self>) -> u8 {
            let closed = ctx.spawn::<Closed>(()).await.unwrap();
            closed.pass(Inside(7)).await.unwrap().0
        }
    }

    /// Here the private method is a message like any other.
    pub(crate) async fn call_inside(open: &ActorRef<Open>) -> u8 {
        open.inside(Inside(8)).await.unwrap().0
    }

    #[actor]
    impl Closed {
        fn new() -> Self {
            Closed
        }

        /// More visible than its types, which is no mistake in a private type.
        #[expect(unreachable_pub, reason = "that is the point")]
        pub fn pass(&self, inside: Inside) -> Inside {
            inside
        }
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn messages_are_as_visible_as_their_methods() -> Result<()> {
    let open = library::Open::spawn().await?;
    assert_eq!(within(open.outside()).await?, 7);
    assert_eq!(within(library::call_inside(&open)).await, 8);
    Ok(())
}

mod one {
    use super::*;

    pub(super) struct Same;

    #[actor]
    impl Same {
        pub(super) fn new() -> Self {
            Same
        }

        pub(super) fn which(&self) -> u8 {
            1
        }
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn types_of_one_name_in_different_modules_differ() -> Result<()> {
    struct Same;

    #[actor]
    impl Same {
        fn new() -> Self {
            Same
        }

        fn which(&self) -> u8 {
            2
        }
    }

    let (one, two) = (one::Same::spawn().await?, Same::spawn().await?);
    assert_eq!((one.which().await?, two.which().await?), (1, 2));
    Ok(())
}
