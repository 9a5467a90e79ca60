//! A server of HTTP/2 that does what the path of a request says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use livepool::Config;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What a connection is told to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// To finish what it has taken, and no more: GOAWAY.
    GoAway,
    /// To end at once.
    Drop,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) accepted: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    /// The most that were under way on one connection.
    pub(crate) most: AtomicUsize,
    /// Bytes of uploads to `/early`.
    pub(crate) uploaded: AtomicUsize,
    /// Streams that a client has reset.
    pub(crate) given_up: AtomicUsize,
}

pub(crate) struct Peer {
    addr: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    orders: Arc<Mutex<Vec<mpsc::UnboundedSender<Order>>>>,
    _tasks: JoinSet<()>,
}

impl Peer {
    pub(crate) async fn start() -> Self {
        Self::start_with(Builder::new()).await
    }

    pub(crate) async fn start_with(builder: Builder) -> Self {
        Self::over(TcpListener::bind("127.0.0.1:0").await.unwrap(), builder)
    }

    pub(crate) fn over(listener: TcpListener, builder: Builder) -> Self {
        let addr = listener.local_addr().unwrap();
        let (counts, orders) = (Arc::<Counts>::default(), Arc::<Mutex<Vec<_>>>::default());
        let mut tasks = JoinSet::new();
        let (counted, told) = (Arc::clone(&counts), Arc::clone(&orders));
        tasks.spawn(async move {
            let mut conns = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                counted.accepted.fetch_add(1, Ordering::SeqCst);
                let (order, ordered) = mpsc::unbounded_channel();
                told.lock().unwrap().push(order);
                conns.spawn(serve(socket, builder.clone(), Arc::clone(&counted), ordered));
            }
        });
        Self { addr, counts, orders, _tasks: tasks }
    }

    pub(crate) fn config(&self) -> Config {
        Config::new(self.addr.to_string())
    }

    pub(crate) fn order_all(&self, order: Order) {
        for conn in &*self.orders.lock().unwrap() {
            let _gone = conn.send(order);
        }
    }
}

async fn serve(
    socket: TcpStream,
    builder: Builder,
    counts: Arc<Counts>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    socket.set_nodelay(true).unwrap();
    let Ok(mut conn) = builder.handshake(socket).await else { return };
    let active = Arc::<AtomicUsize>::default();
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            request = conn.accept() => {
                let Some(Ok((request, respond))) = request else { return };
                counts.requests.fetch_add(1, Ordering::SeqCst);
                let now = active.fetch_add(1, Ordering::SeqCst) + 1;
                counts.most.fetch_max(now, Ordering::SeqCst);
                let (counts, active) = (Arc::clone(&counts), Arc::clone(&active));
                requests.spawn(async move {
                    let _ended = answer(request, respond, &counts).await;
                    active.fetch_sub(1, Ordering::SeqCst);
                });
            }
            order = orders.recv() => match order {
                Some(Order::GoAway) => conn.graceful_shutdown(),
                Some(Order::Drop) | None => return,
            }
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    counts: &Counts,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    let mut words = path.split('/').skip(1);
    let (what, word) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
    let mut body = request.into_body();
    let head = || Response::new(());
    match what {
        "tag" => {
            let mut stream = respond.send_response(head(), false)?;
            stream.send_data(word.into(), true)?;
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(word.parse().unwrap())).await;
            let mut stream = respond.send_response(head(), false)?;
            stream.send_data(words.next().unwrap_or("").to_owned().into(), true)?;
        }
        "reset" => respond.send_reset(Reason::from(word.parse::<u32>().unwrap())),
        "hold" => {
            let _reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            counts.given_up.fetch_add(1, Ordering::SeqCst);
        }
        // Half of what was announced.
        "half" => {
            let head = Response::builder().header("content-length", 20).body(()).unwrap();
            let mut stream = respond.send_response(head, false)?;
            stream.send_data("ten bytes.".into(), false)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        // Ten pieces, with this pause before each.
        "pieces" => {
            let mut stream = respond.send_response(head(), false)?;
            for piece in 0..10 {
                tokio::time::sleep(Duration::from_millis(word.parse().unwrap())).await;
                stream.send_data("piece".into(), piece == 9)?;
            }
        }
        "trailers" => {
            let mut stream = respond.send_response(head(), false)?;
            stream.send_data("data".into(), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            stream.send_trailers(trailers)?;
        }
        "large" => {
            let mut stream = respond.send_response(head(), false)?;
            let length = word.parse::<usize>().unwrap();
            stream.send_data(vec![b'x'; length].into(), true)?;
            let _reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            counts.given_up.fetch_add(1, Ordering::SeqCst);
        }
        "early" => {
            let mut stream = respond.send_response(head(), false)?;
            stream.send_data("early".into(), true)?;
            while let Some(data) = body.data().await {
                let Ok(data) = data else {
                    counts.given_up.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                };
                counts.uploaded.fetch_add(data.len(), Ordering::SeqCst);
                body.flow_control().release_capacity(data.len())?;
            }
        }
        // A head, and nothing else while anything comes.
        "open" => {
            let _stream = respond.send_response(head(), false)?;
            while let Some(data) = body.data().await {
                if data.is_err() {
                    counts.given_up.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                }
            }
        }
        "upload" => {
            let mut length = 0;
            while let Some(data) = body.data().await {
                let data = data?;
                length += data.len();
                body.flow_control().release_capacity(data.len())?;
            }
            let mut stream = respond.send_response(head(), false)?;
            stream.send_data(length.to_string().into(), true)?;
        }
        other => panic!("{other}"),
    }
    Ok(())
}
