//! What a URL demands about TLS is done, with a real server, or refused.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use livepool::Event;
use livepool::error::CheckoutFailure;
use livepool_tls::Tls;
use livepool_tls::tokio_rustls::rustls::crypto::ring;
use livepool_tls::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use livepool_tls::tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use livepool_tls::tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use livepool_testkit::servers::Certs;
use livepool_testkit::servers::certs::Identity;
use livepool_testkit::until_seen;

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

/// Of each connection that is not encrypted: whether the server was asked.
fn unencrypted(events: &Events) -> Vec<bool> {
    let all = events.all();
    let in_clear = all.iter().filter_map(|event| match event {
        Event::Unencrypted { was_asked, .. } => Some(*was_asked),
        _ => None,
    });
    in_clear.collect()
}

/// Why there is no connection, to somebody who has to change something.
async fn denied(pool: &Pool<Postgres>) -> String {
    let error = pool.get().await.unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Connect);
    let why = error.connect_error().unwrap();
    assert!(why.is_denied(), "{why}");
    why.to_string()
}

#[tokio::test]
async fn sslmode_decides_about_encryption() {
    let certs = Certs::new();
    let (with, without) = (Server::start_with_tls(&[], &certs), Server::start());
    for (server, mode, expected) in [
        (&with, "require", true),
        (&with, "verify-ca", true),
        (&with, "verify-full", true),
        (&with, "prefer", true),
        (&with, "allow", true),
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
        until_seen(|| running(server, "pg_sleep(82)"), |seen| *seen == 0).await;
        let is_second_best = mode == "prefer" && !expected;
        assert_eq!(unencrypted(&events), vec![true; usize::from(is_second_best)], "{mode}");
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let postgres = Postgres::from_url(&url(&without, mode)).unwrap();
        let (pool, _) = pool_of(postgres.with_tls(trusting(&certs)), one);
        let why = denied(&pool).await;
        assert!(why.contains("the server has no TLS"), "{why}");
    }
}

