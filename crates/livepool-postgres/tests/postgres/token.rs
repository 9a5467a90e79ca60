//! Cancelling on purpose.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::*;
use livepool_testkit::until_seen;

/// As it is written for deadpool-postgres; the body is that program's.
macro_rules! written_for_deadpool {
    ($client:ident) => {{
        let token = $client.cancel_token();
        let cancelling = tokio::spawn(async move {
            tokio::time::sleep(SECOND).await;
            token.cancel_query(tokio_postgres::NoTls).await
        });
        let error = $client.simple_query("SELECT pg_sleep(71)").await.unwrap_err();
        let cancelled: Result<(), tokio_postgres::Error> = cancelling.await.unwrap();
        cancelled.unwrap();
        error.code().cloned()
    }};
}

#[tokio::test]
async fn code_that_was_written_for_deadpool_cancels_as_it_does_there() {
    let server = trusting_server(&[]);
    let mut config = deadpool_postgres::Config::new();
    config.url = Some(server.url());
    let theirs = config.create_pool(None, tokio_postgres::NoTls).unwrap();
    let client = theirs.get().await.unwrap();
    assert_eq!(written_for_deadpool!(client), Some(SqlState::QUERY_CANCELED));

    let (ours, events) = pool(&server, one);
    let mut client = ours.get().await.unwrap();
    assert_eq!(written_for_deadpool!(client), Some(SqlState::QUERY_CANCELED));
    // In a transaction, which has to be rolled back.
    let transaction = client.transaction().await.unwrap();
    assert_eq!(written_for_deadpool!(transaction), Some(SqlState::QUERY_CANCELED));
    drop(transaction);
    // It is rolled back: of one that takes longer than a quarter of a second the reset would cancel the end.
    echo(&client, 0).await.unwrap();
    drop(client);
    let client = ours.get().await.unwrap();
    assert_eq!(echo(&client, 1).await.unwrap(), 1);
    assert_eq!(
        (events.opened(), events.closed()),
        (1, vec![]),
        "the connection is as good as before"
    );
    // In one word, from beside it.
    let (asked, cancelled) = tokio::join!(client.batch_execute("SELECT pg_sleep(72)"), async {
        until_seen(|| running(&server, "pg_sleep(72)"), |seen| *seen == 1).await;
        client.cancel().await
    });
    cancelled.unwrap();
    assert_eq!(asked.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(super::cancel_requests::outcomes(&events), ["ok"; 3]);
}

#[tokio::test]
async fn a_token_is_of_no_use_when_its_connection_has_somebody_else() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let token = pool.get().await.unwrap().cancel_token();
    let conn = pool.get().await.unwrap();
    let asked = conn.batch_execute("SELECT pg_sleep(2)");
    let (asked, cancelled) = tokio::join!(asked, async {
        until_seen(|| running(&server, "pg_sleep(2)"), |seen| *seen == 1).await;
        token.cancel().await
    });
    asked.unwrap();
    cancelled.unwrap();
    assert_eq!(super::cancel_requests::outcomes(&events), [""; 0], "nothing was sent");
}

/// Whenever its future is dropped, and whenever the connection goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cancel_of_a_user_hits_the_next_one() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    for round in 0..150_u64 {
        let conn = pool.get().await.unwrap();
        let token = conn.cancel_token();
        let cancelling = tokio::spawn(async move {
            let limit = Duration::from_micros(200 * (round % 17));
            let _ = tokio::time::timeout(limit, token.cancel()).await;
        });
        if round % 3 == 0 {
            cancelling.await.unwrap();
        }
        drop(conn);
        let conn = pool.get().await.unwrap();
        for number in 0..3 {
            assert_eq!(echo(&conn, number).await.unwrap(), number, "in round {round}");
        }
    }
    assert_eq!(events.closed(), []);
}

#[tokio::test]
async fn a_cancel_that_cannot_be_said_says_why() {
    let mut server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let conn = pool.get().await.unwrap();
    server.kill_9();
    let error = conn.cancel().await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("refused"), "{error}: {source}");
    assert_eq!(super::cancel_requests::outcomes(&events), ["failed"]);
}
