//! References as they are written: a name, and beside it the value if that is small.
//!
//! Whoever reads such a reference has the value at once and asks nobody for it. Only what was put here has its value beside
//! it: that is so from the beginning, so that the same code writes the same bytes whenever it runs. Values that name objects
//! do not go along: the message would have to name those too.

use std::sync::Arc;

use bytes::Bytes;
use mobula_types::ObjectId;
use mobula_wire::{EncodeError, Encoded, INLINE_BYTES_MAX};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ByBytes, Fetching, ObjectCell, ObjectRef, Pins, pinning, pins};
use crate::current;
use crate::deliver::Fetched;

/// The longest value that goes with each reference to it: copying so much costs less than asking for it.
pub(super) const CARRIED_BYTES_MAX: usize = 2 << 10;

/// A reference as bytes.
#[derive(Serialize, Deserialize)]
pub(crate) struct Named {
    /// The object.
    pub(crate) id: ObjectId,
    carried: Option<Bytes>,
}

/// How large a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// It goes with its references, and names no objects itself.
    Small,
    /// It goes into a message.
    Fits,
    /// It is read where it is.
    Large,
}

impl<T: Serialize + Send + Sync + 'static> ObjectCell<T> {
    pub(super) fn size(&self, value: &T) -> Size {
        let measure = || match pinning(|| Encoded::of(value, INLINE_BYTES_MAX)) {
            (Ok(encoded), pins) => Size::of(encoded.len(), pins.is_empty()),
            (Err(EncodeError::TooLarge { .. }), _) => Size::Large,
            (Err(_), _) => Size::Fits,
        };
        *self.size.get_or_init(measure)
    }

    fn carried(&self) -> Option<Bytes> {
        let is_put = self.call.is_none() && self.encoded.is_none();
        let Ok(value) = self.value.get().filter(|_| is_put)? else { return None };
        let is_small = self.size(value) == Size::Small;
        let encoded = is_small.then(|| Encoded::of(&**value, CARRIED_BYTES_MAX).ok()).flatten()?;
        let may_go = pins::carry(encoded.len(), self.system.value_bytes_max());
        may_go.then(|| encoded.into_vec().into())
    }
}

impl Size {
    pub(super) fn of(bytes: usize, names_none: bool) -> Self {
        if bytes <= CARRIED_BYTES_MAX && names_none { Self::Small } else { Self::Fits }
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Serialize for ObjectRef<T> {
    /// Exports the object and writes its name.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.cell.is_foreign() {
            self.cell.leave();
        }
        pins::pin(self.cell.id, self.cell.clone());
        if serializer.is_human_readable() {
            return self.cell.id.serialize(serializer);
        }
        Named { id: self.cell.id, carried: self.cell.carried() }.serialize(serializer)
    }
}

impl<'de, T: Serialize + DeserializeOwned + Send + Sync + 'static> Deserialize<'de> for ObjectRef<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let Named { id, carried } = match deserializer.is_human_readable() {
            true => Named { id: ObjectId::deserialize(deserializer)?, carried: None },
            false => Named::deserialize(deserializer)?,
        };
        if let Some(bytes) = carried.as_ref().map(Bytes::len).filter(|bytes| *bytes > CARRIED_BYTES_MAX) {
            let most = CARRIED_BYTES_MAX;
            return Err(D::Error::custom(format!("{id} comes with {bytes} bytes, at most {most} go with a reference")));
        }
        let system = current::decoding()?;
        if let Some(object) = system.exports.get(id) {
            let cell = object.into_any().downcast::<ObjectCell<T>>();
            return cell.map(|cell| Self { cell }).map_err(|_| D::Error::custom(format!("{id} is not of this type")));
        }
        // One of ours of which nothing is left here is read as another's: the node has it.
        let deliver = system.deliver().ok_or_else(|| D::Error::custom(format!("{id} belongs to an unknown node")))?;
        deliver.hold(id);
        let mut by_bytes = ByBytes::of(true);
        if let Some(bytes) = carried {
            *by_bytes.fetching.get_mut() = Fetching::Here(Arc::new(Fetched { bytes, pins: Pins::default() }));
        }
        Ok(Self::empty(&system, None, Some((id, by_bytes))))
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::{NodeId, ProcessId};

    use super::*;
    use crate::system::{System, SystemConfig};

    fn named<T: Serialize + DeserializeOwned + Send + Sync + 'static>(object: &ObjectRef<T>) -> Named {
        let (bytes, pins) = pinning(|| mobula_wire::encode(object).unwrap());
        assert_eq!(pins.ids(), [object.id()]);
        mobula_wire::decode(&bytes).unwrap()
    }

    #[tokio::test]
    async fn small_values_that_were_put_go_with_their_references() {
        let process = ProcessId::new(NodeId(1), 1);
        let system = System::start(&SystemConfig { process, arbiters: 1, value_bytes_max: usize::MAX });
        let small = ObjectRef::ready(&system, 7u64);
        let carried = named(&small).carried;
        assert_eq!(carried, Some(mobula_wire::encode(&7u64).unwrap().into()));
        let large = ObjectRef::ready(&system, vec![7u8; CARRIED_BYTES_MAX]);
        let names_another = ObjectRef::ready(&system, small.clone());
        let later = ObjectRef::<u64>::pending(&system, None);
        let failed = ObjectRef::<u64>::pending(&system, None);
        failed.fill(Err(mobula_types::CallError::NotStarted(mobula_types::NotStarted::NoSession)));
        assert_eq!(named(&large).carried, None);
        assert_eq!(named(&names_another).carried, None);
        assert_eq!(named(&later).carried, None);
        assert_eq!(named(&failed).carried, None);
        // Where nobody says when it has arrived, it is only a name.
        let alone: Named = mobula_wire::decode(&mobula_wire::encode(&small).unwrap()).unwrap();
        assert_eq!(alone.carried, None);
        system.stop(std::time::Duration::ZERO).await;
    }

    #[tokio::test]
    async fn small_bytes_that_lie_askew_are_not_decoded_by_who_only_looks() {
        let process = ProcessId::new(NodeId(1), 1);
        let system = System::start(&SystemConfig { process, arbiters: 1, value_bytes_max: usize::MAX });
        let bytes = Bytes::from([&[0], &mobula_wire::encode(&vec![1f32, 2.0]).unwrap()[..]].concat()).slice(1..);
        let mut by_bytes = ByBytes::of(true);
        *by_bytes.fetching.get_mut() = Fetching::Here(Arc::new(Fetched { bytes, pins: Pins::default() }));
        let id = ObjectId { owner: ProcessId::new(NodeId(1), 2), seq: 1 };
        let object = ObjectRef::<Vec<f32>>::empty(&system, None, Some((id, by_bytes)));
        let waiters = object.cell.waiters.lock();
        assert!(object.view().is_none(), "it returns, although nobody can be told now");
        drop(waiters);
        assert_eq!(*object.get_view().await.unwrap(), [1.0, 2.0]);
        system.stop(std::time::Duration::ZERO).await;
    }

    #[test]
    fn what_goes_with_references_takes_at_most_a_quarter_of_a_message() {
        let (fitted, _) = pinning(|| (0..10).filter(|_| pins::carry(100, 2_000)).count());
        assert_eq!(fitted, 5);
    }
}
