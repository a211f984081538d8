//! Arguments on their way: values, and references that stand for values.
//!
//! A reference is resolved where the function runs, so that what it refers to is read there and passes nobody else: on the
//! way it is its id. A value that is small and here travels itself; a long array travels by reference too, if its host has
//! room for it.
//!
//! Where all are values their bytes are those of the tuple. Else the arguments are said to come apart, each of them as
//!
//! ```text
//! 0   1
//! │ 0 │ its value        │
//! │ 1 │ an object's id   │
//! ```

mod tuples;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mobula_types::{CallError, NotStarted};
use mobula_wire::plain::Viewable;
use mobula_wire::{DecodeError, EncodeError, Encoded, INLINE_BYTES_MAX, codec, plain};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::deliver::Fetched;
use crate::object::{Foreigner, GetError, Named, ObjectRef, Pins, Value};
use crate::system::System;
use crate::view::{self, View};

pub use tuples::Join;

/// An argument, or a tuple of them.
pub enum Arg<T> {
    /// Here.
    Value(T),
    /// As soon as it has come.
    Later(BoxFuture<'static, Result<T, GetError>>),
    /// As soon as it has come, or somewhere else without having come here.
    Object(Box<dyn Later<T>>),
}

impl<T: Send + 'static> Arg<T> {
    /// Waits for the value.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn resolve(self) -> Result<T, GetError> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Later(wait) => wait.await,
            Self::Object(object) => object.resolve().await,
        }
    }

    /// Waits until it can leave the process.
    ///
    /// # Errors
    ///
    /// Why there is no value.
    pub async fn depart(self) -> Result<Departing<T>, GetError> {
        match self {
            Self::Value(value) => Ok(Departing::Value(value)),
            Self::Later(wait) => wait.await.map(Departing::Value),
            Self::Object(object) => object.depart().await,
        }
    }
}

/// What stands for an argument and need not be here for it to travel.
pub trait Later<T>: Send {
    /// Waits for the value.
    fn resolve(self: Box<Self>) -> BoxFuture<'static, Result<T, GetError>>;

    /// Waits until it is known whether there is a value.
    fn depart(self: Box<Self>) -> BoxFuture<'static, Result<Departing<T>, GetError>>;
}

/// An argument, or a tuple of them, as it leaves the process.
pub enum Departing<T> {
    /// As itself.
    Value(T),
    /// As references, or partly so.
    Slots(Box<dyn Slots>),
}

/// References that leave in the place of values.
pub trait Slots: Send {
    /// Appends them.
    ///
    /// # Errors
    ///
    /// A value beside them cannot be encoded.
    fn write(&self, to: &mut Vec<u8>, max: usize) -> Result<(), EncodeError>;
}

/// Before an argument: its value follows.
const VALUE: u8 = 0;
/// Before an argument: the id of an object follows.
const SLOT: u8 = 1;

impl<T: Serialize> Departing<T> {
    /// Whether the arguments of a tuple come apart.
    pub fn is_apart(&self) -> bool {
        matches!(self, Self::Slots(_))
    }

    /// The bytes of a tuple of arguments, at most `max`.
    ///
    /// # Errors
    ///
    /// A value cannot be encoded.
    pub fn encode(&self, max: usize) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Value(values) => codec::encode_limited(values, max),
            Self::Slots(slots) => {
                let mut bytes = Vec::new();
                slots.write(&mut bytes, max)?;
                Ok(bytes)
            }
        }
    }

    /// Appends it as one argument among others.
    ///
    /// # Errors
    ///
    /// The value cannot be encoded.
    pub fn write(&self, to: &mut Vec<u8>, max: usize) -> Result<(), EncodeError> {
        match self {
            Self::Value(value) => {
                to.push(VALUE);
                codec::append(to, value, max)
            }
            Self::Slots(slots) => {
                to.push(SLOT);
                slots.write(to, max)
            }
        }
    }
}

/// Bytes of arguments that are read one by one.
pub struct Arriving<'a> {
    bytes: &'a [u8],
    system: &'a Arc<System>,
}

impl Arriving<'_> {
    /// The next argument.
    ///
    /// # Errors
    ///
    /// The bytes are none.
    pub fn take<A: DeserializeOwned + Send + 'static>(&mut self) -> Result<Arg<A>, DecodeError> {
        match self.bytes.split_first() {
            Some((&VALUE, rest)) => {
                let (value, rest) = codec::decode_front(rest)?;
                self.bytes = rest;
                Ok(Arg::Value(value))
            }
            Some((&SLOT, rest)) => {
                let (Named { id, .. }, rest) = codec::decode_front(rest)?;
                self.bytes = rest;
                let object = Foreigner::hold(self.system, id);
                Ok(Arg::Later(Box::pin(async move { argument(object).await })))
            }
            first => Err(no_such(first)),
        }
    }
}

