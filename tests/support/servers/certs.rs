//! Certificates for the servers: an authority of our own, and what it has signed.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use super::process::Dir;

pub struct Certs {
    dir: Dir,
    ca: String,
    client: (String, String),
}

impl Certs {
    /// The server's certificate is for `localhost` and 127.0.0.1.
    pub fn new() -> Self {
        Self::for_name("localhost", true)
    }

    /// The server's certificate is for `wrong.example` only.
    pub fn of_somebody_else() -> Self {
        Self::for_name("wrong.example", false)
    }

    fn for_name(name: &str, and_address: bool) -> Self {
        let dir = Dir::new("certs");
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        let ca = params.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(params, ca_key);
        let signed = |name: &str, and_address: bool| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            if and_address {
                params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
            }
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (cert, key) = signed(name, and_address);
        for (name, text) in [("ca.pem", &ca), ("cert.pem", &cert), ("key.pem", &key)] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        Self { dir, ca, client: signed("postgres", false) }
    }

    pub fn ca_pem(&self) -> &[u8] {
        self.ca.as_bytes()
    }

    /// Certificate and key of a client called `postgres`.
    pub fn client_pem(&self) -> (&[u8], &[u8]) {
        (self.client.0.as_bytes(), self.client.1.as_bytes())
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
}
