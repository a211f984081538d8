//! What a read gives.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A shared value: derefs to it.
pub struct Value<T>(pub(super) Arc<T>);

impl<T> Value<T> {
    /// The value itself if nobody else holds it, else a clone.
    pub fn into_owned(self) -> T
    where
        T: Clone,
    {
        Arc::unwrap_or_clone(self.0)
    }

    /// The value behind its `Arc`.
    pub fn into_arc(self) -> Arc<T> {
        self.0
    }
}

impl<T> Deref for Value<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: PartialEq> PartialEq<T> for Value<T> {
    fn eq(&self, other: &T) -> bool {
        *self.0 == *other
    }
}