/// The argument that an object is, read where it lies if it is a view.
async fn argument<A: DeserializeOwned + Send + 'static>(object: Foreigner) -> Result<A, GetError> {
    let fetched = Arc::new(object.fetch().await?);
    object.within(|| match view::parameter(&fetched) {
        Some(view) => Ok(view),
        None => plain::decode(&fetched.bytes)
            .map_err(|error| CallError::NotStarted(NotStarted::Codec { message: error.to_string() })),
    })
}

/// A tuple of arguments that can be read one by one.
pub trait Arguments: Sized {
    /// Reads each of them.
    ///
    /// # Errors
    ///
    /// The bytes are no such tuple.
    fn read(from: &mut Arriving<'_>) -> Result<Arg<Self>, DecodeError>;

    /// They leave for another process of the job: long arrays by reference, where the host has room for them.
    fn leave(self, system: &Arc<System>) -> Departing<Self>;
}

/// An argument as it leaves: a long array by reference to a copy that others of the host read where it lies. Where there is
/// no room it travels in the message.
fn leave<A: Serialize + Send + 'static>(value: A, system: &Arc<System>) -> Departing<A> {
    if !plain::is_copied::<A>() {
        return Departing::Value(value);
    }
    let encoded = Encoded::of(&value, system.value_bytes_max());
    let room = encoded.ok().filter(|encoded| encoded.len() > INLINE_BYTES_MAX);
    let room = room.and_then(|encoded| {
        let mut room = system.deliver()?.room(encoded.len()).ok()?;
        encoded.write(room.bytes());
        Some(room)
    });
    match room {
        Some(room) => {
            let fetched = Fetched { bytes: room.seal(), pins: Pins::default() };
            Departing::Slots(Box::new(ObjectRef::<Bytes>::written(system, fetched)))
        }
        None => Departing::Value(value),
    }
}

/// Reads a tuple of arguments that [`Departing::encode`] has written, apart or not. References in it belong to `system`.
///
/// # Errors
///
/// The bytes are no such tuple.
pub fn arrive<T: Arguments + DeserializeOwned>(
    system: &Arc<System>,
    is_apart: bool,
    bytes: &[u8],
) -> Result<Arg<T>, DecodeError> {
    if !is_apart {
        return codec::decode(bytes).map(Arg::Value);
    }
    let mut arriving = Arriving { bytes, system };
    let args = T::read(&mut arriving)?;
    match arriving.bytes {
        [] => Ok(args),
        rest => Err(DecodeError::Trailing { bytes: rest.len() }),
    }
}

/// What should say how an argument follows says something else, or is not there.
fn no_such(first: Option<(&u8, &[u8])>) -> DecodeError {
    match first {
        None => DecodeError::UnexpectedEnd { wanted: 1, left: 0 },
        Some((kind, _)) => DecodeError::Value { message: format!("an argument begins with 0 or 1, found {kind}") },
    }
}

/// What can stand where a `T` is wanted: a `T`, or a reference to one.
#[diagnostic::on_unimplemented(
    message = "expected `{T}` or `ObjectRef<{T}>`, found `{Self}`",
    label = "cannot stand for `{T}`"
)]
pub trait IntoArg<T> {
    /// The argument.
    fn into_arg(self) -> Arg<T>;
}

#[diagnostic::do_not_recommend]
impl<T> IntoArg<T> for T {
    fn into_arg(self) -> Arg<T> {
        Arg::Value(self)
    }
}

#[diagnostic::do_not_recommend]
impl IntoArg<String> for &str {
    fn into_arg(self) -> Arg<String> {
        Arg::Value(self.to_owned())
    }
}

/// A reference that stands for an argument, and what is made of its value.
struct Standing<T, A> {
    object: ObjectRef<T>,
    take: fn(ObjectRef<T>) -> BoxFuture<'static, Result<A, GetError>>,
}

