//! The events of a pool, connector or listener, as one closed enum.
//!
//! Metrics, logs and the user's [`Observer`] get the same [`Event`], so they can never disagree. A
//! [`CloseReason`] is used word for word as event field, metric label and log field.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::net::PeerAddr;

/// The number of one connection, unique within the process and never reused.
///
/// ```
/// # async fn f(pool: livepool::Pool) -> Result<(), livepool::CheckoutError> {
/// let guard = pool.get().await?;
/// println!("connection {}", guard.id());
/// # drop(guard); Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub(crate) u64);

impl ConnId {
    /// The next free number.
    pub(crate) fn next() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: the numbers have to differ, and order nothing else.
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The number as it appears in logs.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Defines a closed enum whose variants have a fixed snake_case name and an index.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        // As small as the atomics that hold a reason; the value is the index in `ALL`.
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name, word for word as it appears in metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named! {
    /// The reason why a connection ended. Every connection that was opened ends with exactly one
    /// reason.
    ///
    /// The first group are *evictions*: the pool ended the connection on its own judgement
    /// ([`CloseReason::is_eviction`]). The second group are ends that somebody's use caused.
    ///
    /// ```
    /// use livepool::CloseReason;
    ///
    /// assert_eq!(CloseReason::PeerClosed.as_str(), "peer_closed");
    /// assert!(CloseReason::PeerClosed.is_eviction() && !CloseReason::Unfinished.is_eviction());
    /// ```
    CloseReason {
        /// Eviction: the peer closed its side (FIN), so nothing more will be answered.
        PeerClosed => "peer_closed",
        /// Eviction: the peer, or something on the way, reset the connection (RST).
        Reset => "reset",
        /// Eviction: the kernel declared the peer dead (`ETIMEDOUT`, host or network unreachable):
        /// keepalive probes or our own bytes stayed unanswered for too long.
        KeepaliveTimeout => "keepalive_timeout",
        /// Eviction: the peer was silent and answered none of the probes it was sent.
        ProbeTimeout => "probe_timeout",
        /// Eviction: our own bytes were retransmitted and never acknowledged.
        RetransmitTimeout => "retransmit_timeout",
        /// Eviction: the ping before the connection was to be handed out failed.
        PingFailed => "ping_failed",
        /// Eviction: the ping before the connection was to be handed out took longer than
        /// `timeouts.ping`.
        PingTimeout => "ping_timeout",
        /// Eviction: bytes nobody asked for were waiting while the connection was idle.
        Dirty => "dirty",
        /// Eviction: idle (pool: unused since its return; listener: no byte in either direction) for
        /// longer than `idle_timeout`.
        IdleTimeout => "idle_timeout",
        /// Eviction: older than `max_lifetime`.
        MaxLifetime => "max_lifetime",
        /// Eviction: the pool stopped using its peer, whose other connections died silently.
        PeerEjected => "peer_ejected",
        /// Eviction: the pool was told that its connections are of no use any more
        /// ([`Pool::invalidate`](crate::Pool::invalidate)).
        Invalidated => "invalidated",
        /// Eviction: the pool was made smaller ([`Pool::resize`](crate::Pool::resize),
        /// [`Pool::reconfigure`](crate::Pool::reconfigure)).
        Resized => "resized",
        /// Eviction: the pool was paused ([`Pool::pause`](crate::Pool::pause)).
        Paused => "paused",
        /// Eviction: the connection's address left the name it was found under.
        Drained => "drained",
        /// Eviction: the connection came back after a message longer than `limits.retire_above`,
        /// whose memory its client's buffers keep, and no caller waited for it.
        Outgrown => "outgrown",
        /// Eviction: the tokio runtime that drives this connection has ended.
        RuntimeGone => "runtime_gone",

        /// A read or write failed with an error that none of the names above covers.
        IoError => "io_error",
        /// The peer answered that the session is not what its client takes it for (a statement that
        /// it does not know, say), or the client could not make sense of an answer. The event has the
        /// peer's code.
        ProtocolError => "protocol_error",
        /// A read, write, flush or shutdown passed its deadline.
        OpTimeout => "op_timeout",
        /// The peer was silent while an answer was owed, and found dead.
        PeerSilent => "peer_silent",
        /// The peer sent, or announced, a message longer than `limits.message`.
        TooLarge => "too_large",
        /// The protocol's reset of a connection that came back failed, or took too long.
        ResetFailed => "reset_failed",
        /// A hook of the pool's user failed or took too long
        /// ([`Builder::before_checkout`](crate::Builder::before_checkout),
        /// [`after_return`](crate::Builder::after_return)).
        HookFailed => "hook_failed",
        /// The caller went away while an operation was under way.
        Cancelled => "cancelled",
        /// The connection carried bytes and nobody said that the exchange was complete.
        Unfinished => "unfinished",
        /// The protocol does not let a connection be used again that was used so.
        NotReusable => "not_reusable",
        /// The caller panicked while holding the connection, or a protocol, ping, hook, scanner or layer
        /// panicked over it.
        Panicked => "panicked",
        /// The caller asked for it (`Guard::discard`), or closed an unpooled stream.
        Discarded => "discarded",
        /// The caller took the connection out of the pool (`Guard::detach`).
        Detached => "detached",
        /// A caller needed its slot while the peer was silent and not yet proved dead.
        Superseded => "superseded",
        /// The pool was closed, or its last handle dropped.
        PoolClosed => "pool_closed",
    }
}

impl CloseReason {
    /// Whether the pool ended the connection on its own judgement, rather than because of what its
    /// user did. Evictions are counted in `livepool_evictions_total`.
    pub const fn is_eviction(self) -> bool {
        matches!(
            self,
            Self::PeerClosed
                | Self::Reset
                | Self::KeepaliveTimeout
                | Self::ProbeTimeout
                | Self::RetransmitTimeout
                | Self::PingFailed
                | Self::PingTimeout
                | Self::Dirty
                | Self::IdleTimeout
                | Self::MaxLifetime
                | Self::PeerEjected
                | Self::Invalidated
                | Self::Resized
                | Self::Paused
                | Self::Drained
                | Self::Outgrown
                | Self::RuntimeGone
        )
    }

