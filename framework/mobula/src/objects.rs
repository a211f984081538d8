//! `put`, `get` and `wait`: values by reference.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mobula_actor::{GetError, ObjectRef, Plain, Value, Viewable, Writer, current};
use mobula_types::{CallError, NotStarted};

/// Makes a reference to `value`: passing it on copies nothing. Only a small value, of at most 2 KiB encoded, goes along when
/// its reference leaves the process, so that whoever reads it need not ask for it.
///
/// ```
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let big = mobula::put(vec![0f32; 1 << 20])?;
/// assert_eq!(mobula::get(&big).await?.len(), 1 << 20);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// There is no session.
#[track_caller]
pub fn put<T: Send + Sync + 'static>(value: T) -> Result<ObjectRef<T>, CallError> {
    let system = current::system().ok_or(CallError::NotStarted(NotStarted::NoSession))?;
    Ok(ObjectRef::ready(&system, value))
}

/// Room for an array of `length` numbers where the processes of this host will read it: it is written in place, and
/// [`put`](Writer::put) makes a reference of it without a copy.
///
/// ```
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let mut squares = mobula::writer::<u64>(1_000).await?;
/// squares.iter_mut().enumerate().for_each(|(n, square)| *square = (n * n) as u64);
/// let squares = squares.put();
/// assert_eq!(mobula::get_view(&squares).await?[12], 144);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// There is no session; [`NotStarted::StoreFull`] when two seconds bring no room; [`NotStarted::TooLarge`] above what any
/// machine addresses.
pub async fn writer<P: Plain + 'static>(length: usize) -> Result<Writer<P>, CallError> {
    let system = current::system().ok_or(CallError::NotStarted(NotStarted::NoSession))?;
    Writer::new(&system, length).await.map_err(CallError::NotStarted)
}

/// Waits for the value of a reference, or for those of several.
///
/// Functions that are not async call [`ObjectRef::wait`] instead.
///
/// ```
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let (a, b) = (mobula::put(1)?, mobula::put(2)?);
/// assert_eq!(*mobula::get(&a).await?, 1);
/// let both = mobula::get(vec![a, b]).await?;
/// assert_eq!(both.iter().map(|value| **value).sum::<i32>(), 3);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Why there is no value: whatever the task or call that makes it ended with.
pub fn get<G: Gettable>(refs: G) -> G::Get {
    refs.into_get()
}

/// Waits until the value of a reference can be read where it lies: of an array of numbers, `Bytes` or a `String`
/// nothing is copied, however large it is and whichever process of this host has made it.
///
/// ```
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let weights = mobula::put(vec![0.5f32; 1 << 20])?;
/// let view = mobula::get_view(&weights).await?;
/// assert_eq!(view.iter().sum::<f32>(), (1 << 19) as f32);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`get`].
pub fn get_view<T: Viewable>(object: &ObjectRef<T>) -> mobula_actor::object::GetView<T> {
    object.get_view()
}

/// What [`get`] takes: a reference, or a list of them.
pub trait Gettable {
    /// The wait for it.
    type Get: Future;

    /// Begins the wait.
    fn into_get(self) -> Self::Get;
}

impl<T: Send + Sync + 'static> Gettable for ObjectRef<T> {
    type Get = mobula_actor::object::Get<T>;

    fn into_get(self) -> Self::Get {
        self.into_future()
    }
}

impl<T: Send + Sync + 'static> Gettable for &ObjectRef<T> {
    type Get = mobula_actor::object::Get<T>;

    fn into_get(self) -> Self::Get {
        self.get()
    }
}

impl<T: Send + Sync + 'static> Gettable for Vec<ObjectRef<T>> {
    type Get = BoxFuture<'static, Result<Vec<Value<T>>, GetError>>;

    fn into_get(self) -> Self::Get {
        Box::pin(async move {
            self.iter().for_each(ObjectRef::prefetch);
            let mut values = Vec::with_capacity(self.len());
            for object in self {
                values.push(object.await?);
            }
            Ok(values)
        })
    }
}

impl<T: Send + Sync + 'static> Gettable for &Vec<ObjectRef<T>> {
    type Get = BoxFuture<'static, Result<Vec<Value<T>>, GetError>>;

    fn into_get(self) -> Self::Get {
        self.clone().into_get()
    }
}

impl<T: Send + Sync + 'static> Gettable for &[ObjectRef<T>] {
    type Get = BoxFuture<'static, Result<Vec<Value<T>>, GetError>>;

    fn into_get(self) -> Self::Get {
        self.to_vec().into_get()
    }
}

/// Waits until some of `refs` have a value or the reason why they have none; one of them unless [`count`](Wait::count)
/// says otherwise.
///
/// Gives those that are ready and the rest, both in the order of `refs`.
///
/// ```
/// # use mobula::prelude::*;
/// #[remote]
/// fn square(n: u64) -> u64 { n * n }
///
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let refs: Vec<_> = (0..5).map(|n| square::remote(n)).collect();
/// let (ready, rest) = mobula::wait(&refs).count(5).timeout(secs(5)).await?;
/// assert_eq!((ready.len(), rest.len()), (5, 0));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`WaitError::TooFew`]: more are waited for than there are.
pub fn wait<T: Send + Sync + 'static>(refs: &[ObjectRef<T>]) -> Wait<T> {
    Wait { refs: refs.to_vec(), count: 1, timeout: None }
}

/// A [`wait`] about to begin.
#[must_use = "a wait does nothing unless awaited"]
pub struct Wait<T> {
    refs: Vec<ObjectRef<T>>,
    count: usize,
    timeout: Option<Duration>,
}

impl<T: Send + Sync + 'static> Wait<T> {
    /// Waits for `count` of them.
    pub fn count(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    /// Waits at most `timeout`, then gives those that are ready by then.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Split<T>, WaitError> {
        let Self { refs, count, timeout } = self;
        if count > refs.len() {
            return Err(WaitError::TooFew { count, given: refs.len() });
        }
        // Waiting costs a place with every reference; often enough of them are there already.
        if refs.iter().filter(|object| object.is_ready()).count() < count {
            let enough = enough_ready(&refs, count);
            match timeout {
                Some(timeout) => tokio::time::timeout(timeout, enough).await.unwrap_or(()),
                None => enough.await,
            }
        }
        Ok(refs.into_iter().partition(ObjectRef::is_ready))
    }
}

type Split<T> = (Vec<ObjectRef<T>>, Vec<ObjectRef<T>>);

async fn enough_ready<T: Send + Sync + 'static>(refs: &[ObjectRef<T>], count: usize) {
    let mut waits: Vec<_> = refs.iter().map(ObjectRef::settled).collect();
    let mut ready = 0;
    poll_fn(move |cx| {
        waits.retain_mut(|wait| {
            let is_ready = Pin::new(wait).poll(cx).is_ready();
            ready += usize::from(is_ready);
            !is_ready
        });
        if ready >= count { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl<T: Send + Sync + 'static> IntoFuture for Wait<T> {
    type Output = Result<Split<T>, WaitError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Why a [`wait`] cannot end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// More references are waited for than there are.
    #[error("waiting for {count} of {given} references would never end")]
    TooFew {
        /// How many are waited for.
        count: usize,
        /// How many there are.
        given: usize,
    },
}

/// So many seconds.
///
/// ```
/// assert_eq!(mobula::secs(2), std::time::Duration::from_millis(2_000));
/// ```
pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// So many milliseconds.
///
/// ```
/// assert_eq!(mobula::millis(1_500), std::time::Duration::from_secs_f64(1.5));
/// ```
pub const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
