//! What an authentication is bound to: the certificate of the server that was spoken to (RFC 5929,
//! `tls-server-end-point`). Somebody in between has another one.

use sha2::{Digest, Sha256, Sha384, Sha512};

/// Hashes that certificates are signed with, by the object identifiers of the signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignatureHash {
    Sha256,
    Sha384,
    Sha512,
}

/// RFC 5929, section 4.1: by the hash of the certificate's signature, SHA-256 for the weak ones. `None`
/// where there is not one hash: Ed25519, say.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_hash(certificate)? {
        SignatureHash::Sha256 => Sha256::digest(certificate).to_vec(),
        SignatureHash::Sha384 => Sha384::digest(certificate).to_vec(),
        SignatureHash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

/// RFC 5280, section 4.1: a certificate is a sequence of what is signed, the algorithm, and the signature.
fn signature_hash(certificate: &[u8]) -> Option<SignatureHash> {
    const SEQUENCE: u8 = 0x30;
    let (whole, _) = element(SEQUENCE, certificate)?;
    let (_, after) = element(SEQUENCE, whole)?;
    let (algorithm, _) = element(SEQUENCE, after)?;
    let (identifier, parameters) = element(0x06, algorithm)?;
    match identifier {
        // 1.2.840.113549.1.1.x, RSA: with MD5, SHA-1, SHA-256, SHA-384, SHA-512.
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04" | b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05" => {
            Some(SignatureHash::Sha256)
        }
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b" => Some(SignatureHash::Sha256),
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c" => Some(SignatureHash::Sha384),
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d" => Some(SignatureHash::Sha512),
        // RSASSA-PSS: its parameters say (RFC 4055).
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a" => {
            let (fields, _) = element(SEQUENCE, parameters)?;
            let Some((hash, _)) = element(0xa0, fields) else {
                // SHA-1, which is the default there.
                return Some(SignatureHash::Sha256);
            };
            let (hash, _) = element(SEQUENCE, hash)?;
            match element(0x06, hash)?.0 {
                b"\x2b\x0e\x03\x02\x1a" | b"\x60\x86\x48\x01\x65\x03\x04\x02\x01" => {
                    Some(SignatureHash::Sha256)
                }
                b"\x60\x86\x48\x01\x65\x03\x04\x02\x02" => Some(SignatureHash::Sha384),
                b"\x60\x86\x48\x01\x65\x03\x04\x02\x03" => Some(SignatureHash::Sha512),
                _ => None,
            }
        }
        // 1.2.840.10045.4.x, ECDSA: with SHA-1, SHA-256, SHA-384, SHA-512.
        b"\x2a\x86\x48\xce\x3d\x04\x01" | b"\x2a\x86\x48\xce\x3d\x04\x03\x02" => {
            Some(SignatureHash::Sha256)
        }
        b"\x2a\x86\x48\xce\x3d\x04\x03\x03" => Some(SignatureHash::Sha384),
        b"\x2a\x86\x48\xce\x3d\x04\x03\x04" => Some(SignatureHash::Sha512),
        _ => None,
    }
}

/// The content of the first element, which has this tag, and what follows it (X.690, DER).
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [first, length, rest @ ..] = der else { return None };
    let (length, rest) = match usize::from(*length) {
        short @ ..0x80 => (short, rest),
        long => {
            let (digits, rest) = rest.split_at_checked(long & 0x7f)?;
            if digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    if *first == tag { rest.split_at_checked(length) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    fn certificate(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(["db.example".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let certificate = |algorithm| certificate(algorithm);
        let with_256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point(&with_256).unwrap(), Sha256::digest(&with_256).to_vec());
        let with_384 = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point(&with_384).unwrap(), Sha384::digest(&with_384).to_vec());
        // It signs the message itself.
        assert_eq!(end_point(&certificate(&rcgen::PKCS_ED25519)), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_end_point() {
        let whole = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for end in 0..whole.len() {
            let _ = end_point(&whole[..end]);
        }
        for bytes in
            [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x89aaaaaaaaa", b"\x06\x00"]
        {
            assert_eq!(end_point(bytes), None);
        }
    }
}
