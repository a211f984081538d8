//! Arrays that are written where their readers will read them.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use mobula_types::NotStarted;
use mobula_wire::Plain;
use mobula_wire::plain::{self, LENGTH_BYTES};

use super::room::{self, PrivateRoom};
use super::{ObjectRef, Pins};
use crate::deliver::{Fetched, Room};
use crate::system::System;

/// An array that is being written, in the memory that the processes of this host share: derefs to `[P]`. What it holds at
/// first is of no meaning. Dropped without [`put`](Self::put), it was never there.
pub struct Writer<P: Plain + 'static> {
    system: Arc<System>,
    room: Box<dyn Room>,
    /// What it derefs to while it is only read.
    elements: PhantomData<P>,
}

impl<P: Plain + 'static> Writer<P> {
    /// Room for `length` elements.
    ///
    /// # Errors
    ///
    /// [`NotStarted::StoreFull`], after two seconds in which nobody let go of anything; [`NotStarted::TooLarge`].
    pub async fn new(system: &Arc<System>, length: usize) -> Result<Self, NotStarted> {
        let bytes = length.checked_mul(size_of::<P>()).and_then(|bytes| bytes.checked_add(LENGTH_BYTES));
        let max = isize::MAX.unsigned_abs();
        let bytes = bytes.filter(|bytes| *bytes < max).ok_or(NotStarted::TooLarge { bytes: usize::MAX, max })?;
        let room = room::shared(system, bytes).await?;
        let mut room = room.unwrap_or_else(|| Box::new(PrivateRoom::of(bytes)));
        plain::write_length(room.bytes(), length);
        Ok(Self { system: system.clone(), room, elements: PhantomData })
    }

    /// It is written: from now on it is read, by whoever has the reference.
    #[track_caller]
    pub fn put(self) -> ObjectRef<Vec<P>> {
        let fetched = Fetched { bytes: self.room.seal(), pins: Pins::default() };
        ObjectRef::written(&self.system, fetched)
    }
}

impl<P: Plain + 'static> Deref for Writer<P> {
    type Target = [P];

    fn deref(&self) -> &[P] {
        plain::view(self.room.written()).unwrap_or_default()
    }
}

impl<P: Plain + 'static> DerefMut for Writer<P> {
    fn deref_mut(&mut self) -> &mut [P] {
        plain::view_mut(self.room.bytes()).unwrap_or_default()
    }
}
