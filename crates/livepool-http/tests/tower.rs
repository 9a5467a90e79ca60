//! Our sockets under hyper-util's client, against a real nginx.
#![cfg(target_os = "linux")]

#[path = "tower/debts.rs"]
mod debts;

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use livepool::config::SocketConfig;
use livepool::event::Operation;
use livepool::{CloseReason, Config, Event, Keepalive, SocketReport, Timeouts};
use livepool_http::tower::tower_service::Service;
use livepool_http::tower::{Connect, Connecting, Connection, Error};
use livepool_testkit::blackhole::Blackhole;
use livepool_testkit::scripted::Scripted;
use livepool_testkit::servers::Nginx;
use livepool_testkit::{Events, until};

const SECOND: Duration = Duration::from_secs(1);

type Legacy<C> = Client<C, Empty<Bytes>>;

fn client_of(config: &Config) -> (Legacy<Connect>, Events) {
    let events = Events::default();
    let connect = Connect::with_observer(config, events.observer()).unwrap();
    (Client::builder(TokioExecutor::new()).build(connect), events)
}

async fn get<C>(client: &Legacy<C>, url: &str) -> Result<String, hyper_util::client::legacy::Error>
where
    C: hyper_util::client::legacy::connect::Connect + Clone + Send + Sync + 'static,
{
    let response = client.get(url.parse().unwrap()).await?;
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// A connector that notes the options of every socket it makes.
#[derive(Clone)]
struct Noting(Connect, Arc<Mutex<Vec<SocketReport>>>);

impl Service<Uri> for Noting {
    type Response = Connection;
    type Error = Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, reports): (Connecting, _) = (self.0.call(uri), Arc::clone(&self.1));
        Box::pin(async move {
            let connection = connecting.await?;
            reports.lock().unwrap().push(connection.stream().socket_report().unwrap());
            Ok(connection)
        })
    }
}

#[tokio::test]
async fn one_connector_serves_every_host_with_the_same_socket_options() {
    let (a, b) = (Nginx::start(), Nginx::start());
    let keepalive =
        Keepalive::default().with_idle(7 * SECOND).with_interval(3 * SECOND).with_retries(4);
    let socket = SocketConfig::default().with_keepalive(keepalive);
    let reports = Arc::<Mutex<Vec<SocketReport>>>::default();
    let connect = Connect::new(&Config::default().with_socket(socket)).unwrap();
    let noting = Noting(connect, Arc::clone(&reports));
    let client: Legacy<Noting> = Client::builder(TokioExecutor::new()).build(noting);
    for nginx in [&a, &b, &a] {
        assert_eq!(get(&client, &format!("{}/tag/x", nginx.url())).await.unwrap(), "x");
    }
    let reports = reports.lock().unwrap();
    assert_eq!(reports.len(), 2, "one connection each, used again");
    for report in reports.iter() {
        assert!(report.keepalive);
        assert_eq!(report.keepalive_idle, Some(7 * SECOND));
        assert_eq!(report.keepalive_interval, Some(3 * SECOND));
        assert_eq!(report.keepalive_retries, Some(4));
        assert_eq!(report.user_timeout, Some(19 * SECOND));
    }
}

