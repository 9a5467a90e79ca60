//! When the read timeout runs over the connector, and when not.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpInfo;
use hyper_util::rt::{TokioExecutor, TokioIo};
use livepool::event::Operation;
use livepool::{CloseReason, Config, Timeouts};
use livepool_http::tower::tower_service::Service;
use livepool_http::tower::{Connect, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use livepool_testkit::Events;
use livepool_testkit::scripted::Scripted;
use livepool_testkit::servers::Nginx;

/// Shorter than the pauses below.
const READ: Duration = Duration::from_secs(2);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn connector() -> (Connect, Events) {
    let events = Events::default();
    let config = Config::default().with_timeouts(Timeouts::default().with_read(READ));
    (Connect::with_observer(&config, events.observer()).unwrap(), events)
}

fn client<B>() -> (Client<Connect, B>, Events)
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    let (connect, events) = connector();
    (Client::builder(TokioExecutor::new()).build(connect), events)
}

async fn connect(url: &str) -> (TokioIo<Connection>, Events) {
    let (mut connect, events) = connector();
    (TokioIo::new(connect.call(url.parse().unwrap()).await.unwrap()), events)
}

/// A body that comes through a channel, and is over with it.
struct Piecewise(mpsc::UnboundedReceiver<Bytes>);

impl Body for Piecewise {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Three pieces, and a pause before each.
fn with_pauses() -> Piecewise {
    let (pieces, source) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for _ in 0..3 {
            tokio::time::sleep(READ * 2).await;
            let _ = pieces.send("piece".into());
        }
    });
    Piecewise(source)
}

#[tokio::test]
async fn a_pause_of_an_uploads_source_is_no_fault_of_the_server() {
    let server = Scripted::start(|mut talk, _| async move {
        while let Some(head) = talk.request().await {
            let length = match head.contains("chunked") {
                true => talk.chunks().await,
                false => talk.skip(15).await,
            };
            talk.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{length}")).await;
        }
    })
    .await;
    let (client, events) = client::<Piecewise>();
    let uploads = ["", "15"].map(|length| {
        let mut request = Request::post(format!("http://{}/", server.addr()));
        if !length.is_empty() {
            request = request.header("content-length", length);
        }
        let sends = client.request(request.body(with_pauses()).unwrap());
        async move {
            let response = sends.await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "15");
        }
    });
    futures_util::future::join_all(uploads).await;
    assert_eq!((server.accepted(), events.closed(), events.timed_out()), (2, vec![], vec![]));
}

#[tokio::test]
async fn a_server_that_has_all_of_an_upload_owes_its_answer_in_time() {
    let server = Scripted::start(|mut talk, _| async move { talk.listen().await }).await;
    let (client, events) = client::<Piecewise>();
    let request = Request::post(format!("http://{}/", server.addr()));
    let began = std::time::Instant::now();
    client.request(request.body(with_pauses()).unwrap()).await.unwrap_err();
    assert!(began.elapsed() >= READ * 7, "three pauses, and the timeout: {:?}", began.elapsed());
    assert_eq!(events.timed_out(), [Operation::Read]);
    assert_eq!(events.until_closed(1).await, [CloseReason::OpTimeout]);
}

