//! Spans around what takes time. A subscriber is foreign code, and a span calls it whenever it is made,
//! entered, left or dropped.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tracing::field::{Empty, display};
use tracing::level_filters::LevelFilter;

use super::log::TARGET;
use crate::event::ConnId;
use crate::foreign;
use crate::net::PeerAddr;

/// A span that catches the panics of its subscriber.
#[derive(Debug)]
pub(crate) struct Span(tracing::Span);

impl Span {
    fn new(make: impl FnOnce() -> tracing::Span) -> Self {
        Self(foreign::call(make).unwrap_or_else(|_| tracing::Span::none()))
    }

    /// No span.
    pub(crate) fn none() -> Self {
        Self(tracing::Span::none())
    }

    /// Whether a subscriber may want the spans of checkouts and dials. A static check.
    #[inline]
    pub(crate) fn are_wanted() -> bool {
        LevelFilter::current() >= LevelFilter::DEBUG
    }

    /// The span of a checkout.
    pub(crate) fn of_checkout(pool: &str) -> Self {
        Self::new(
            || tracing::debug_span!(target: TARGET, "checkout", pool, peer = Empty, conn_id = Empty),
        )
    }

    /// The span of a dial.
    pub(crate) fn of_dial(pool: &str, upstream: &str) -> Self {
        Self::new(
            || tracing::debug_span!(target: TARGET, "dial", pool, upstream, peer = Empty, conn_id = Empty),
        )
    }

    /// The span that the caller is in.
    pub(crate) fn current() -> Self {
        Self::new(tracing::Span::current)
    }

    /// Its name. Calls no subscriber.
    pub(crate) fn name(&self) -> Option<&'static str> {
        self.0.metadata().map(|metadata| metadata.name())
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.0.is_disabled()
    }

    /// Records the connection that the work in the span led to.
    #[inline]
    pub(crate) fn record_conn(&self, conn: ConnId, peer: &PeerAddr) {
        if self.is_disabled() {
            return;
        }
        let _ = foreign::call(|| {
            self.0.record("peer", display(peer));
            self.0.record("conn_id", conn.get());
        });
    }

    /// Runs `inside` in the span.
    pub(crate) fn in_scope<T>(&self, inside: impl FnOnce() -> T) -> T {
        let _entered = self.enter();
        inside()
    }

    /// Runs this future in the span.
    pub(crate) fn instrument<F: Future>(&self, future: F) -> Instrumented<'_, F> {
        Instrumented { span: self, future: Some(future) }
    }

    fn enter(&self) -> Entered<'_> {
        Entered(foreign::call(|| self.0.enter()).ok())
    }
}

impl Clone for Span {
    fn clone(&self) -> Self {
        Self::new(|| self.0.clone())
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // A disabled span calls no subscriber: no `catch_unwind` on the path of every checkout.
        if !self.0.is_disabled() {
            foreign::dispose(mem::replace(&mut self.0, tracing::Span::none()));
        }
    }
}

struct Entered<'a>(Option<tracing::span::Entered<'a>>);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        foreign::dispose(self.0.take());
    }
}

pin_project! {
    /// The future that [`Span::instrument`] returns.
    pub(crate) struct Instrumented<'a, F> {
        span: &'a Span,
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Instrumented<'_, F> {
        /// Drops the future in the span, which has the lines of its end as well.
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.span.enter();
            this.future.set(None);
        }
    }
}

impl<F: Future> Future for Instrumented<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        match this.future.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => unreachable!("it is there until it is dropped"),
        }
    }
}
