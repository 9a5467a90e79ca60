//! TLS (rustls), under any other protocol or alone.
//!
//! A TLS server sends on its own: session tickets after the handshake, and a `close_notify` before
//! it closes. Tickets that wait on an idle connection are taken in by its session and are no dirt;
//! a `close_notify` ends the connection as a FIN does. Other bytes are judged decrypted.
//!
//! ```no_run
//! use livepool_tls::Tls;
//! use livepool::{Config, Pool};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let tls = Tls::builder().with_native_roots().build()?;
//! let pool = Pool::builder(Config::new("example.org:853")).protocol(tls).build()?;
//! let mut conn = pool.get().await?;
//! conn.write_all(b"a question").await?;
//! let mut answer = [0; 9];
//! conn.read_exact(&mut answer).await?;
//! conn.release();
//! # Ok(()) }
//! ```

use std::error::Error;
use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore};

use livepool::error::CheckoutError;
use livepool::net::{ConnectError, PeerAddr};
use livepool::protocol::{Protocol, Wire};
use std::sync::Arc;

/// The client that callers of a pool of [`Tls`] get: the bytes, decrypted.
pub use livepool::protocol::WireStream as TlsStream;

/// The pool.
pub use livepool;
/// The library underneath, for those who bring a configuration of their own.
pub use tokio_rustls;

/// How connections are encrypted, and whom they trust.
///
/// As the [`Protocol`] of a pool it gives callers the bytes, as a [`TlsStream`]. A protocol above
/// TLS runs over the [`Wire`] that [`connect`](Self::connect) encrypts. Cloning is cheap.
///
/// ```
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use livepool_tls::Tls;
/// use livepool_tls::livepool::{Config, Pool};
///
/// let tls = Tls::builder().with_webpki_roots().build()?.with_server_name("example.org")?;
/// let pool = Pool::builder(Config::new("192.0.2.1:853")).protocol(tls).build()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl Tls {
    /// TLS with certificates of the authorities that are named next.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// TLS with a configuration of your own.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self { connector: TlsConnector::from(config), name: None }
    }

    /// The name that the server's certificate must be for. Without it, that is the name in the pool's
    /// `upstream`, or the address where there is no name.
    ///
    /// # Errors
    ///
    /// [`TlsError`], if this is neither a host name nor an IP address.
    pub fn with_server_name(mut self, name: impl Into<String>) -> Result<Self, TlsError> {
        self.name = Some(server_name(name.into()).map_err(TlsError)?);
        Ok(self)
    }

    /// Encrypts a wire: data written to the returned wire goes over the given one, encrypted.
    ///
    /// # Errors
    ///
    /// The error of the connection or of the handshake. [`is_distrusted`] tells whether it is the
    /// certificate.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect(&self, wire: Wire) -> io::Result<Wire> {
        let name = self.name_of(wire.host(), wire.peer_addr())?;
        Ok(self.agree(name, wire, |_| ()).await?.0)
    }

    /// As [`connect`](Self::connect). Returns the protocol that the server has chosen (ALPN), too, if it has.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`connect`](Self::connect).
    pub async fn connect_with_alpn(&self, wire: Wire) -> io::Result<(Wire, Option<Vec<u8>>)> {
        let name = self.name_of(wire.host(), wire.peer_addr())?;
        let (wire, alpn) = self.agree(name, wire, alpn_of).await?;
        Ok((wire, alpn.flatten()))
    }

    /// Performs the handshake, and returns what `take` wants of the session.
    async fn agree<T>(
        &self,
        name: ServerName<'static>,
        wire: Wire,
        take: impl FnOnce(&ClientConnection) -> T,
    ) -> io::Result<(Wire, Option<T>)> {
        let mut taken = None;
        let wire = wire.layer(async |below| {
            let session = self.connector.connect(name, below).await?;
            // Now, since the session cannot be reached any more once it is a layer.
            taken = Some(take(session.get_ref().1));
            Ok(session)
        });
        Ok((wire.await?, taken))
    }

    /// As [`connect`](Self::connect), to the server of this name unless
    /// [`with_server_name`](Self::with_server_name) has given one. Returns the server's own certificate,
    /// too: what a login is bound to, say.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`connect`](Self::connect).
    pub async fn connect_to(
        &self,
        host: Option<&str>,
        wire: Wire,
    ) -> io::Result<(Wire, Option<CertificateDer<'static>>)> {
        let name = self.name_of(host, wire.peer_addr())?;
        let certificate = |session: &ClientConnection| {
            session.peer_certificates().and_then(|chain| chain.first()).cloned()
        };
        let (wire, certificate) = self.agree(name, wire, certificate).await?;
        Ok((wire, certificate.flatten()))
    }

    /// The same, offering this protocol (ALPN) and no other.
    #[must_use]
    pub fn for_protocol(&self, protocol: &[u8]) -> Self {
        let mut config = ClientConfig::clone(self.connector.config());
        config.alpn_protocols = vec![protocol.to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)), name: self.name.clone() }
    }

    /// The same without the protocols that are offered (ALPN) and not spoken: a server that is offered
    /// another one speaks it.
    #[must_use]
    pub fn offering(&self, is_spoken: impl Fn(&[u8]) -> bool) -> Self {
        let mut config = ClientConfig::clone(self.connector.config());
        // A server picks one of the offered protocols, also one that the caller cannot speak.
        config.alpn_protocols.retain(|protocol| is_spoken(protocol));
        Self { connector: TlsConnector::from(Arc::new(config)), name: self.name.clone() }
    }

    /// As [`connect_to`](Self::connect_to), over a stream that is no pool's, to the server at this address.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// As for [`connect`](Self::connect).
    pub async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: Option<&str>,
        peer: &PeerAddr,
        stream: S,
    ) -> io::Result<tokio_rustls::client::TlsStream<S>> {
        self.connector.connect(self.name_of(host, peer)?, stream).await
    }

    /// The name that the certificate of the server there must be for.
    fn name_of(&self, host: Option<&str>, peer: &PeerAddr) -> io::Result<ServerName<'static>> {
        match (&self.name, host, peer) {
            (Some(name), _, _) => Ok(name.clone()),
            (None, Some(host), _) => server_name(host.to_owned()).map_err(io::Error::other),
            (None, None, PeerAddr::Tcp(addr)) => Ok(ServerName::IpAddress(addr.ip().into())),
            (None, None, _) => {
                Err(io::Error::other("a Unix socket has no name: give with_server_name()"))
            }
        }
    }
}