#[tokio::test]
async fn a_server_that_takes_no_bytes_is_left_after_the_write_timeout() {
    let server = Scripted::start(|mut talk, _| async move {
        talk.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let events = Events::default();
    let timeouts = Timeouts::default().with_read(None).with_write(READ);
    let config = Config::default().with_timeouts(timeouts);
    let connect = Connect::with_observer(&config, events.observer()).unwrap();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connect);
    let request = Request::post(format!("http://{}/", server.addr()));
    client.request(request.body(Full::from(vec![b'u'; 20_000_000])).unwrap()).await.unwrap_err();
    assert_eq!(events.timed_out(), [Operation::Write]);
}

#[tokio::test]
async fn an_answer_before_the_upload_is_over_leaves_an_idle_connection_in_peace() {
    let server = Scripted::start(|mut talk, _| async move {
        while talk.request().await.is_some() {
            talk.say(OK).await;
            talk.skip(200_000).await;
        }
    })
    .await;
    let (client, events) = client::<Full<Bytes>>();
    for _ in 0..2 {
        let request = Request::post(format!("http://{}/", server.addr()));
        let request = request.body(Full::from(vec![b'u'; 200_000])).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        tokio::time::sleep(READ * 2).await;
    }
    assert_eq!((server.accepted(), events.closed()), (1, vec![]));
}

/// A server that switches to a protocol in which nothing has to be answered, and says something of its
/// own when it was told `speak`.
async fn switching() -> Scripted {
    Scripted::start(|mut talk, _| async move {
        let head = talk.request().await.unwrap();
        talk.say(match head.starts_with("CONNECT") {
            true => "HTTP/1.1 200 OK\r\n\r\n",
            false => "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        })
        .await;
        let mut heard = Vec::new();
        while !heard.ends_with(b"speak") {
            heard.extend(talk.body(1).await.unwrap());
        }
        talk.say("spoken").await;
        talk.listen().await;
    })
    .await
}

#[tokio::test]
async fn an_upgraded_connection_owes_nobody_an_answer() {
    // A frame as those of a WebSocket, a line of text, and one that looks like a request.
    let messages: [&[u8]; 4] = [b"\x81\x05hello", b"HELO there\r\n", b"\x16\x03\x01", b"GET"];
    let asked = messages.map(|message| async move {
        let server = switching().await;
        let (client, events) = client::<Empty<Bytes>>();
        let request = Request::get(format!("http://{}/chat", server.addr()))
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        let response = client.request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for _ in 0..2 {
            io.write_all(message).await.unwrap();
            io.flush().await.unwrap();
            let mut space = [0; 16];
            let read = tokio::time::timeout(READ * 2, io.read(&mut space)).await;
            assert!(read.is_err(), "{message:?}: {read:?}");
        }
        io.write_all(b"speak").await.unwrap();
        let mut answer = [0; 6];
        io.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, events.timed_out()), (b"spoken", vec![]));
    });
    futures_util::future::join_all(asked).await;
}

#[tokio::test]
async fn a_tunnel_owes_nobody_an_answer() {
    let server = switching().await;
    let (mut io, events) = connect(&format!("http://{}", server.addr())).await;
    io.write_all(b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 19];
    io.read_exact(&mut answer).await.unwrap();
    io.write_all(b"\x16\x03\x01").await.unwrap();
    let mut space = [0; 16];
    let read = tokio::time::timeout(READ * 2, io.read(&mut space)).await;
    assert!(read.is_err(), "{read:?}");
    assert_eq!(events.timed_out(), []);
}

#[tokio::test]
async fn what_an_https_uri_names_gets_no_word_in_the_clear() {
    let server = Scripted::always(OK).await;
    let (client, events) = client::<Empty<Bytes>>();
    for scheme in ["https", "HTTPS"] {
        let url: Uri = format!("{scheme}://{}/secret", server.addr()).parse().unwrap();
        let error = client.get(url).await.unwrap_err();
        let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
        let text = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        assert!(text.contains("wrap the connector"), "{text}");
    }
    assert_eq!(events.until_closed(2).await.len(), 2);
    assert_eq!(server.heard(), 0);
}

#[tokio::test]
async fn a_response_says_which_addresses_it_came_over() {
    let nginx = Nginx::start();
    let (client, _) = client::<Empty<Bytes>>();
    let response = client.get(nginx.url().parse().unwrap()).await.unwrap();
    let info = response.extensions().get::<HttpInfo>().expect("as from hyper-util's own connector");
    assert_eq!(info.remote_addr().port(), nginx.port());
    assert!(info.local_addr().ip().is_loopback() && info.local_addr().port() != 0);
}

mod tls {
    use super::*;
    use livepool_testkit::servers::Certs;
    use livepool_tls::tokio_rustls::TlsConnector;
    use livepool_tls::tokio_rustls::rustls::pki_types::ServerName;
    use livepool_tls::tokio_rustls::rustls::{ClientConfig, RootCertStore};
    use std::sync::Arc;

    fn trusting(certs: &Certs) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(certs.ca_der().to_vec().into()).unwrap();
        TlsConnector::from(Arc::new(
            ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
        ))
    }

    #[tokio::test]
    async fn under_tls_only_the_handshake_has_a_read_timeout() {
        let certs = Certs::new();
        let nginx = Nginx::start_with("", Some(&certs));
        let (io, events) = connect(&format!("https://localhost:{}", nginx.tls_port())).await;
        let name = ServerName::try_from("localhost").unwrap();
        let mut io = trusting(&certs).connect(name, io).await.unwrap();
        // An upload whose source pauses cannot be told from a request that waits for its answer.
        io.write_all(b"GET /tag/x HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let mut space = [0; 512];
        let read = tokio::time::timeout(READ * 2, io.read(&mut space)).await;
        assert!(read.is_err(), "{read:?}");
        io.write_all(b"\r\n").await.unwrap();
        let count = io.read(&mut space).await.unwrap();
        assert!(space[..count].starts_with(b"HTTP/1.1 200"), "{count}");
        assert_eq!(events.timed_out(), []);
        // One that does not answer the handshake.
        let server = Scripted::start(|mut talk, _| async move { talk.listen().await }).await;
        let (io, events) = connect(&format!("https://localhost:{}", server.addr().port())).await;
        let name = ServerName::try_from("localhost").unwrap();
        trusting(&certs).connect(name, io).await.unwrap_err();
        assert_eq!(events.timed_out(), [Operation::Read]);
    }
}