#[tokio::test]
async fn a_connection_that_is_idle_for_longer_than_a_read_may_take_is_used_again() {
    let nginx = Nginx::start();
    let timeouts = Timeouts::default().with_read(2 * SECOND);
    let (client, events) = client_of(&Config::default().with_timeouts(timeouts));
    for _ in 0..2 {
        assert_eq!(get(&client, &nginx.url()).await.unwrap(), "hello\n");
        tokio::time::sleep(3 * SECOND).await;
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    assert_eq!(events.timed_out(), []);
}

#[tokio::test]
async fn an_answer_that_does_not_begin_ends_with_the_read_timeout() {
    let nginx = Nginx::start();
    let timeouts = Timeouts::default().with_read(3 * SECOND);
    let (client, events) = client_of(&Config::default().with_timeouts(timeouts));
    assert_eq!(get(&client, &nginx.url()).await.unwrap(), "hello\n");
    nginx.freeze();
    get(&client, &nginx.url()).await.unwrap_err();
    assert_eq!(events.timed_out(), [Operation::Read]);
    assert_eq!(events.until_closed(1).await, [CloseReason::OpTimeout]);
    nginx.thaw();
    assert_eq!(get(&client, &nginx.url()).await.unwrap(), "hello\n");
}

#[tokio::test]
async fn every_connection_is_opened_once_and_closed_once_for_a_reason() {
    let mut nginx = Nginx::start();
    let (client, events) = client_of(&Config::default().with_name("outgoing"));
    assert_eq!(get(&client, &nginx.url()).await.unwrap(), "hello\n");
    nginx.restart_fast();
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    assert_eq!(get(&client, &nginx.url()).await.unwrap(), "hello\n");
    drop(client);
    assert_eq!(events.until_closed(2).await.len(), 2);
    let all = events.all();
    let opened = all.iter().filter(|event| matches!(event, Event::Opened { .. })).count();
    let closed = all.iter().filter(|event| matches!(event, Event::Closed { .. })).count();
    assert_eq!((opened, closed), (2, 2));
}

#[tokio::test]
async fn a_connect_that_hangs_ends_with_its_deadline() {
    let hole = Blackhole::start();
    let timeouts = Timeouts::default().with_connect(SECOND / 5);
    let (client, events) = client_of(&Config::default().with_timeouts(timeouts));
    let began = Instant::now();
    let error = get(&client, &format!("http://{}/", hole.addr())).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert!(began.elapsed() >= SECOND / 5);
    assert_eq!(events.timed_out(), [Operation::Connect]);
    let chain = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    let ours = chain.filter_map(|error| error.downcast_ref::<Error>()).next();
    let Some(Error::Connect(connect)) = ours else { panic!("{error:?}") };
    assert!(connect.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn a_uri_that_leads_nowhere_is_an_error_that_says_so() {
    let mut connect = Connect::new(&Config::default()).unwrap();
    for uri in ["/path", "ftp://example.org/", "http://example.org:0/"] {
        let error = connect.call(uri.parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, Error::Uri(_)), "{uri}: {error}");
    }
    let broken = Config::default().with_max_size(0);
    assert!(Connect::new(&broken).is_err(), "what is not used is checked all the same");
}

#[tokio::test]
async fn http2_in_the_clear_has_no_read_timeout_between_its_frames() {
    // It takes in whatever comes and says nothing: so does an idle HTTP/2 server after an ACK.
    let server = Scripted::start(|mut talk, _| async move { talk.listen().await }).await;
    let timeouts = Timeouts::default().with_read(SECOND / 10);
    let events = Events::default();
    let config = Config::default().with_timeouts(timeouts);
    let mut connect = Connect::with_observer(&config, events.observer()).unwrap();
    for (first, times_out) in
        [("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false), ("GET / HTTP/1.1\r\n\r\n", true)]
    {
        let uri: Uri = format!("http://{}", server.addr()).parse().unwrap();
        let connection = connect.call(uri).await.unwrap();
        let mut io = hyper_util::rt::TokioIo::new(connection);
        tokio::io::AsyncWriteExt::write_all(&mut io, first.as_bytes()).await.unwrap();
        let mut space = [0; 16];
        let read = tokio::io::AsyncReadExt::read(&mut io, &mut space);
        let read =
            tokio::time::timeout(if times_out { 10 * SECOND } else { SECOND / 2 }, read).await;
        assert_eq!(read.is_ok(), times_out, "{first}: {read:?}");
    }
    until(|| events.closed().len() == 2).await;
    assert_eq!(events.closed(), [CloseReason::Discarded, CloseReason::OpTimeout]);
}
