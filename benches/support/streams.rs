//! Streams with and without a deadline on every operation.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use livepool::{Config, Connector};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Who bounds the time of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody.
    Raw,
    /// livepool's stream.
    Livepool,
    /// `tokio::time::timeout` around each operation.
    Timeout,
    /// tokio-io-timeout.
    IoTimeout,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Raw, Self::Livepool, Self::Timeout, Self::IoTimeout];

    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Livepool => "livepool",
            Self::Timeout => "tokio::time::timeout",
            Self::IoTimeout => "tokio-io-timeout",
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// A stream; behind a pointer all of them, so that all pay the same for it.
pub struct Bounded {
    kind: Kind,
    stream: Pin<Box<dyn Duplex>>,
}

pub async fn connect(kind: Kind, addr: SocketAddr) -> Bounded {
    let stream: Pin<Box<dyn Duplex>> = match kind {
        Kind::Livepool => {
            let connector = Connector::new(&Config::new(addr.to_string())).expect("valid");
            Box::pin(connector.connect().await.expect("an upstream"))
        }
        _ => {
            let stream = TcpStream::connect(addr).await.expect("an upstream");
            same_options(&stream);
            match kind {
                Kind::IoTimeout => {
                    let mut stream = TimeoutStream::new(stream);
                    stream.set_read_timeout(Some(LIMIT));
                    stream.set_write_timeout(Some(LIMIT));
                    Box::pin(stream)
                }
                _ => Box::pin(stream),
            }
        }
    };
    Bounded { kind, stream }
}

/// Those that livepool sets by default: the kernel's part is not what is compared.
pub fn same_options(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive).expect("alive");
    socket.set_tcp_user_timeout(Some(LIMIT)).expect("alive");
    stream.set_nodelay(true).expect("alive");
}

impl Bounded {
    async fn bounded<T>(kind: Kind, operation: impl Future<Output = io::Result<T>>) -> T {
        let result = match kind {
            Kind::Timeout => timeout(LIMIT, operation).await.expect("in time"),
            _ => operation.await,
        };
        result.expect("alive")
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<()> {
        match self.kind {
            Kind::Timeout => {
                let read = pin!(Self::bounded(self.kind, self.stream.read(buf)));
                read.poll(cx).map(drop)
            }
            _ => self.stream.as_mut().poll_read(cx, &mut ReadBuf::new(buf)).map(|done| {
                done.expect("alive");
            }),
        }
    }
}

/// A byte there and back, so many times, by a task of the runtime.
pub fn ping_pong(runtime: &Runtime, stream: &mut Option<Bounded>, times: u64) -> Duration {
    let mut mine = stream.take().expect("given back");
    let task = runtime.spawn(async move {
        let stream = &mut mine;
        let start = Instant::now();
        let mut byte = [7];
        for _ in 0..times {
            Bounded::bounded(stream.kind, stream.stream.write_all(&byte)).await;
            Bounded::bounded(stream.kind, stream.stream.read_exact(&mut byte)).await;
        }
        (start.elapsed(), mine)
    });
    let (took, mine) = runtime.block_on(task).expect("no panic");
    *stream = Some(mine);
    took
}

/// Reads of one byte each, from a socket that has many.
pub fn ready_reads(runtime: &Runtime, kind: Kind, times: u64) -> Duration {
    const AT_ONCE: u64 = 1 << 14;
    let (mut reader, mut writer) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let reader = connect(kind, listener.local_addr().expect("bound")).await;
        (reader, listener.accept().await.expect("a client").0)
    });
    let mut took = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let some = left.min(AT_ONCE);
        let mut byte = [0];
        runtime.block_on(async {
            // The first read waits until all of them are there.
            writer.write_all(&vec![7; some as usize + 1]).await.expect("alive");
            std::future::poll_fn(|cx| reader.poll_read(cx, &mut byte)).await;
        });
        // Outside a task, which would have to yield after a number of operations.
        let _entered = runtime.enter();
        let mut cx = Context::from_waker(Waker::noop());
        let start = Instant::now();
        for _ in 0..some {
            assert!(reader.poll_read(&mut cx, &mut byte).is_ready(), "it is there");
        }
        took += start.elapsed();
        left -= some;
    }
    took
}

/// Reads that have to wait, of a socket to which nothing is sent.
pub fn pending_reads(runtime: &Runtime, stream: &mut Bounded, times: u64) -> Duration {
    let _entered = runtime.enter();
    let mut cx = Context::from_waker(Waker::noop());
    let mut byte = [0];
    let start = Instant::now();
    for _ in 0..times {
        assert!(stream.poll_read(&mut cx, &mut byte).is_pending(), "nothing was sent");
    }
    start.elapsed()
}
