//! Certificates for the servers: an authority of our own, and what it has signed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use super::dir::Dir;

/// A certificate and its key.
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
    pub cert_der: Vec<u8>,
    pub key_der: Vec<u8>,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

pub struct Certs {
    dir: Dir,
    issuer: Arc<Authority>,
    ca: String,
    server: Identity,
    client: Identity,
}

impl Default for Certs {
    fn default() -> Self {
        Self::new()
    }
}

impl Certs {
    /// The server's certificate is for `localhost` and 127.0.0.1.
    pub fn new() -> Self {
        Self::signed_by(authority(), "localhost", true)
    }

    /// The server's certificate is for `wrong.example` only.
    pub fn of_somebody_else() -> Self {
        Self::signed_by(authority(), "wrong.example", false)
    }

    /// As these, from the same authority, but the server's certificate is for `wrong.example` only.
    pub fn misnamed(&self) -> Self {
        Self::signed_by(Arc::clone(&self.issuer), "wrong.example", false)
    }

    /// As these, from the same authority, but the server's certificate is for this name only.
    pub fn named(&self, name: &str) -> Self {
        Self::signed_by(Arc::clone(&self.issuer), name, false)
    }

    fn signed_by(issuer: Arc<Authority>, name: &str, and_address: bool) -> Self {
        let dir = Dir::new("certs");
        let server = sign(&issuer, name, and_address);
        let client = sign(&issuer, "postgres", false);
        let ca = issuer.pem();
        for (name, text) in [
            ("ca.pem", &ca),
            ("cert.pem", &server.cert_pem),
            ("key.pem", &server.key_pem),
            ("client.pem", &client.cert_pem),
            ("client-key.pem", &client.key_pem),
        ] {
            std::fs::write(dir.join(name), text).unwrap();
            // Servers and clients refuse a key that others may read.
            let mode = if name.contains("key") { 0o600 } else { 0o644 };
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.join(name), mode).unwrap();
        }
        Self { dir, issuer, ca, server, client }
    }

    pub fn ca_pem(&self) -> &[u8] {
        self.ca.as_bytes()
    }

    pub fn ca_der(&self) -> &[u8] {
        AsRef::<rcgen::Certificate>::as_ref(&*self.issuer).der()
    }

    pub fn server(&self) -> &Identity {
        &self.server
    }

    /// A client called `postgres`.
    pub fn client(&self) -> &Identity {
        &self.client
    }

    /// Certificate and key of a client called `postgres`.
    pub fn client_pem(&self) -> (&[u8], &[u8]) {
        (self.client.cert_pem.as_bytes(), self.client.key_pem.as_bytes())
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub fn cert_file(&self) -> PathBuf {
        self.dir.join("cert.pem")
    }

    pub fn key_file(&self) -> PathBuf {
        self.dir.join("key.pem")
    }

    pub fn client_cert_file(&self) -> PathBuf {
        self.dir.join("client.pem")
    }

    pub fn client_key_file(&self) -> PathBuf {
        self.dir.join("client-key.pem")
    }
}

fn authority() -> Arc<Authority> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority for tests");
    Arc::new(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
}

fn sign(issuer: &Authority, name: &str, and_address: bool) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if and_address {
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    }
    let cert = params.signed_by(&key, issuer).unwrap();
    Identity {
        cert_pem: cert.pem(),
        key_pem: key.serialize_pem(),
        cert_der: cert.der().to_vec(),
        key_der: key.serialize_der(),
    }
}