    /// Whether the connection was found dead (an operator wants to see these), as opposed to ended
    /// by rule or by its user.
    pub const fn is_death(self) -> bool {
        matches!(
            self,
            Self::PeerClosed
                | Self::Reset
                | Self::KeepaliveTimeout
                | Self::ProbeTimeout
                | Self::RetransmitTimeout
                | Self::PingFailed
                | Self::PingTimeout
                | Self::RuntimeGone
                | Self::PeerSilent
                | Self::IoError
        )
    }

    /// Whether the peer was silent to its end: evidence against the peer, and not only against this
    /// connection.
    pub(crate) const fn is_silent_death(self) -> bool {
        matches!(
            self,
            Self::KeepaliveTimeout
                | Self::ProbeTimeout
                | Self::RetransmitTimeout
                | Self::PeerSilent
        )
    }

    /// Whether the other end ended the connection, or made it unusable.
    pub(crate) const fn is_end_by_peer(self) -> bool {
        // Dirty: bytes nobody asked for came from the peer.
        matches!(self, Self::PeerClosed | Self::Reset | Self::Dirty | Self::IoError)
    }

    /// The reason that an error of the socket stands for.
    pub(crate) fn of_io_error(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Self::Reset,
            ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Self::PeerClosed,
            // The kernel's own verdict: ETIMEDOUT, or the ICMP error it kept (tcp_write_err).
            ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Self::KeepaliveTimeout
            }
            _ => Self::IoError,
        }
    }

    /// The reason whose index (`reason as u8`) this is.
    pub(crate) fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}

named! {
    /// The pool's judgement of an address of its upstream.
    ///
    /// ```
    /// use livepool::PeerState;
    ///
    /// fn away(pool: &livepool::Pool) -> usize {
    ///     pool.peers().iter().filter(|peer| peer.state == PeerState::Ejected).count()
    /// }
    /// ```
    PeerState {
        /// No evidence speaks against the peer.
        Healthy => "healthy",
        /// A connection to the peer died silently; the others are being asked for a sign of life.
        /// New connections are made to other peers if there are any.
        Suspect => "suspect",
        /// Connections to the peer died silently and none was heard: it is left alone for a while.
        /// The last peer that is left is never ejected.
        Ejected => "ejected",
        /// The peer was ejected, and a connection is being made to see whether it is back.
        Probing => "probing",
        /// The peer's name no longer leads to it: its connections are used no more.
        Draining => "draining",
    }
}

