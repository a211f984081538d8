//! Bytes that a message owns beside its own size, as far as they are known without walking through it: mailboxes are
//! bounded in bytes too (G14).

/// A field of a message.
pub struct Weighed<'a, T: ?Sized>(pub &'a T);

/// Types that own bytes and know at once how many.
pub trait Heavy {
    /// The bytes.
    fn bytes(&self) -> usize;
}

/// The weight of every other type.
pub trait Light {
    /// Nothing that is known.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl<T: ?Sized> Light for Weighed<'_, T> {}

impl<T: Heavy + ?Sized> Weighed<'_, T> {
    /// The bytes that the field owns.
    pub fn heap_bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Heavy for String {
    fn bytes(&self) -> usize {
        self.capacity()
    }
}

impl<T> Heavy for Vec<T> {
    fn bytes(&self) -> usize {
        self.capacity() * size_of::<T>()
    }
}

impl<T> Heavy for Box<[T]> {
    fn bytes(&self) -> usize {
        size_of_val(&**self)
    }
}

impl<T: Heavy> Heavy for Option<T> {
    fn bytes(&self) -> usize {
        self.as_ref().map_or(0, Heavy::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_own_bytes_is_weighed() {
        assert_eq!(Weighed(&vec![0u32; 4]).heap_bytes(), 16);
        assert_eq!(Weighed(&Some("four".to_owned())).heap_bytes(), 4);
        assert_eq!(Weighed(&std::collections::HashMap::<u8, u8>::new()).heap_bytes(), 0);
    }
}
