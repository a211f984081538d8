//! Arguments that are values or references become one tuple, at once where all are values.

use mobula_actor::object::GetError;
use mobula_actor::{Address, Arg, Call, Handler, Message};
use mobula_types::CallError;

/// Makes one argument of a tuple of them.
pub trait Join {
    /// The tuple of values.
    type Values;

    /// The tuple: here if all of them are, else when the last has come or the first has failed.
    fn join(self) -> Arg<Self::Values>;
}

/// Prepares the call of the message that `make` makes of `args`.
pub fn call<A, M, V, T, E>(
    address: &Address<A>,
    args: Arg<V>,
    make: fn(V) -> M,
    flatten: fn(M::Reply) -> Result<T, CallError<E>>,
) -> Call<'_, A, M, T, E>
where
    A: Handler<M>,
    M: Message,
    V: 'static,
{
    match args {
        Arg::Value(args) => Call::flattened(address, make(args), flatten),
        Arg::Later(args) => Call::resolving(address, Box::pin(async move { args.await.map(make) }), flatten),
    }
}

macro_rules! join {
    ($($name:ident)*) => {
        impl<$($name: Send + 'static),*> Join for ($(Arg<$name>,)*) {
            type Values = ($($name,)*);

            #[expect(non_snake_case, reason = "each value has the name of its type")]
            fn join(self) -> Arg<Self::Values> {
                match self {
                    ($(Arg::Value($name),)*) => Arg::Value(($($name,)*)),
                    ($($name,)*) => Arg::Later(Box::pin(async move {
                        Ok::<_, GetError>(($($name.resolve().await?,)*))
                    })),
                }
            }
        }
    };
}

impl Join for () {
    type Values = ();

    fn join(self) -> Arg<()> {
        Arg::Value(())
    }
}

join!(A);
join!(A B);
join!(A B C);
join!(A B C D);
join!(A B C D E);
join!(A B C D E F);
join!(A B C D E F G);
join!(A B C D E F G H);
join!(A B C D E F G H I);
join!(A B C D E F G H I J);
join!(A B C D E F G H I J K);
join!(A B C D E F G H I J K L);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_joined_at_once() {
        let Arg::Value(joined) = (Arg::Value(1), Arg::Value("two")).join() else { panic!("both are here") };
        assert_eq!(joined, (1, "two"));
    }

    #[tokio::test]
    async fn one_that_comes_later_makes_all_come_later() {
        let later = Arg::Later(Box::pin(async { Ok(1) }));
        let Arg::Later(joined) = (later, Arg::Value("two")).join() else { panic!("one is not here") };
        assert_eq!(joined.await, Ok((1, "two")));
    }

    #[tokio::test]
    async fn the_first_that_fails_is_the_cause() {
        let failed = |error: GetError| Arg::<u8>::Later(Box::pin(async { Err(error) }));
        let joined = (failed(CallError::Cancelled), failed(CallError::DeadlineExceeded { given: None })).join();
        let Arg::Later(joined) = joined else { panic!("neither is here") };
        assert_eq!(joined.await, Err(CallError::Cancelled));
    }
}
