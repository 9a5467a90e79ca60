//! One upstream, in a process of its own: it sends back what it gets, and does on command to its sockets
//! what happens to servers.
//!
//! A command is a line on standard input, and is answered on standard output by `ok`, when it is done, or
//! by an error. The process ends with its standard input.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::sys::{Socket, end_with_parent};

/// What an upstream can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// To close all connections (FIN).
    Close,
    /// To reset all connections (RST).
    Reset,
    /// To hear nothing any more, on connections and where it listens.
    Cut,
    /// The end of `Cut` and `Forget`.
    Heal,
    /// To hear nothing on the connections of today. New ones are as good as ever: so does a balancer or
    /// NAT that has lost its table.
    Forget,
    /// To close all connections, and to refuse new ones.
    Refuse,
    /// The end of `Refuse`.
    Accept,
    /// To answer so many milliseconds late.
    Delay(u64),
}

/// A connection, while it is open.
struct Conn {
    stream: Arc<TcpStream>,
    is_deaf: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Upstream {
    conns: Mutex<HashMap<u64, Conn>>,
    delay_ms: AtomicU64,
}

/// Runs the upstream at this port of 127.0.0.1 until its standard input ends; 0 is any free port. The
/// first line that it says is its port.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(port: u16) -> io::Result<()> {
    end_with_parent();
    let mut listener = Some(listen(port).await?);
    let port =
        listener.as_ref().map_or(Ok(port), |bound| bound.local_addr().map(|at| at.port()))?;
    println!("{port}");
    let upstream = Arc::new(Upstream::default());
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut number = 0;
    loop {
        tokio::select! {
            order = orders.next_line() => {
                let Some(order) = order? else { return Ok(()) };
                let done = match serde_json::from_str(&order) {
                    Ok(order) => upstream.obey(order, &mut listener, port).await,
                    Err(error) => Err(error.into()),
                };
                match done {
                    Ok(()) => println!("ok"),
                    Err(error) => println!("{error}"),
                }
            }
            Ok((stream, _)) = accept(listener.as_ref()) => {
                number += 1;
                let _ = stream.set_nodelay(true);
                upstream.begin(number, stream);
            }
        }
    }
}

/// Listens at a port, which may be a client's for a moment: the system gives them out.
async fn listen(port: u16) -> io::Result<TcpListener> {
    let mut left = 40;
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && left > 0 => left -= 1,
            result => return result,
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The next client, if anybody is let in.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, std::net::SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

impl Upstream {
    fn conns(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Conn>> {
        self.conns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, number: u64, stream: TcpStream) {
        let stream = Arc::new(stream);
        let (is_deaf, deaf) = watch::channel(false);
        let (upstream, socket) = (Arc::clone(self), Arc::clone(&stream));
        // It runs when this poll is over, and finds itself in the map.
        let task = tokio::spawn(async move {
            // However it ends: what is left to do is to close it.
            let _ = upstream.serve(socket, deaf).await;
            upstream.conns().remove(&number);
        });
        self.conns().insert(number, Conn { stream, is_deaf, task });
    }

    /// Sends back what comes, in its order, each piece `delay_ms` after it came.
    async fn serve(
        &self,
        stream: Arc<TcpStream>,
        mut deaf: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let mut buf = vec![0; 16 * 1024];
        let mut late: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        loop {
            let is_deaf = *deaf.borrow_and_update();
            let due = late.front().map(|(due, _)| *due);
            tokio::select! {
                ready = stream.readable() => {
                    ready?;
                    let bytes = match stream.try_read(&mut buf) {
                        Ok(0) => return Ok(()),
                        Ok(length) => &buf[..length],
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Err(error),
                    };
                    let delay = Duration::from_millis(self.delay_ms.load(Ordering::Relaxed));
                    // Asked again: it may have become deaf since the loop began.
                    if delay.is_zero() && late.is_empty() && !*deaf.borrow() {
                        write(&stream, bytes).await?;
                    } else {
                        late.push_back((Instant::now() + delay, bytes.to_vec()));
                    }
                }
                // Whoever hears nothing sends nothing either.
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !is_deaf => {
                    if let Some((_, bytes)) = late.pop_front() {
                        write(&stream, &bytes).await?;
                    }
                }
                changed = deaf.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    async fn obey(
        &self,
        order: Order,
        listener: &mut Option<TcpListener>,
        port: u16,
    ) -> io::Result<()> {
        match order {
            Order::Close => self.end_all(false).await,
            Order::Reset => self.end_all(true).await,
            Order::Cut => {
                listener.as_ref().map_or(Ok(()), |listener| listener.set_deaf(true))?;
                self.deafen().await
            }
            Order::Heal => {
                listener.as_ref().map_or(Ok(()), |listener| listener.set_deaf(false))?;
                self.hear()
            }
            Order::Forget => self.deafen().await,
            Order::Refuse => {
                *listener = None;
                self.end_all(true).await
            }
            Order::Accept => {
                if listener.is_none() {
                    *listener = Some(listen(port).await?);
                }
                Ok(())
            }
            Order::Delay(milliseconds) => {
                self.delay_ms.store(milliseconds, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Returns when the kernel has done it.
    async fn end_all(&self, by_reset: bool) -> io::Result<()> {
        let all: Vec<Conn> = self.conns().drain().map(|(_, conn)| conn).collect();
        for conn in all {
            if by_reset {
                SockRef::from(&*conn.stream).set_linger(Some(Duration::ZERO))?;
            }
            conn.task.abort();
            // Its half of the stream is dropped then, and ours below.
            let _ = conn.task.await;
        }
        Ok(())
    }

    /// Cuts both directions of every connection. First nothing more is said; then, when the other side has
    /// acknowledged all that was said, nothing more is heard. An answer without its acknowledgement would
    /// be sent again and again, and the other side would hear it: a wire of which one half works.
    async fn deafen(&self) -> io::Result<()> {
        let mut streams = Vec::new();
        for conn in self.conns().values() {
            conn.is_deaf.send_replace(true);
            streams.push(Arc::clone(&conn.stream));
        }
        // An acknowledgement takes 40 ms at most, unless it goes with the next request.
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until && !streams.iter().all(|stream| stream.is_acknowledged()) {
            sleep(Duration::from_millis(1)).await;
        }
        streams.iter().try_for_each(|stream| stream.set_deaf(true))
    }

    fn hear(&self) -> io::Result<()> {
        for conn in self.conns().values() {
            conn.stream.set_deaf(false)?;
            if conn.is_deaf.send_replace(false) {
                // Its client may have gone meanwhile, and nobody could say so: the kernel asks.
                let ask = socket2::TcpKeepalive::new()
                    .with_time(Duration::from_secs(1))
                    .with_interval(Duration::from_secs(1))
                    .with_retries(3);
                SockRef::from(&*conn.stream).set_tcp_keepalive(&ask)?;
            }
        }
        Ok(())
    }
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
