//! Bytes over TLS, pooled: what a TLS server says on its own, and whom not to trust.
//!
//! Run it: `cargo run -p livepool-tls --example tls`
//!
//! It starts a server in the same process, which answers every line with that line, with certificates
//! that are made on the spot.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use livepool::{Config, Event, Pool};
use livepool_tls::Tls;
use livepool_tls::tokio_rustls::rustls::ServerConfig;
use livepool_tls::tokio_rustls::rustls::crypto::ring;
use livepool_tls::tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use livepool_tls::tokio_rustls::{TlsAcceptor, server::TlsStream};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let authority = Authority::new()?;
    let port = serve(&authority, "localhost").await?;
    let tls = Tls::builder().with_root_pem(authority.pem.as_str()).build()?;
    let closed = |_: &str, event: &Event| match event {
        Event::Opened { conn, took, .. } => {
            println!("    [{conn} is opened, handshake included, in {took:.1?}]");
        }
        Event::Closed { conn, reason, .. } => println!("    [{conn} is closed: {reason}]"),
        _ => {}
    };
    let config = Config::new(format!("localhost:{port}"));
    let pool = Pool::builder(config).observer(closed).protocol(tls.clone()).build()?;

    println!("three exchanges, with session tickets waiting in between");
    for line in ["one\n", "two\n", "three\n"] {
        let mut conn = pool.get().await?;
        conn.write_all(line.as_bytes()).await?;
        let mut answer = vec![0; line.len()];
        conn.read_exact(&mut answer).await?;
        println!("    {:?} came back on {}", String::from_utf8_lossy(&answer), conn.id());
        conn.release();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    println!("a server that says goodbye (close_notify) to an idle connection");
    let mut conn = pool.get().await?;
    conn.write_all(b"bye\n").await?;
    conn.read_exact(&mut [0; 4]).await?;
    conn.release();
    tokio::time::sleep(Duration::from_millis(50)).await;
    println!("    nobody had to find out: {}", pool.status());

    println!("a server whose certificate is for somebody else");
    let port = serve(&authority, "wrong.example").await?;
    told(Config::new(format!("localhost:{port}")), tls).await?;

    println!("a server that an unknown authority speaks for");
    let port = serve(&Authority::new()?, "localhost").await?;
    let tls = Tls::builder().with_root_pem(authority.pem.as_str()).build()?;
    told(Config::new(format!("localhost:{port}")), tls).await
}

/// Prints why no connection can be had.
async fn told(config: Config, tls: Tls) -> Result {
    let pool = Pool::builder(config).protocol(tls).build()?;
    if let Err(error) = pool.get().await {
        let why = error.connect_error().map(ToString::to_string).unwrap_or_default();
        println!("    after {:.1?}, without a second try: {why}", error.waited());
    }
    Ok(())
}

/// Signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }
}

/// A server with a certificate for this name; returns its port.
async fn serve(authority: &Authority, name: &str) -> Result<u16> {
    let key = KeyPair::generate()?;
    let cert = CertificateParams::new([name.to_owned()])?.signed_by(&key, &authority.issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = echo(stream).await;
                }
            });
        }
    });
    Ok(port)
}

async fn echo(stream: TlsStream<TcpStream>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        stream.get_mut().write_all(line.as_bytes()).await?;
        if line == "bye\n" {
            return stream.get_mut().shutdown().await;
        }
        line.clear();
    }
    Ok(())
}
