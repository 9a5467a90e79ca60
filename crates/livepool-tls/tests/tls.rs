//! TLS with real servers: what it sends on its own is no dirt, its goodbye is noticed, and whom not
//! to trust is said at once.
#![cfg(target_os = "linux")]

use std::time::Duration;

use livepool::error::CheckoutFailure;
use livepool::{CloseReason, Config, Guard, Pool, Release};
use livepool_testkit::servers::{Certs, Nginx, Redis};
use livepool_testkit::{Events, until, until_seen, until_status};
use livepool_tls::{Tls, is_distrusted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

fn pool(config: Config, tls: Tls) -> (Pool<Tls>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config.with_max_size(4)).observer(events.observer());
    (builder.protocol(tls).build().unwrap(), events)
}

fn trusting(certs: &Certs) -> Tls {
    Tls::builder().with_root_pem(certs.ca_pem()).build().unwrap()
}

async fn ping(conn: &mut Guard<Tls>) -> std::io::Result<()> {
    conn.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    conn.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"+PONG\r\n");
    Ok(())
}

fn redis_at(redis: &Redis) -> Config {
    Config::new(format!("localhost:{}", redis.tls_port()))
}

#[tokio::test]
async fn an_exchange_is_released_and_dropped_as_on_a_bare_stream() {
    let certs = Certs::new();
    let redis = Redis::start_with_tls(&[], &certs);
    let (pool, events) = pool(redis_at(&redis), trusting(&certs));
    for _ in 0..3 {
        let mut conn = pool.get().await.unwrap();
        ping(&mut conn).await.unwrap();
        assert_eq!(conn.release(), Release::Reused);
    }
    assert_eq!(events.opened(), 1);
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(conn.release(), Release::Discarded(CloseReason::Unfinished));
    let mut conn = pool.get().await.unwrap();
    ping(&mut conn).await.unwrap();
    drop(conn);
    assert_eq!(events.closed(), [CloseReason::Unfinished; 2]);
}

#[tokio::test]
async fn session_tickets_that_wait_after_the_handshake_are_no_dirt() {
    let certs = Certs::new();
    let redis = Redis::start_with_tls(&[], &certs);
    let (pool, events) = pool(redis_at(&redis), trusting(&certs));
    // Nobody reads before it is idle, so that the tickets come, or wait, while it is.
    let guards = [pool.get().await.unwrap(), pool.get().await.unwrap()];
    drop(guards);
    until_status(&pool, |now| now.idle == 2).await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut conn = pool.get().await.unwrap();
        ping(&mut conn).await.unwrap();
        conn.release();
    }
    assert_eq!((events.opened(), events.closed()), (2, vec![]));
}

#[tokio::test]
async fn what_nobody_asked_for_is_dirt_when_it_was_decrypted() {
    let certs = Certs::new();
    let redis = Redis::start_with_tls(&[], &certs);
    let (pool, events) = pool(redis_at(&redis), trusting(&certs));
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"CLIENT ID\r\n").await.unwrap();
    let mut answer = [0; 64];
    assert!(conn.read(&mut answer).await.unwrap() > 0);
    conn.write_all(b"SUBSCRIBE news\r\n").await.unwrap();
    assert!(conn.read(&mut answer).await.unwrap() > 0);
    assert_eq!(conn.release(), Release::Reused, "as far as a pool of bytes can tell");
    redis.cli(&["PUBLISH", "news", "hello"]);
    assert_eq!(events.until_closed(1).await, [CloseReason::Dirty]);
}

