//! Tuples of arguments: one when they leave, one when they arrive.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use mobula_wire::{DecodeError, EncodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Arg, Arguments, Arriving, Departing, Later, Slots, leave};
use crate::object::GetError;
use crate::system::System;

/// Makes one argument of a tuple of them.
pub trait Join {
    /// The tuple of values.
    type Values;

    /// The tuple: here if all of them are, else when the last has come or the first has failed.
    fn join(self) -> Arg<Self::Values>;
}

/// Arguments of which not all are here.
struct Joined<T>(T);

macro_rules! join {
    ($($name:ident)*) => {
        impl<$($name: Serialize + Send + 'static),*> Join for ($(Arg<$name>,)*) {
            type Values = ($($name,)*);

            #[expect(non_snake_case, reason = "each value has the name of its type")]
            fn join(self) -> Arg<Self::Values> {
                match self {
                    ($(Arg::Value($name),)*) => Arg::Value(($($name,)*)),
                    args => Arg::Object(Box::new(Joined(args))),
                }
            }
        }

        #[expect(non_snake_case, reason = "each value has the name of its type")]
        impl<$($name: Serialize + Send + 'static),*> Later<($($name,)*)> for Joined<($(Arg<$name>,)*)> {
            fn resolve(self: Box<Self>) -> BoxFuture<'static, Result<($($name,)*), GetError>> {
                let ($($name,)*) = self.0;
                Box::pin(async move { tokio::try_join!($($name.resolve()),*) })
            }

            fn depart(self: Box<Self>) -> BoxFuture<'static, Result<Departing<($($name,)*)>, GetError>> {
                let ($($name,)*) = self.0;
                Box::pin(async move {
                    Ok(match ($($name.depart().await?,)*) {
                        ($(Departing::Value($name),)*) => Departing::Value(($($name,)*)),
                        slots => Departing::Slots(Box::new(Joined(slots))),
                    })
                })
            }
        }

        impl<$($name: Serialize + DeserializeOwned + Send + 'static),*> Arguments for ($($name,)*) {
            #[expect(non_snake_case, reason = "each value has the name of its type")]
            fn read(from: &mut Arriving<'_>) -> Result<Arg<Self>, DecodeError> {
                $(let $name = from.take()?;)*
                Ok(match ($($name,)*) {
                    ($(Arg::Value($name),)*) => Arg::Value(($($name,)*)),
                    ($($name,)*) => Arg::Later(Box::pin(async move { tokio::try_join!($($name.resolve()),*) })),
                })
            }

            #[expect(non_snake_case, reason = "each value has the name of its type")]
            fn leave(self, system: &Arc<System>) -> Departing<Self> {
                let ($($name,)*) = self;
                match ($(leave($name, system),)*) {
                    ($(Departing::Value($name),)*) => Departing::Value(($($name,)*)),
                    slots => Departing::Slots(Box::new(Joined(slots))),
                }
            }
        }

        #[expect(non_snake_case, reason = "each value has the name of its type")]
        impl<$($name: Serialize + Send + 'static),*> Slots for Joined<($(Departing<$name>,)*)> {
            fn write(&self, to: &mut Vec<u8>, max: usize) -> Result<(), EncodeError> {
                let ($($name,)*) = &self.0;
                $($name.write(to, max)?;)*
                Ok(())
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

impl Arguments for () {
    fn read(_: &mut Arriving<'_>) -> Result<Arg<Self>, DecodeError> {
        Ok(Arg::Value(()))
    }

    fn leave(self, _: &Arc<System>) -> Departing<Self> {
        Departing::Value(())
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
    use mobula_types::CallError;

    use super::*;

    #[test]
    fn values_are_joined_at_once() {
        let Arg::Value(joined) = (Arg::Value(1), Arg::Value("two")).join() else { panic!("both are here") };
        assert_eq!(joined, (1, "two"));
    }

    #[tokio::test]
    async fn one_that_comes_later_makes_all_come_later() {
        let later = Arg::Later(Box::pin(async { Ok(1) }));
        let joined = (later, Arg::Value("two")).join();
        assert!(!matches!(joined, Arg::Value(_)), "one is not here");
        assert_eq!(joined.resolve().await, Ok((1, "two")));
    }

    #[tokio::test]
    async fn the_first_that_fails_is_the_cause() {
        let failed = |error: GetError| Arg::<u8>::Later(Box::pin(async { Err(error) }));
        let joined = (failed(CallError::Cancelled), failed(CallError::DeadlineExceeded { given: None })).join();
        assert_eq!(joined.resolve().await, Err(CallError::Cancelled));
    }
}
