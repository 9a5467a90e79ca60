//! A program that keeps its deadpool: with our manager, or with our connections under that of
//! deadpool-postgres.

use std::time::Instant;

use deadpool_postgres::Connect;
use deadpool_postgres::tokio_postgres::Config as ClientConfig;
use livepool::{CloseReason, Connection, Connector, Manager, Release};
use tokio::net::{TcpListener, TcpStream};

use super::dial::Dial;
use super::*;
use livepool_testkit::until_seen;

type Plain = deadpool::managed::Pool<Manager<Postgres>>;

fn plain(server: &Server, size: usize) -> (Plain, Events) {
    let events = Events::default();
    let timeouts = Timeouts::default().with_reset(20 * SECOND);
    let builder =
        postgres(server).with_config(|config| config.with_timeouts(timeouts)).builder().unwrap();
    let manager = builder.observer(events.observer()).build_manager().unwrap();
    (Plain::builder(manager).max_size(size).build().unwrap(), events)
}

async fn give_up(client: &Client, sql: &str) {
    let asked = client.batch_execute(sql);
    tokio::time::timeout(Duration::from_millis(100), asked).await.unwrap_err();
}

#[tokio::test]
async fn a_query_that_a_user_of_a_plain_deadpool_gave_up_is_cancelled_for_the_next_one() {
    let server = trusting_server(&[]);
    let (pool, events) = plain(&server, 1);
    let conn = pool.get().await.unwrap();
    let backend = pid(&conn).await;
    give_up(&conn, "SELECT pg_sleep(91)").await;
    drop(conn);
    let conn = pool.get().await.unwrap();
    assert_eq!(pid(&conn).await, backend);
    assert_eq!(running(&server, "pg_sleep(91)"), 0);
    assert!(events.closed().is_empty());
}

#[tokio::test]
async fn a_query_that_a_user_of_a_watched_deadpool_gave_up_is_cancelled_though_nobody_is_next() {
    let server = trusting_server(&[]);
    let (pool, events) = plain(&server, 1);
    Manager::watch(&pool);
    let conn = pool.get().await.unwrap();
    give_up(&conn, "SELECT pg_sleep(92)").await;
    drop(conn);
    until_seen(|| running(&server, "pg_sleep(92)"), |count| *count == 0).await;
    assert_eq!(events.closed(), [CloseReason::Unfinished]);
    until_seen(|| pool.status().size, |size| *size == 0).await;
    // Told so at once, it is cancelled and the connection stays.
    let conn = pool.get().await.unwrap();
    give_up(&conn, "SELECT pg_sleep(93)").await;
    assert_eq!(Connection::release(conn), Release::Resetting);
    until_seen(|| running(&server, "pg_sleep(93)"), |count| *count == 0).await;
    until_seen(|| pool.status().available, |available| *available == 1).await;
    assert_eq!(events.closed().len(), 1);
}