named! {
    /// An operation that can time out.
    ///
    /// ```
    /// use livepool::OpTimeout;
    /// use livepool::event::Operation;
    ///
    /// fn read_took_too_long(error: &std::io::Error) -> bool {
    ///     OpTimeout::of(error).is_some_and(|timeout| timeout.operation == Operation::Read)
    /// }
    /// ```
    Operation {
        /// A checkout: taking a connection from the pool.
        Checkout => "checkout",
        /// A connect: name lookup and TCP or Unix connect.
        Connect => "connect",
        /// A protocol's handshake on a new connection.
        Handshake => "handshake",
        /// A round trip of the protocol before a connection is handed out.
        Ping => "ping",
        /// A protocol's reset of a connection that came back.
        Reset => "reset",
        /// A hook: what the pool's user has done before a checkout, after a return, before a close.
        Hook => "hook",
        /// A read from a connection.
        Read => "read",
        /// A write to a connection.
        Write => "write",
        /// A flush of a connection.
        Flush => "flush",
        /// The shutdown of a connection's writing side.
        Shutdown => "shutdown",
        /// The wait for a client on a listener.
        Accept => "accept",
    }
}

named! {
    /// The outcome of a checkout.
    ///
    /// ```
    /// use livepool::Event;
    /// use livepool::event::CheckoutOutcome;
    ///
    /// fn is_one(event: &Event) -> bool {
    ///     matches!(event, Event::CheckoutFailed { outcome: CheckoutOutcome::QueueFull, .. })
    /// }
    /// ```
    CheckoutOutcome {
        /// The caller got a connection.
        Ok => "ok",
        /// The deadline passed first.
        Timeout => "timeout",
        /// The queue was full (`max_waiting`).
        QueueFull => "queue_full",
        /// No connection could be made.
        ConnectFailed => "connect_failed",
        /// The hook before a checkout refused a connection that was just made.
        Hook => "hook",
        /// The pool was closed.
        Closed => "closed",
        /// The caller went away while it waited.
        Cancelled => "cancelled",
    }
}

named! {
    /// The outcome of a dial.
    ///
    /// ```
    /// use livepool::Event;
    /// use livepool::event::DialOutcome;
    ///
    /// fn is_one(event: &Event) -> bool {
    ///     matches!(event, Event::DialFailed { outcome: DialOutcome::Refused, .. })
    /// }
    /// ```
    DialOutcome {
        /// A connection was made.
        Ok => "ok",
        /// The peer refused.
        Refused => "refused",
        /// The connect deadline passed.
        Timeout => "timeout",
        /// The name could not be resolved.
        Resolve => "resolve",
        /// The network or host could not be reached.
        Unreachable => "unreachable",
        /// The connection was made, and its protocol's handshake failed.
        Handshake => "handshake",
        /// The connection was made, and the hook after connect failed.
        Hook => "hook",
        /// The dial failed with another error, such as a socket option that could not be set.
        Error => "error",
        /// The pool was closed, or the runtime it ran in has ended; for a `Connector`, its caller
        /// went away.
        Cancelled => "cancelled",
    }
}

named! {
    /// A hook: code of the pool's user that is run over a connection.
    ///
    /// ```
    /// use livepool::Event;
    /// use livepool::event::Hook;
    ///
    /// fn refused_a_checkout(event: &Event) -> bool {
    ///     matches!(event, Event::HookFailed { hook: Hook::BeforeCheckout, .. })
    /// }
    /// ```
    Hook {
        /// After it was made: [`Builder::after_connect`](crate::Builder::after_connect).
        AfterConnect => "after_connect",
        /// Before a caller gets it: [`Builder::before_checkout`](crate::Builder::before_checkout).
        BeforeCheckout => "before_checkout",
        /// After it came back: [`Builder::after_return`](crate::Builder::after_return).
        AfterReturn => "after_return",
        /// Before it is closed: [`Builder::before_close`](crate::Builder::before_close).
        BeforeClose => "before_close",
    }
}

named! {
    /// The outcome of a request to a peer to stop what it does for a connection.
    ///
    /// ```
    /// use livepool::Event;
    /// use livepool::event::CancelOutcome;
    ///
    /// fn is_one(event: &Event) -> bool {
    ///     matches!(event, Event::CancelRequested { outcome: CancelOutcome::Timeout, .. })
    /// }
    /// ```
    CancelOutcome {
        /// The peer took the request. Whether there was anything to stop is not known.
        Ok => "ok",
        /// The request was not taken in time, the wait for its turn included.
        Timeout => "timeout",
        /// The connection for the request could not be made, or broke.
        Failed => "failed",
    }
}

