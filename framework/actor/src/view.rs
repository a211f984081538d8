//! Values that are read where they lie: in this process, or in memory that the processes of a host share.

use std::any::{Any, TypeId};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use mobula_wire::plain::Viewable;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::deliver::Fetched;

/// A value to be read: derefs to what it is a view of, `[f32]` for a `Vec<f32>`.
///
/// Nothing is copied for it where the value is in this process or in the memory of its host. As a parameter of a function
/// it takes the place of a `Vec`, [`Bytes`] or `String` without a copy of its own; inside another value it travels as the
/// value does.
pub struct View<T>(Place<T>);

enum Place<T> {
    /// The value itself.
    Value(Arc<T>),
    /// Its bytes, of which it has been seen that they are one.
    Bytes(Arc<Fetched>),
}

impl<T: Viewable> View<T> {
    /// A view of a value.
    pub fn of(value: impl Into<Arc<T>>) -> Self {
        Self(Place::Value(value.into()))
    }

    /// A view of encoded bytes, if they can be read where they lie.
    pub(crate) fn of_bytes(fetched: Arc<Fetched>) -> Option<Self> {
        T::view(&fetched.bytes)?;
        Some(Self(Place::Bytes(fetched)))
    }
}

impl<T: Viewable> Deref for View<T> {
    type Target = T::Target;

    fn deref(&self) -> &T::Target {
        match &self.0 {
            Place::Value(value) => value.target(),
            Place::Bytes(fetched) => {
                T::view(&fetched.bytes).expect("sealed bytes do not change, and it was seen before")
            }
        }
    }
}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Place::Value(value) => Place::Value(value.clone()),
            Place::Bytes(fetched) => Place::Bytes(fetched.clone()),
        })
    }
}

impl<T: Viewable<Target: fmt::Debug>> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Viewable + Serialize> Serialize for View<T>
where
    T::Target: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Place::Value(value) => value.serialize(serializer),
            // An array, bytes or text is written as what it is a view of.
            Place::Bytes(_) => (**self).serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for View<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(|value| Self(Place::Value(Arc::new(value))))
    }
}

/// The view that a parameter of type `A` is of these bytes; `None` when it is none, or they cannot be read where they lie.
pub(crate) fn parameter<A: 'static>(fetched: &Arc<Fetched>) -> Option<A> {
    macro_rules! any_of {
        ($($of:ty)*) => {
            $(if TypeId::of::<A>() == TypeId::of::<View<$of>>() {
                let mut view = View::<$of>::of_bytes(fetched.clone());
                return (&mut view as &mut dyn Any).downcast_mut::<Option<A>>()?.take();
            })*
        };
    }
    any_of!(
        Vec<u8> Vec<i8> Vec<u16> Vec<i16> Vec<u32> Vec<i32> Vec<u64> Vec<i64> Vec<u128> Vec<i128> Vec<f32> Vec<f64>
        Bytes String
    );
    None
}

#[cfg(test)]
mod tests {
    use mobula_wire::plain;

    use super::*;
    use crate::object::Pins;

    fn fetched(bytes: Vec<u8>) -> Arc<Fetched> {
        Arc::new(Fetched { bytes: bytes.into(), pins: Pins::default() })
    }

    #[test]
    fn a_view_is_where_its_bytes_are() {
        let lying = fetched(plain::encode(&"sting".to_owned(), 100).unwrap());
        let view: View<String> = parameter(&lying).unwrap();
        assert_eq!(&*view, "sting");
        assert_eq!(view.as_ptr(), lying.bytes[plain::LENGTH_BYTES..].as_ptr());
        assert!(parameter::<String>(&lying).is_none(), "it is no view");
        assert!(parameter::<View<Vec<f64>>>(&lying).is_none(), "it is another's");
    }

    #[test]
    fn it_travels_as_its_value_does() {
        let array = vec![1.5f32, 2.5];
        let bytes = mobula_wire::encode(&array).unwrap();
        let lying = View::<Vec<f32>>::of_bytes(fetched(bytes.clone()));
        for view in lying.into_iter().chain([View::of(array)]) {
            assert_eq!(mobula_wire::encode(&view).unwrap(), bytes);
        }
        let back: View<Vec<f32>> = mobula_wire::decode(&bytes).unwrap();
        assert_eq!(*back, [1.5, 2.5]);
    }
}
