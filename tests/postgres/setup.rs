//! From a URL to a connection.

use super::*;

#[tokio::test]
async fn a_url_is_enough() {
    let server = Server::start();
    let pool = livepool::postgres::pool(&server.url()).unwrap();
    assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
    // Over the Unix socket, from settings.
    let settings = format!(
        "host={} port={} user=postgres dbname=app",
        server.socket_dir().display(),
        server.port()
    );
    let pool = livepool::postgres::pool(&settings).unwrap();
    let conn = pool.get().await.unwrap();
    assert_eq!(echo(&conn, 1).await.unwrap(), 1);
    // It is cancelled there as well.
    let asked = conn.batch_execute("SELECT pg_sleep(81)");
    tokio::time::timeout(Duration::from_millis(50), asked).await.unwrap_err();
    drop(conn);
    assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
    support::until_seen(|| running(&server, "pg_sleep(81)"), |seen| *seen == 0).await;
}

#[cfg(feature = "tls")]
mod tls {
    use livepool::error::CheckoutFailure;
    use livepool::tls::Tls;

    use super::*;
    use support::servers::Certs;

    fn trusting(certs: &Certs) -> Tls {
        Tls::builder().with_root_pem(certs.ca_pem()).build().unwrap()
    }

    fn url(server: &Server, mode: &str) -> String {
        format!("{}?sslmode={mode}", server.url())
    }

    async fn is_encrypted(client: &Client) -> bool {
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        client.query_one(sql, &[]).await.unwrap().get(0)
    }

    #[tokio::test]
    async fn sslmode_decides_about_encryption() {
        let certs = Certs::new();
        let (with, without) = (Server::start_with_tls(&[], &certs), Server::start());
        for (server, mode, expected) in [
            (&with, "require", true),
            (&with, "prefer", true),
            (&with, "disable", false),
            (&without, "prefer", false),
        ] {
            let postgres = Postgres::from_url(&url(server, mode)).unwrap();
            let (pool, events) = pool_of(postgres.with_tls(trusting(&certs)), one);
            for _ in 0..3 {
                let conn = pool.get().await.unwrap();
                assert_eq!(is_encrypted(&conn).await, expected, "{mode}");
                // A query that is given up is cancelled over TLS as well.
                let asked = conn.batch_execute("SELECT pg_sleep(82)");
                tokio::time::timeout(Duration::from_millis(20), asked).await.unwrap_err();
            }
            assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
            assert_eq!((events.opened(), events.closed()), (1, vec![]), "{mode}");
            support::until_seen(|| running(server, "pg_sleep(82)"), |seen| *seen == 0).await;
        }
        let postgres = Postgres::from_url(&url(&without, "require")).unwrap();
        let (pool, _) = pool_of(postgres.with_tls(trusting(&certs)), one);
        let error = pool.get().await.unwrap_err();
        let why = error.connect_error().unwrap();
        assert!(why.is_denied() && why.to_string().contains("the server has no TLS"), "{why}");
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_is_refused_at_once() {
        let certs = Certs::of_somebody_else();
        let server = Server::start_with_tls(&[], &certs);
        let postgres = Postgres::from_url(&url(&server, "require")).unwrap();
        let (pool, _) = pool_of(postgres.with_tls(trusting(&certs)), one);
        let error = pool.get().await.unwrap_err();
        assert_eq!(error.failure(), CheckoutFailure::Connect);
        let why = error.connect_error().unwrap();
        assert!(why.is_denied() && why.to_string().contains("certificate"), "{why}");
    }
}