#[tokio::test]
async fn the_next_user_of_a_plain_deadpool_finds_the_session_as_it_was() {
    let server = trusting_server(&[]);
    let (pool, events) = plain(&server, 1);
    Manager::watch(&pool);
    for is_watched in [false, true] {
        let conn = pool.get().await.unwrap();
        conn.batch_execute("SET application_name = 'mine'; BEGIN; CREATE TEMP TABLE t (i int)")
            .await
            .unwrap();
        drop(conn);
        if is_watched {
            until_seen(|| pool.manager().status().idle, |idle| *idle == 1).await;
        }
        let conn = pool.get().await.unwrap();
        let row = conn.query_one("SHOW application_name", &[]).await.unwrap();
        assert_ne!(row.get::<_, &str>(0), "mine", "watched: {is_watched}");
        let sql = "SELECT to_regclass('pg_temp.t') IS NULL";
        assert!(conn.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
        // A transaction of its own.
        conn.batch_execute("BEGIN; COMMIT").await.unwrap();
    }
    assert!(events.closed().is_empty());
}

#[tokio::test]
async fn a_backend_that_is_terminated_while_idle_is_out_of_a_watched_deadpool() {
    let server = trusting_server(&[]);
    let (pool, events) = plain(&server, 2);
    Manager::watch(&pool);
    let conn = pool.get().await.unwrap();
    let backend = pid(&conn).await;
    drop(conn);
    until_seen(|| pool.manager().status().idle, |idle| *idle == 1).await;
    server.psql(&format!("SELECT pg_terminate_backend({backend})"));
    assert_eq!(events.until_closed(1).await.len(), 1);
    until_seen(|| pool.status().size, |size| *size == 0).await;
    let conn = pool.get().await.unwrap();
    assert_eq!(echo(&conn, 7).await.unwrap(), 7);
}

/// Passes bytes on, until its client hears nothing from it any more.
struct Vanishing {
    port: u16,
    vanish: tokio::sync::watch::Sender<bool>,
}

impl Vanishing {
    async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, behind) = (listener.local_addr().unwrap().port(), server.port());
        let (vanish, vanishes) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut vanishes = vanishes.clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                        vanished = vanishes.wait_for(|vanished| *vanished) => drop(vanished),
                    }
                    livepool_testkit::fault::silence(&client);
                    // Closing it would be heard.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { port, vanish }
    }
}

fn dial(port: u16) -> (ClientConfig, Dial, Events) {
    let events = Events::default();
    let config = Config::new(format!("127.0.0.1:{port}"));
    let limit = config.timeouts.connect;
    let connector = Connector::with_observer(&config, events.observer()).unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{port}/app");
    (url.parse().unwrap(), Dial(connector, limit), events)
}

#[tokio::test]
async fn deadpool_postgres_with_our_connections_finds_a_server_that_vanishes_while_it_is_waited_for()
 {
    let server = trusting_server(&[]);
    let relay = Vanishing::start(&server).await;
    let (config, dial, events) = dial(relay.port);
    let manager = deadpool_postgres::Manager::from_connect(config, dial, Default::default());
    let pool = deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap();
    let conn = pool.get().await.unwrap();
    let row = conn.query_one("SELECT 1 + 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 2);
    let began = Instant::now();
    let asked = conn.batch_execute("SELECT pg_sleep(3600)");
    let vanishing = async {
        tokio::time::sleep(SECOND).await;
        relay.vanish.send(true).unwrap();
    };
    // With deadpool-postgres alone it is a quarter of an hour, if there is keepalive, and else for ever.
    let (asked, ()) = tokio::time::timeout(60 * SECOND, async { tokio::join!(asked, vanishing) })
        .await
        .unwrap_or_else(|_| panic!("nothing was found for {:?}", began.elapsed()));
    asked.unwrap_err();
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerSilent]);
}

#[tokio::test]
async fn a_dial_for_deadpool_postgres_that_fails_says_why() {
    let (config, dial, _) = dial(1);
    let Err(error) = dial.connect(&config).await else { panic!("somebody listens on port 1") };
    let text = livepool::protocol::OneLine(&error).to_string();
    assert!(text.contains("refused") && text.contains("127.0.0.1:1"), "{text}");
}

#[tokio::test]
async fn a_connection_that_leaves_a_plain_deadpool_in_the_middle_of_a_query_leaves_no_session() {
    let server = trusting_server(&[]);
    let (pool, events) = plain(&server, 1);
    let conn = pool.get().await.unwrap();
    let backend = pid(&conn).await;
    give_up(&conn, "SELECT pg_sleep(94)").await;
    // It has no place any more in which the server's end could be waited for.
    drop(deadpool::managed::Object::take(conn));
    assert_eq!(events.until_closed(1).await, [CloseReason::Discarded]);
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {backend}");
    until_seen(|| server.psql(&sql), |seen| seen == "0").await;
}
