//! The names of pools, and numbers for those that nobody named.
//!
//! Gauges are kept by name: of two pools with one name each would overwrite what the other says, and
//! the first to go would set the other's to 0. A name that its user gave is the user's business.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of pools that have each name now.
// Held for a look and a change; no foreign code is called under it.
static IN_USE: Mutex<BTreeMap<Arc<str>, usize>> = Mutex::new(BTreeMap::new());

fn in_use() -> MutexGuard<'static, BTreeMap<Arc<str>, usize>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a pool, connector or listener. A second pool has the name only if its user gave it.
#[derive(Debug)]
pub(super) struct OwnerName {
    text: Arc<str>,
    is_counted: bool,
}

impl OwnerName {
    /// The name of a connector or listener, which set no gauge of a pool's.
    pub(super) fn uncounted(text: &str) -> Self {
        Self { text: text.into(), is_counted: false }
    }

    /// The name that a user gave to a pool.
    pub(super) fn given(text: &str) -> Self {
        Self::take(&mut in_use(), text.into())
    }

    /// The name of a pool that has none of its own: this one, or the first of `text#2`, `text#3`, ...
    /// that no pool of this process has.
    pub(super) fn default(text: &str) -> Self {
        let mut in_use = in_use();
        let mut name: Arc<str> = text.into();
        let mut number = 1_usize;
        while in_use.contains_key(&name) {
            number += 1;
            name = format!("{text}#{number}").into();
        }
        Self::take(&mut in_use, name)
    }

    fn take(in_use: &mut BTreeMap<Arc<str>, usize>, text: Arc<str>) -> Self {
        *in_use.entry(Arc::clone(&text)).or_default() += 1;
        Self { text, is_counted: true }
    }

    pub(super) fn text(&self) -> &Arc<str> {
        &self.text
    }
}

impl Drop for OwnerName {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let mut in_use = in_use();
        if let Some(count) = in_use.get_mut(&self.text) {
            *count -= 1;
            if *count == 0 {
                in_use.remove(&self.text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_name_is_numbered_while_it_is_in_use_and_a_given_one_never() {
        let text = "a default name that no other test has";
        let first = OwnerName::default(text);
        let second = OwnerName::default(text);
        let given = OwnerName::given(text);
        assert_eq!((&**first.text(), &**given.text()), (text, text));
        assert_eq!(&**second.text(), format!("{text}#2"));
        drop(first);
        assert_eq!(&**OwnerName::default(text).text(), format!("{text}#3"), "the given one has it");
        drop((second, given));
        assert_eq!(&**OwnerName::default(text).text(), text);
    }
}
