//! From a URL to a connection.

use super::*;

#[tokio::test]
async fn a_url_is_enough() {
    let server = Server::start();
    let pool = livepool_postgres::pool(&server.url()).unwrap();
    assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
    // Over the Unix socket, from settings.
    let settings = format!(
        "host={} port={} user=postgres dbname=app",
        server.socket_dir().display(),
        server.port()
    );
    let pool = livepool_postgres::pool(&settings).unwrap();
    let conn = pool.get().await.unwrap();
    assert_eq!(echo(&conn, 1).await.unwrap(), 1);
    // It is cancelled there as well.
    let asked = conn.batch_execute("SELECT pg_sleep(81)");
    tokio::time::timeout(Duration::from_millis(50), asked).await.unwrap_err();
    drop(conn);
    assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
    livepool_testkit::until_seen(|| running(&server, "pg_sleep(81)"), |seen| *seen == 0).await;
}