#[tokio::test]
async fn a_server_that_says_goodbye_has_closed_the_connection() {
    let certs = Certs::new();
    let nginx = Nginx::start_with("keepalive_timeout 1s;", Some(&certs));
    let config = Config::new(format!("localhost:{}", nginx.tls_port()));
    let (pool, events) = pool(config, trusting(&certs));
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"GET /tag/me HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nme") {
        conn.read_buf(&mut answer).await.unwrap();
    }
    assert_eq!(conn.release(), Release::Reused);
    let began = Instant::now();
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_refused_at_once_and_for_good() {
    let certs = Certs::of_somebody_else();
    let redis = Redis::start_with_tls(&[], &certs);
    let (pool_of_wrong, events) = pool(redis_at(&redis), trusting(&certs));
    let began = Instant::now();
    let error = pool_of_wrong.get().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "before the deadline");
    assert_eq!(error.failure(), CheckoutFailure::Connect);
    assert!(!error.is_retryable());
    let text = error.connect_error().unwrap().to_string();
    assert!(text.contains("not valid for name \"localhost\""), "{text}");
    assert_eq!(events.opened(), 0);
    // Whoever knows better says so.
    let tls = trusting(&certs).with_server_name("wrong.example").unwrap();
    let (pool, _) = pool(redis_at(&redis), tls);
    ping(&mut pool.get().await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_authority_is_refused_and_an_address_can_be_certified() {
    let (certs, others) = (Certs::new(), Certs::new());
    let redis = Redis::start_with_tls(&[], &certs);
    let (stranger, _) = pool(redis_at(&redis), trusting(&others));
    let error = stranger.get().await.unwrap_err();
    assert!(is_distrusted(&error), "{error:?}");
    // 127.0.0.1 is in the certificate, too.
    let config = Config::new(format!("127.0.0.1:{}", redis.tls_port()));
    let (pool, _) = pool(config, trusting(&certs));
    ping(&mut pool.get().await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_client_shows_its_certificate_to_a_server_that_wants_one() {
    let certs = Certs::new();
    let redis = Redis::start_with_tls(&["tls-auth-clients yes"], &certs);
    let (unknown, _) = pool(redis_at(&redis), trusting(&certs));
    // With TLS 1.3 the server says no after the handshake.
    match unknown.get_by(Instant::now() + Duration::from_secs(5)).await {
        Ok(mut conn) => drop(ping(&mut conn).await.unwrap_err()),
        Err(error) => assert!(error.connect_error().is_some(), "{error}"),
    }
    let (cert, key) = certs.client_pem();
    let tls = Tls::builder().with_root_pem(certs.ca_pem()).with_client_pem(cert, key);
    let (pool, _) = pool(redis_at(&redis), tls.build().unwrap());
    ping(&mut pool.get().await.unwrap()).await.unwrap();
}

#[test]
fn a_slip_in_the_certificates_says_what_it_is() {
    let error = |builder: livepool_tls::Builder| builder.build().unwrap_err().to_string();
    let nobody = error(Tls::builder());
    assert!(nobody.contains("call with_webpki_roots()"), "{nobody}");
    let empty = error(Tls::builder().with_root_pem("no certificate"));
    assert!(empty.contains("the root certificate: no certificate in it"), "{empty}");
    let certs = Certs::new();
    let (cert, _) = certs.client_pem();
    let no_key = error(Tls::builder().with_webpki_roots().with_client_pem(cert, cert));
    assert!(no_key.contains("the client's key"), "{no_key}");
    Tls::builder().with_webpki_roots().build().unwrap();
    let name = Tls::builder().with_webpki_roots().build().unwrap().with_server_name("no name");
    assert!(name.unwrap_err().to_string().contains("\"no name\" is not a name"));
}

#[tokio::test]
async fn closing_the_pool_leaves_no_session_behind() {
    let certs = Certs::new();
    let redis = Redis::start_with_tls(&[], &certs);
    let fds = livepool_testkit::open_fds();
    for _ in 0..5 {
        let (pool, _) = pool(redis_at(&redis), trusting(&certs));
        let (mut a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        ping(&mut a).await.unwrap();
        a.release();
        drop(b);
    }
    until_seen(livepool_testkit::open_fds, |seen| *seen <= fds).await;
    until(|| redis.cli(&["INFO", "clients"]).contains("connected_clients:1\r")).await;
}

#[tokio::test]
async fn callers_get_the_bytes_and_what_was_agreed_on_and_nothing_that_is_for_a_protocol() {
    let certs = Certs::new();
    let nginx = Nginx::start_with("", Some(&certs));
    let tls = Tls::builder().with_root_pem(certs.ca_pem()).with_alpn(["http/1.1"]).build().unwrap();
    let (pool, events) = pool(Config::new(format!("localhost:{}", nginx.tls_port())), tls);
    let (mut a, mut b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let stream: &mut livepool_tls::TlsStream = &mut a;
    assert_eq!(stream.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(stream.host(), Some("localhost"));
    let (id, peer) = (stream.id(), stream.peer_addr().clone());
    assert_eq!((id, &peer), (a.id(), a.peer_addr()));
    // Exchanged, each would be judged by what happens on the other.
    std::mem::swap(&mut *a, &mut *b);
    drop((a, b));
    assert_eq!((pool.status().idle, events.closed().len()), (0, 2));
}