fn alpn_of(session: &ClientConnection) -> Option<Vec<u8>> {
    session.alpn_protocol().map(Into::into)
}

fn server_name(name: String) -> Result<ServerName<'static>, String> {
    // A name with its final dot is the same name; certificates have none.
    let bare = name.strip_suffix('.').unwrap_or(&name).to_owned();
    ServerName::try_from(bare).map_err(|_| format!("{name:?} is not a name that TLS can check"))
}

/// Whether a handshake failed because the server's certificate is not one to trust: expired, for
/// another name, of an unknown authority. Trying again does not help. Looks into whatever the error
/// is wrapped in, as far as [`livepool::error::find`] sees. Errors of `livepool-http` and
/// `livepool-postgres` have an `is_distrusted` of their own.
pub fn is_distrusted(error: &(dyn Error + 'static)) -> bool {
    // Ours have no source.
    if let Some(error) = livepool::error::find::<CheckoutError>(error) {
        return error.connect_error().is_some_and(|error| is_distrusted(error));
    }
    if let Some(error) = livepool::error::find::<ConnectError>(error) {
        return error.attempts().iter().any(|attempt| is_distrusted(attempt.error()));
    }
    let found = livepool::error::find::<rustls::Error>(error);
    found.is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
}

impl Protocol for Tls {
    type Client = TlsStream;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<TlsStream> {
        let name = self.name_of(wire.host(), wire.peer_addr())?;
        let (wire, alpn) = self.agree(name, wire, alpn_of).await?;
        Ok(TlsStream::from(wire).with_alpn_protocol(alpn.flatten().map(Into::into)))
    }

    async fn ping(&self, _: &mut TlsStream) -> io::Result<()> {
        Ok(())
    }

    fn has_ping(&self) -> bool {
        false
    }

    fn is_permanent(&self, error: &io::Error) -> bool {
        is_distrusted(error)
    }

    fn speaks(&self) -> &'static str {
        "TLS"
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The authorities to trust, and the client's own certificate. See [`Tls::builder`].
///
/// ```
/// use livepool_tls::Tls;
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = Tls::builder()
///     .with_root_pem(std::fs::read("/etc/ssl/internal-ca.pem")?)
///     .with_client_pem(std::fs::read("client.pem")?, std::fs::read("client.key")?)
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until build() is called"]
pub struct Builder {
    webpki: bool,
    native: bool,
    roots: Vec<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
    alpn: Vec<Vec<u8>>,
}

impl fmt::Debug for Builder {
    /// Without the client's key, and whatever else was given in PEM: they may have been taken for each other.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("webpki", &self.webpki)
            .field("native", &self.native)
            .field("roots", &self.roots.len())
            .field("has_client", &self.client.is_some())
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Trusts the authorities that Mozilla trusts, as they were when this crate was built.
    pub fn with_webpki_roots(mut self) -> Self {
        self.webpki = true;
        self
    }

    /// Trusts the authorities that this system trusts.
    pub fn with_native_roots(mut self) -> Self {
        self.native = true;
        self
    }

    /// Trusts the authorities in this PEM text, too.
    pub fn with_root_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Shows this certificate (its chain follows in the same PEM text) to servers that ask for one.
    pub fn with_client_pem(mut self, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.client = Some((cert.into(), key.into()));
        self
    }

    /// Offers these protocols (ALPN), the preferred one first.
    pub fn with_alpn<T: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Reads the certificates.
    ///
    /// # Errors
    ///
    /// [`TlsError`], if nobody is trusted, or a certificate or key cannot be read.
    pub fn build(self) -> Result<Tls, TlsError> {
        let mut roots = RootCertStore::empty();
        if self.webpki {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        if self.native {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            // A certificate that cannot be parsed is no reason to refuse the others.
            if added == 0 {
                let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
                return Err(TlsError(format!("this system names no authority to trust: {why}")));
            }
        }
        for pem in &self.roots {
            for cert in certs(pem, "the root certificate")? {
                roots
                    .add(cert)
                    .map_err(|error| TlsError(format!("a root certificate: {error}")))?;
            }
        }
        if roots.is_empty() {
            return Err(TlsError(
                "nobody is trusted: call with_webpki_roots(), with_native_roots() or \
                 with_root_pem()"
                    .to_owned(),
            ));
        }
        // Named, so that a default set by the process, or none, makes no difference.
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| unreadable("the client's key", &error))?;
                builder
                    .with_client_auth_cert(certs(cert, "the client's certificate")?, key)
                    .map_err(|error| TlsError(format!("the client's certificate: {error}")))?
            }
        };
        config.alpn_protocols = self.alpn;
        Ok(Tls::new(Arc::new(config)))
    }
}

fn certs(pem: &[u8], which: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certs {
        Ok(certs) if certs.is_empty() => Err(TlsError(format!("{which}: no certificate in it"))),
        Ok(certs) => Ok(certs),
        Err(error) => Err(unreadable(which, &error)),
    }
}

/// The parser repeats what it could not read, which may be a key whose lines were lost.
fn unreadable(which: &str, error: &pem::Error) -> TlsError {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line does not end as one",
        error => return TlsError(format!("{which}: {error}")),
    };
    TlsError(format!("{which}: {why} (were its line breaks lost?)"))
}

/// Certificates or names that cannot be used.
///
/// ```
/// use livepool_tls::{Tls, TlsError};
///
/// let error: TlsError = Tls::builder().build().unwrap_err();
/// assert!(error.to_string().contains("nobody is trusted"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS: {}", self.0)
    }
}

impl Error for TlsError {}

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
