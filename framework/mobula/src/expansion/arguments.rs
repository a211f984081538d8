//! The call of an actor's method, of arguments that are values or references.

use mobula_actor::{Address, Arg, Call, Handler, Message};
use mobula_types::CallError;

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
    V: Send + 'static,
{
    match args {
        Arg::Value(args) => Call::flattened(address, make(args), flatten),
        later => Call::resolving(address, Box::pin(async move { later.resolve().await.map(make) }), flatten),
    }
}
