//! Prepared statements: those that became invalid, those that nobody will use again, and those that a
//! session does not have.

use livepool::CloseReason;

use super::*;

/// A statement that the session does not have is no fault of the network.
#[tokio::test]
async fn an_answer_that_does_not_fit_the_client_has_a_reason_of_its_own_and_the_servers_code() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    let conn = pool.get().await.unwrap();
    let statement = conn.prepare("SELECT 1").await.unwrap();
    // As behind a proxy that gives the next transaction another session.
    let name = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT 1'";
    let name: String = conn.query_one(name, &[]).await.unwrap().get(0);
    conn.batch_execute(&format!("DEALLOCATE {name}")).await.unwrap();
    let error = conn.query(&statement, &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "26000");
    drop((statement, conn));
    assert_eq!(events.until_closed(1).await, [CloseReason::ProtocolError]);
    assert_eq!(events.codes(), [Some("26000".to_owned())]);
}
