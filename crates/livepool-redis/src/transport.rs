//! [`Transport`]: whether a connection is encrypted, and with whose certificates.

use std::io;

use livepool::SetupError;
use livepool::protocol::Wire;
#[cfg(feature = "tls")]
use livepool_tls::Tls;
#[cfg(feature = "tls")]
use std::sync::{Arc, OnceLock};

/// The kind of the error of a system without trusted authorities.
#[cfg(feature = "tls")]
const NO_TRUSTED_ROOTS: io::ErrorKind = io::ErrorKind::Unsupported;

#[derive(Debug, Clone)]
pub(super) enum Transport {
    Plain,
    /// TLS. Without settings of the user, those of the system are loaded at the first connection,
    /// so that a system without authorities does no harm to users who bring their own.
    #[cfg(feature = "tls")]
    Tls(Arc<OnceLock<Tls>>),
}

impl Transport {
    /// TLS with the authorities that this system trusts.
    #[cfg(feature = "tls")]
    pub(super) fn system_tls() -> Result<Self, SetupError> {
        Ok(Self::Tls(Arc::default()))
    }

    /// TLS with the user's settings.
    #[cfg(feature = "tls")]
    pub(super) fn with_tls(tls: Tls) -> Self {
        Self::Tls(Arc::new(OnceLock::from(tls)))
    }

    /// The error that TLS is not built in.
    #[cfg(not(feature = "tls"))]
    pub(super) fn system_tls() -> Result<Self, SetupError> {
        Err(SetupError::protocol(
            "TLS is wanted and not built in: enable the feature \"tls\" of livepool-redis, or \
             write redis:// for a connection that is not encrypted",
        ))
    }

    /// Encrypts the wire, if that is wanted.
    #[cfg(feature = "tls")]
    pub(super) async fn encrypt(&self, wire: Wire) -> io::Result<Wire> {
        let Self::Tls(tls) = self else { return Ok(wire) };
        let tls = match tls.get() {
            Some(tls) => tls,
            None => {
                let system = Tls::builder().with_native_roots().build();
                let system = system.map_err(|error| io::Error::new(NO_TRUSTED_ROOTS, error))?;
                // Another connection may have been first; both are alike.
                tls.get_or_init(|| system)
            }
        };
        tls.connect(wire).await
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_async, reason = "the same call as where there is TLS")]
    pub(super) async fn encrypt(&self, wire: Wire) -> io::Result<Wire> {
        let Self::Plain = self;
        Ok(wire)
    }
}

/// Whether trying again is no use until somebody changes something.
#[cfg(feature = "tls")]
pub(super) fn is_permanent(error: &io::Error) -> bool {
    error.kind() == NO_TRUSTED_ROOTS || livepool_tls::is_distrusted(error)
}

#[cfg(not(feature = "tls"))]
pub(super) fn is_permanent(_: &io::Error) -> bool {
    false
}