named! {
    /// A check of the liveness ladder.
    ///
    /// ```
    /// use livepool::Event;
    /// use livepool::event::Check;
    ///
    /// fn is_one(event: &Event) -> bool {
    ///     matches!(event, Event::Checked { check: Check::Probe, .. })
    /// }
    /// ```
    Check {
        /// `recv(MSG_PEEK | MSG_DONTWAIT)`.
        Peek => "peek",
        /// The time since the peer's kernel was heard (`TCP_INFO`).
        Life => "life",
        /// Keepalive probes sent on demand, until an answer or a verdict.
        Probe => "probe",
        /// A round trip of the protocol.
        Ping => "ping",
    }
}

named! {
    /// The finding of a check.
    ///
    /// ```
    /// use livepool::Event;
    /// use livepool::event::CheckVerdict;
    ///
    /// fn is_one(event: &Event) -> bool {
    ///     matches!(event, Event::Checked { verdict: CheckVerdict::Dead, .. })
    /// }
    /// ```
    CheckVerdict {
        /// The connection can be used.
        Alive => "alive",
        /// The connection must not be used: dead, or bytes nobody asked for.
        Dead => "dead",
        /// The check could not tell; the connection stays in use.
        Unproved => "unproved",
    }
}

/// An event of a pool, connector or listener. See [`Observer`].
///
/// ```
/// use livepool::{Config, Event, Pool};
///
/// let pool = Pool::builder(Config::new("db.internal:5432"))
///     .observer(|pool: &str, event: &Event| {
///         if let Event::Closed { conn, reason, age, .. } = event {
///             println!("{pool}: {conn} ended after {age:?}: {reason}");
///         }
///     })
///     .build()
///     .unwrap();
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A connection was made.
    #[non_exhaustive]
    Opened {
        /// The connection's number.
        conn: ConnId,
        /// The address the connection goes to.
        peer: PeerAddr,
        /// Time from the start of the dial, name lookup included.
        took: Duration,
    },
    /// A connection could not be made.
    #[non_exhaustive]
    DialFailed {
        /// The outcome of the dial.
        outcome: DialOutcome,
        /// Time from the start of the dial.
        took: Duration,
        /// The text of the error, with every address that was tried.
        error: Arc<str>,
    },
    /// A caller got a connection, or a share of one.
    #[non_exhaustive]
    CheckedOut {
        /// The connection.
        conn: ConnId,
        /// Time the caller waited; zero when it did not have to.
        waited: Duration,
    },
    /// A checkout ended without a connection.
    #[non_exhaustive]
    CheckoutFailed {
        /// The outcome of the checkout.
        outcome: CheckoutOutcome,
        /// Time the caller waited.
        waited: Duration,
    },
    /// A connection came back and may be used again, or a share of one came back.
    #[non_exhaustive]
    Returned {
        /// The connection.
        conn: ConnId,
        /// Time it was in use.
        used: Duration,
    },
    /// A connection was checked.
    #[non_exhaustive]
    Checked {
        /// The connection.
        conn: ConnId,
        /// The check that was made.
        check: Check,
        /// The finding of the check.
        verdict: CheckVerdict,
        /// The time since the peer was last heard, as the system knows it: only after
        /// [`Check::Life`] and [`Check::Probe`].
        heard: Option<Duration>,
    },
    /// A connection ended. Emitted exactly once for every [`Event::Opened`] and
    /// [`Event::Accepted`].
    #[non_exhaustive]
    Closed {
        /// The connection.
        conn: ConnId,
        /// The address the connection went to.
        peer: PeerAddr,
        /// The reason why it ended.
        reason: CloseReason,
        /// Time since it was opened.
        age: Duration,
        /// Time the connection had been in use, where its end was also the end of a use.
        used: Option<Duration>,
        /// The peer's own code for what led to this end, if it gave one: an SQLSTATE, say. At most
        /// 40 characters, escaped.
        code: Option<Arc<str>>,
    },
    /// The pool changed its mind about a peer. Every peer begins as [`PeerState::Healthy`].
    #[non_exhaustive]
    PeerChanged {
        /// The peer's address.
        peer: PeerAddr,
        /// The state that the peer was in.
        from: PeerState,
        /// The state that the peer is in from now on.
        to: PeerState,
    },
    /// A caller has held a connection for longer than `hold_warning`. Emitted once per checkout.
    #[non_exhaustive]
    HeldTooLong {
        /// The connection.
        conn: ConnId,
        /// The address the connection goes to.
        peer: PeerAddr,
        /// The time since its checkout.
        held: Duration,
        /// The place where it was checked out.
        taken_at: &'static Location<'static>,
    },
    /// A caller got a connection, or a share of one, and had waited for longer than `wait_warning`.
    /// Follows its [`CheckedOut`](Self::CheckedOut).
    #[non_exhaustive]
    WaitedTooLong {
        /// The connection.
        conn: ConnId,
        /// The address the connection goes to.
        peer: PeerAddr,
        /// Time the caller waited.
        waited: Duration,
        /// The place where it was checked out.
        taken_at: &'static Location<'static>,
    },
    /// An operation passed its deadline.
    #[non_exhaustive]
    TimedOut {
        /// The operation that timed out.
        operation: Operation,
        /// The connection, where there was one.
        conn: Option<ConnId>,
        /// The time limit of the operation.
        after: Duration,
    },
    /// A connection is not encrypted, although its protocol would have encrypted it: encryption was
    /// preferred, and not demanded. Emitted in the handshake, before [`Event::Opened`].
    #[non_exhaustive]
    Unencrypted {
        /// The connection.
        conn: ConnId,
        /// The address the connection goes to.
        peer: PeerAddr,
        /// Whether the peer was asked, and does not offer encryption, or somebody in between says
        /// so. If not, the pool was not told whom to trust.
        was_asked: bool,
    },
    /// A connection that is shared is joined by nobody any more: a caller has left something in its
    /// session, say. Those who use it go on, and then it is reset or closed.
    #[non_exhaustive]
    SharingEnded {
        /// The connection.
        conn: ConnId,
        /// The address the connection goes to.
        peer: PeerAddr,
    },
    /// A peer was asked, over a connection made for that, to stop what it does for another
    /// connection: the caller of a request went away, or the request took too long.
    #[non_exhaustive]
    CancelRequested {
        /// The connection whose request is to end.
        conn: ConnId,
        /// The address that both connections go to.
        peer: PeerAddr,
        /// The outcome of the request.
        outcome: CancelOutcome,
        /// Time since the request was wanted, the wait for its turn included.
        took: Duration,
    },
    /// A hook failed, panicked or took too long. Emitted before what follows from it: a dial that failed
    /// ([`Hook::AfterConnect`]), or a connection that is closed.
    #[non_exhaustive]
    HookFailed {
        /// The hook.
        hook: Hook,
        /// The connection.
        conn: ConnId,
        /// The address the connection goes to.
        peer: PeerAddr,
        /// The text of the error, with the hook's own words: escaped and cut.
        error: Arc<str>,
    },
    /// The pool's configuration was changed while it runs ([`Pool::reconfigure`](crate::Pool::reconfigure),
    /// [`Pool::resize`](crate::Pool::resize)). Emitted when it holds, before what follows from it.
    #[non_exhaustive]
    Reconfigured {
        /// The settings that were changed, as a configuration file would spell them, such as
        /// `timeouts.checkout`.
        changed: Arc<[&'static str]>,
    },
    /// A socket option was not set: this system does not have it, or it is best-effort and was
    /// refused. Emitted once per option.
    #[non_exhaustive]
    OptionUnavailable {
        /// The option's name in the configuration.
        option: &'static str,
        /// The text of the system's error.
        error: Arc<str>,
    },
    /// A listener accepted a client.
    #[non_exhaustive]
    Accepted {
        /// The connection's number.
        conn: ConnId,
        /// The client's address.
        peer: PeerAddr,
    },
    /// `accept` failed in a way that passes; the listener waits `backoff` and goes on.
    #[non_exhaustive]
    AcceptFailed {
        /// The text of the system's error.
        error: Arc<str>,
        /// Pause before the next try.
        backoff: Duration,
    },
}

/// A receiver of every [`Event`] of a pool, a connector or a listener, at once and on the thread
/// where it happened, never under a lock. Keep its code short: it runs on the hot path.
///
/// A panic in an observer is caught and logged; it does not reach the pool's user. An observer may use
/// the pool, drop guards, and take locks of its own.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use livepool::{Config, Event, Observer, Pool};
///
/// struct Count(Arc<AtomicUsize>);
///
/// impl Observer for Count {
///     fn on_event(&self, _pool: &str, event: &Event) {
///         if let Event::Opened { .. } = event {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let opened = Arc::<AtomicUsize>::default();
/// let count = Count(Arc::clone(&opened));
/// let pool = Pool::builder(Config::new("db.internal:5432")).observer(count).build().unwrap();
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Called once per event; `name` is the pool's or listener's name.
    fn on_event(&self, name: &str, event: &Event);
}

impl<F: Fn(&str, &Event) + Send + Sync + 'static> Observer for F {
    fn on_event(&self, name: &str, event: &Event) {
        self(name, event);
    }
}