impl<T, A> Later<A> for Standing<T, A>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
    A: Send + 'static,
{
    fn resolve(self: Box<Self>) -> BoxFuture<'static, Result<A, GetError>> {
        (self.take)(self.object)
    }

    fn depart(self: Box<Self>) -> BoxFuture<'static, Result<Departing<A>, GetError>> {
        Box::pin(async move {
            if self.object.stays_where_it_is().await? {
                return Ok(Departing::Slots(Box::new(self.object)));
            }
            (self.take)(self.object).await.map(Departing::Value)
        })
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Slots for ObjectRef<T> {
    fn write(&self, to: &mut Vec<u8>, max: usize) -> Result<(), EncodeError> {
        codec::append(to, self, max)
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> ObjectRef<T> {
    fn standing<A: Send + 'static>(self, take: fn(Self) -> BoxFuture<'static, Result<A, GetError>>) -> Arg<A> {
        Arg::Object(Box::new(Standing { object: self, take }))
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> IntoArg<T> for ObjectRef<T> {
    fn into_arg(self) -> Arg<T> {
        self.standing(|object| {
            Box::pin(async move {
                object.get().await?;
                object.into_owned().unwrap_or(Err(CallError::NotStarted(NotStarted::NoSession)))
            })
        })
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> IntoArg<T> for &ObjectRef<T> {
    fn into_arg(self) -> Arg<T> {
        self.clone().into_arg()
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> IntoArg<Arc<T>> for ObjectRef<T> {
    fn into_arg(self) -> Arg<Arc<T>> {
        self.standing(|object| Box::pin(async move { object.get().await.map(Value::into_arc) }))
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> IntoArg<Arc<T>> for &ObjectRef<T> {
    fn into_arg(self) -> Arg<Arc<T>> {
        self.clone().into_arg()
    }
}

#[diagnostic::do_not_recommend]
impl<T: Viewable + Serialize + DeserializeOwned> IntoArg<View<T>> for ObjectRef<T> {
    fn into_arg(self) -> Arg<View<T>> {
        self.standing(|object| Box::pin(async move { object.get_view().await }))
    }
}

#[diagnostic::do_not_recommend]
impl<T: Viewable + Serialize + DeserializeOwned> IntoArg<View<T>> for &ObjectRef<T> {
    fn into_arg(self) -> Arg<View<T>> {
        self.clone().into_arg()
    }
}

#[cfg(test)]
mod tests {
    use mobula_wire::INLINE_BYTES_MAX;

    use super::*;

    type Args = (u64, String);

    fn arrived(is_apart: bool, bytes: &[u8]) -> Result<Arg<Args>, DecodeError> {
        arrive(System::absent(), is_apart, bytes)
    }

    async fn departed(text: &str) -> (bool, Vec<u8>) {
        let object = ObjectRef::ready(System::absent(), text.to_owned());
        let args = (Arg::Value(7u64), IntoArg::<String>::into_arg(object)).join().depart().await.unwrap();
        (args.is_apart(), args.encode(100).unwrap())
    }

    #[tokio::test]
    async fn values_leave_as_one_tuple_and_references_apart() {
        let (is_apart, bytes) = departed("small").await;
        assert!(!is_apart, "a small value travels itself");
        assert_eq!(bytes, mobula_wire::encode(&(7u64, "small")).unwrap());
        let Ok(Arg::Value(args)) = arrived(false, &bytes) else { panic!("all is here") };
        assert_eq!(args, (7, "small".to_owned()));
        let (is_apart, bytes) = departed(&"x".repeat(INLINE_BYTES_MAX)).await;
        assert!(is_apart);
        assert!(matches!(arrived(true, &bytes), Ok(Arg::Later(_))), "one is to come");
    }

    #[test]
    fn bytes_that_are_no_arguments_are_refused() {
        let values = Departing::Value((7u64, "seven".to_owned())).encode(100).unwrap();
        let object = ObjectRef::ready(System::absent(), "seven".to_owned());
        let mut apart = Vec::new();
        Departing::Value(7u64).write(&mut apart, 100).unwrap();
        apart.push(SLOT);
        codec::append(&mut apart, &object, 100).unwrap();
        assert!(arrived(true, &apart).is_ok());
        let mut other = apart.clone();
        other[0] = 2;
        assert!(matches!(arrived(true, &other), Err(DecodeError::Value { .. })));
        for (is_apart, bytes) in [(false, values), (true, apart)] {
            for cut in 0..bytes.len() {
                assert!(arrived(is_apart, &bytes[..cut]).is_err(), "{cut} bytes");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(matches!(arrived(is_apart, &longer), Err(DecodeError::Trailing { bytes: 1 })));
        }
    }

    #[test]
    fn a_limit_is_kept() {
        let args = Departing::Value(("x".repeat(100),));
        assert!(matches!(args.encode(50), Err(EncodeError::TooLarge { max: 50, .. })));
    }
}
