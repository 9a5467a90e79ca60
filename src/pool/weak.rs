//! [`WeakPool`]: a handle that does not keep its pool open.

use std::fmt;
use std::marker::PhantomData;

use super::{Owner, Pool};
use crate::protocol::{Protocol, Raw};
use crate::sync::{Arc, Weak};

/// A handle to a pool that does not keep it open: for a task that looks after a pool and ends with it.
///
/// ```
/// use std::time::Duration;
/// use livepool::{Pool, WeakPool};
///
/// /// Says how full the pool is until its last user has dropped or closed it.
/// async fn watch(pool: WeakPool) {
///     while let Some(pool) = pool.upgrade() {
///         println!("{}", pool.status());
///         drop(pool);
///         tokio::time::sleep(Duration::from_secs(10)).await;
///     }
/// }
/// # fn f(pool: Pool) { tokio::spawn(watch(pool.downgrade())); }
/// ```
pub struct WeakPool<P: Protocol = Raw> {
    handle: Weak<Owner>,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> Pool<P> {
    /// A handle that does not keep the pool open.
    pub fn downgrade(&self) -> WeakPool<P> {
        WeakPool { handle: Arc::downgrade(&self.handle), protocol: PhantomData }
    }
}

impl<P: Protocol> WeakPool<P> {
    /// The pool; `None` when its last handle was dropped, or when it was closed.
    pub fn upgrade(&self) -> Option<Pool<P>> {
        let owner = self.handle.upgrade()?;
        (!owner.0.is_closed()).then(|| Pool::of(owner))
    }
}

impl<P: Protocol> Clone for WeakPool<P> {
    fn clone(&self) -> Self {
        Self { handle: Weak::clone(&self.handle), protocol: PhantomData }
    }
}

impl<P: Protocol> fmt::Debug for WeakPool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WeakPool").field(&self.upgrade()).finish()
    }
}
