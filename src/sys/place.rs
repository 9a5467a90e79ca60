//! [`AtomicPlace`]: a place in the program, written and read by several threads without a lock.
#![allow(unsafe_code)]

use std::fmt;
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A place, or none.
pub(crate) struct AtomicPlace(AtomicPtr<Location<'static>>);

impl AtomicPlace {
    pub(crate) const fn none() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Whoever sees this place sees what was written before.
    #[inline]
    pub(crate) fn set(&self, place: &'static Location<'static>) {
        self.0.store(ptr::from_ref(place).cast_mut(), Ordering::Release);
    }

    #[inline]
    pub(crate) fn clear(&self) {
        self.0.store(ptr::null_mut(), Ordering::Release);
    }

    pub(crate) fn get(&self) -> Option<&'static Location<'static>> {
        let place = self.0.load(Ordering::Acquire);
        // SAFETY: the pointer is null, or was made of a `&'static Location` in `set`, the only writer; it is
        // never written through, and the type of the field says that what it leads to is `'static`.
        unsafe { place.as_ref() }
    }
}

impl fmt::Debug for AtomicPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_there_from_when_it_was_set_until_it_is_cleared() {
        let place = AtomicPlace::none();
        assert!(place.get().is_none());
        let here = Location::caller();
        place.set(here);
        assert_eq!(place.get().map(ToString::to_string), Some(here.to_string()));
        place.clear();
        assert!(place.get().is_none());
    }
}