#[tokio::test]
async fn a_connection_in_clear_that_might_be_encrypted_says_so() {
    let server = trusting_server(&[]);
    let (pool, events) = pool(&server, one);
    echo(&pool.get().await.unwrap(), 1).await.unwrap();
    assert_eq!(unencrypted(&events), [false], "nobody gave the pool what it takes");
    // Nobody is in between there.
    let local = format!(
        "host={} port={} user=app dbname=app",
        server.socket_dir().display(),
        server.port()
    );
    for (mode, expected) in [("", true), ("sslmode=disable", true), ("sslmode=require", false)] {
        let postgres = Postgres::from_url(&format!("{local} {mode}")).unwrap();
        let tls = Tls::builder().with_webpki_roots().build().unwrap();
        let (pool, events) = pool_of(postgres.with_tls(tls), one);
        assert_eq!(pool.get().await.is_ok(), expected, "{mode}");
        assert_eq!(unencrypted(&events), [false; 0], "{mode}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_at_once() {
    let certs = Certs::of_somebody_else();
    let server = Server::start_with_tls(&[], &certs);
    // Of an authority that is trusted, which is not enough for any of them.
    for mode in ["require", "verify-ca", "verify-full", "prefer"] {
        let postgres = Postgres::from_url(&url(&server, mode)).unwrap();
        let (pool, _) = pool_of(postgres.with_tls(trusting(&certs)), one);
        let why = denied(&pool).await;
        assert!(why.contains("certificate"), "{why}");
    }
}

#[tokio::test]
async fn a_url_is_enough_for_whom_to_trust_and_who_we_are() {
    let certs = Certs::new();
    let server = Server::start_with_tls(&[], &certs);
    server.admit("hostssl all all 127.0.0.1/32 trust clientcert=verify-ca");
    let (ca, cert, key) = (certs.ca_file(), certs.client_cert_file(), certs.client_key_file());
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    let trusts = format!("{}&sslrootcert={ca}", url(&server, "verify-full"));
    let whole = format!("{trusts}&sslcert={cert}&sslkey={key}");
    // Whatever way the pool is built.
    let addr = Config::new(format!("127.0.0.1:{}", server.port()));
    let built = Pool::builder(addr).protocol(Postgres::from_url(&whole).unwrap()).build();
    for pool in [livepool_postgres::pool(&whole).unwrap(), built.unwrap()] {
        assert!(is_encrypted(&pool.get().await.unwrap()).await);
    }
    let why = denied(&livepool_postgres::pool(&trusts).unwrap()).await;
    assert!(why.contains("certificate"), "{why}");
    // In one word only.
    let twice = Postgres::from_url(&whole).unwrap().with_tls(trusting(&certs));
    let error = twice.builder().unwrap_err().to_string();
    assert!(error.contains("leave one of them out"), "{error}");
}

/// Two servers, each with a certificate of its own, at addresses that no name leads to.
#[tokio::test]
async fn the_address_is_dialed_and_the_certificate_is_that_of_the_host_beside_it() {
    let certs = Certs::of_somebody_else();
    let here = certs.named("db.example");
    let servers = [Server::start_with_tls(&[], &certs), Server::start_with_tls(&[], &here)];
    let url = |hosts: &str, which: &[usize]| {
        let ports: Vec<_> = which.iter().map(|at| servers[*at].port().to_string()).collect();
        let addrs = vec!["127.0.0.1"; which.len()].join(",");
        format!(
            "host={hosts} hostaddr={addrs} port={} user=postgres password='open sesame' dbname=app \
             sslmode=verify-full sslrootcert={}",
            ports.join(","),
            certs.ca_file().display()
        )
    };
    for (hosts, which) in [("wrong.example", &[0][..]), ("db.example", &[1])] {
        let pool = livepool_postgres::pool(&url(hosts, which)).unwrap();
        let conn = pool.get().await.unwrap();
        assert!(is_encrypted(&conn).await, "{hosts}");
        let asked = conn.batch_execute("SELECT pg_sleep(83)");
        tokio::time::timeout(Duration::from_millis(20), asked).await.unwrap_err();
        drop(conn);
        // The cancel has looked at the same name.
        assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
        until_seen(|| running(&servers[which[0]], "pg_sleep(83)"), |seen| *seen == 0).await;
    }
    // Each beside its own.
    let postgres = Postgres::from_url(&url("wrong.example,db.example", &[0, 1])).unwrap();
    let (pool, events) = pool_of(postgres, |config| config.with_max_size(2));
    fill(&pool, 2).await;
    assert_eq!((events.opened(), pool.peers().len()), (2, 2));
    assert!(pool.peers().iter().all(|peer| peer.connections == 1), "{:?}", pool.peers());
    // Not the other's, and not that of the address.
    for hosts in ["db.example", "127.0.0.1"] {
        let why = denied(&livepool_postgres::pool(&url(hosts, &[0])).unwrap()).await;
        assert!(why.contains("certificate"), "{hosts}: {why}");
    }
}

/// Takes connections with this certificate, and passes what they say on to the server over TLS of its own.
async fn between(server: &Server, identity: &Identity, ca: &Certs) -> SocketAddr {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.ca_der().to_vec())).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (connector, acceptor) = (TlsConnector::from(Arc::new(config)), accepts(identity, &[]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, port) = (listener.local_addr().unwrap(), server.port());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (connector, acceptor) = (connector.clone(), acceptor.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let mut request = [0; 8];
                client.read_exact(&mut request).await.unwrap();
                server.write_all(&request).await.unwrap();
                let mut answer = [0];
                server.read_exact(&mut answer).await.unwrap();
                client.write_all(&answer).await.unwrap();
                let name = "127.0.0.1".try_into().unwrap();
                let mut server = connector.connect(name, server).await.unwrap();
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    addr
}

fn accepts(identity: &Identity, protocols: &[&[u8]]) -> TlsAcceptor {
    let cert = CertificateDer::from(identity.cert_der.clone());
    let key = PrivateKeyDer::try_from(identity.key_der.clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn a_password_is_bound_to_the_certificate_of_its_server() {
    let certs = Certs::new();
    let server = Server::start_with_tls(&[], &certs);
    let via = |port: u16, options: &str| {
        let url = format!(
            "postgres://postgres:open%20sesame@localhost:{port}/app?sslmode=verify-full&sslrootcert={}{options}",
            certs.ca_file().display()
        );
        livepool_postgres::pool(&url).unwrap()
    };
    // It is bound where the server can do that, and is not let in otherwise where that is required.
    for options in ["", "&channel_binding=prefer", "&channel_binding=require"] {
        let conn = via(server.port(), options).get().await.unwrap();
        assert!(is_encrypted(&conn).await, "{options}");
    }
    // Somebody with another certificate of a trusted authority, for that name, reads along; but the
    // password was not said to the server that he passes it on to.
    let other = certs.named("localhost");
    let port = between(&server, other.server(), &certs).await.port();
    for options in ["", "&channel_binding=require"] {
        let why = denied(&via(port, options)).await;
        assert!(why.contains("28"), "{options}: {why}");
    }
    assert!(is_encrypted(&via(port, "&channel_binding=disable").get().await.unwrap()).await);
    // Who asks for no password, or for it in clear, binds nothing.
    for method in ["trust", "password"] {
        server.admit(&format!("hostssl all all all {method}"));
        let why = denied(&via(server.port(), "&channel_binding=require")).await;
        assert!(why.contains("channel binding"), "{method}: {why}");
    }
}

#[tokio::test]
async fn channel_binding_that_is_required_is_not_left_out_in_clear() {
    let (certs, server) = (Certs::new(), Server::start());
    let url = format!("{}?channel_binding=require", server.url());
    let postgres = Postgres::from_url(&url).unwrap();
    // However it is built. From a URL it has the authorities of this system.
    let without_tls = Postgres::new(url.parse().unwrap());
    let addr = Config::new(format!("127.0.0.1:{}", server.port()));
    let why = denied(&Pool::builder(addr).protocol(without_tls).build().unwrap()).await;
    assert!(why.contains("channel_binding demands TLS"), "{why}");
    let (pool, _) = pool_of(postgres.clone(), one);
    let why = denied(&pool).await;
    assert!(why.contains("did not use channel binding"), "{why}");
    let (pool, _) = pool_of(postgres.with_tls(trusting(&certs)), one);
    let why = denied(&pool).await;
    assert!(why.contains("did not use channel binding"), "{why}");
}

/// No server of PostgreSQL 16 and older takes it.
#[tokio::test]
async fn who_speaks_tls_from_the_start_says_for_what() {
    let certs = Certs::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = accepts(certs.server(), &[b"postgresql"]);
    let seen = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let client = acceptor.accept(client).await.unwrap();
        *noted.lock().unwrap() = client.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    });
    let url = format!(
        "host=localhost hostaddr=127.0.0.1 port={port} user=me sslmode=verify-full \
         sslnegotiation=direct sslrootcert={}",
        certs.ca_file().display()
    );
    let pool = livepool_postgres::pool(&url).unwrap();
    let is_seen = || seen.lock().unwrap().is_some();
    tokio::select! {
        _ = pool.get_by(tokio::time::Instant::now() + 10 * SECOND) => {}
        () = livepool_testkit::until(is_seen) => {}
    }
    assert_eq!(seen.lock().unwrap().as_deref(), Some(&b"postgresql"[..]));
}
