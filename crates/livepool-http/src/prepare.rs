//! Checks whether a request is one for a pool, before a connection is taken for it; and adaptation
//! of a request to its connection: its form, its `Host`.

use http::header::{CONNECTION, HOST, UPGRADE};
#[cfg(feature = "http2")]
use http::header::{CONTENT_LENGTH, TE};
#[cfg(feature = "http2")]
use http::request::Parts;
#[cfg(feature = "http2")]
use http::uri::{self, Authority};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use std::net::IpAddr;

use super::Error;
#[cfg(feature = "http2")]
use super::RequestBody;
#[cfg(feature = "http2")]
use http_body::Body as _;
use livepool::net::PeerAddr;

/// Refuses a request that cannot be made on a connection of such a pool.
pub(super) fn check<B>(request: &Request<B>, is_secure: bool, most: Version) -> Result<(), Error> {
    if request.method() == Method::CONNECT {
        return Err(Error::refused("CONNECT makes a tunnel of its connection; this is a pool"));
    }
    if request.headers().contains_key(UPGRADE) || has_token(request.headers(), "upgrade") {
        return Err(Error::refused("an upgrade takes its connection away; this is a pool"));
    }
    match request.version() {
        // What is built without a version says 1.1, and means nothing by it.
        version if version >= Version::HTTP_10 && version <= most => {}
        version => return Err(Error::refused(format!("{version:?} is not spoken here"))),
    }
    if let Some(scheme) = request.uri().scheme() {
        let expected = if is_secure { Scheme::HTTPS } else { Scheme::HTTP };
        if *scheme != expected {
            return Err(Error::refused(format!(
                "its URI is for {scheme}, and this pool speaks {expected}"
            )));
        }
    }
    Ok(())
}

/// RFC 9112 section 3.2: a server gets the path and query (origin-form), and the authority in
/// `Host`. A request in that form stays as it is.
pub(super) fn prepare<B>(request: &mut Request<B>, host: &HeaderValue) -> Result<(), Error> {
    let named = match request.uri().authority() {
        None => None,
        Some(authority) => {
            // What stands before the '@' is not for the server (RFC 9110 section 4.2.4).
            let text = authority.as_str();
            let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
            Some(HeaderValue::from_str(text).map_err(|error| {
                Error::refused("the authority of its URI is none").because_of(error)
            })?)
        }
    };
    if !request.headers().contains_key(HOST) {
        let value = named.clone().unwrap_or_else(|| host.clone());
        request.headers_mut().insert(HOST, value);
    }
    if named.is_some() {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    }
    Ok(())
}

/// The text of a server's name and port, as in `Host`: without a port that follows from the scheme.
pub(crate) fn host_of(host: Option<&str>, peer: &PeerAddr, is_secure: bool) -> String {
    let default = if is_secure { 443 } else { 80 };
    // A Unix socket has no name. The header has to be there.
    let PeerAddr::Tcp(addr) = peer else { return "localhost".to_owned() };
    let host = match (host, addr.ip()) {
        (Some(host), _) => host.to_owned(),
        (None, IpAddr::V4(ip)) => ip.to_string(),
        // A zone means something on this machine only (RFC 6874 section 4).
        (None, IpAddr::V6(ip)) => format!("[{ip}]"),
    };
    if addr.port() == default { host } else { format!("{host}:{}", addr.port()) }
}

/// The head of a request as HTTP/2 has it (RFC 9113 section 8.3.1): with scheme and authority, and without
/// what is for a connection of HTTP/1.1 (section 8.2.2).
#[cfg(feature = "http2")]
pub(crate) fn prepare_http2(
    request: &Parts,
    body: &RequestBody,
    authority: &Authority,
    is_secure: bool,
) -> Result<Request<()>, Error> {
    let refused = |what| move |error| Error::refused(what).because_of(error);
    // What the caller says goes before its URI, as over HTTP/1.1. An empty Host says nothing.
    let host = request.headers.get(HOST).filter(|host| !host.is_empty());
    let host = host.map(|host| Authority::try_from(host.as_bytes())).transpose();
    let host = host.map_err(refused("its Host is no authority"))?;
    let named = host.as_ref().or_else(|| request.uri.authority()).unwrap_or(authority);
    // What stands before the '@' is not for the server (RFC 9113 section 8.3.1).
    let named = match named.as_str().rsplit_once('@') {
        None => named.clone(),
        Some((_, host)) => {
            host.parse().map_err(refused("its Host or the authority of its URI is none"))?
        }
    };
    let mut uri = uri::Parts::default();
    uri.scheme = Some(if is_secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(named);
    uri.path_and_query = Some(match request.uri.path_and_query() {
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    });
    let mut head = Request::new(());
    *head.method_mut() = request.method.clone();
    *head.uri_mut() = Uri::from_parts(uri)
        .map_err(|error| Error::refused("its URI is none").because_of(error))?;
    *head.version_mut() = Version::HTTP_2;
    let mut headers = request.headers.clone();
    headers.remove(HOST);
    if let Some(length) = body.size_hint().exact()
        && (length > 0 || matches!(request.method, Method::POST | Method::PUT | Method::PATCH))
        && !headers.contains_key(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    if headers.contains_key(CONNECTION) {
        let values: Vec<_> = headers.get_all(CONNECTION).iter().cloned().collect();
        for word in values.iter().filter_map(|value| value.to_str().ok()) {
            for name in word.split(',') {
                headers.remove(name.trim());
            }
        }
        headers.remove(CONNECTION);
    }
    for name in ["keep-alive", "proxy-connection", "transfer-encoding"] {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|value| value != "trailers") {
        headers.remove(TE);
    }
    *head.headers_mut() = headers;
    Ok(head)
}

/// Whether a `Connection` header has this word.
pub(crate) fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST_OF_POOL: HeaderValue = HeaderValue::from_static("upstream:8080");

    fn prepared(request: http::request::Builder) -> Result<(String, String), String> {
        let mut request = request.body(()).unwrap();
        check(&request, false, Version::HTTP_11).map_err(|error| error.to_string())?;
        prepare(&mut request, &HOST_OF_POOL).map_err(|error| error.to_string())?;
        let host = request.headers()[HOST].to_str().unwrap().to_owned();
        Ok((request.uri().to_string(), host))
    }

    #[test]
    fn every_form_of_a_uri_becomes_a_path_and_a_host() {
        let table = [
            ("/", "/", "upstream:8080"),
            ("/a?b=c", "/a?b=c", "upstream:8080"),
            ("*", "*", "upstream:8080"),
            ("http://example.org", "/", "example.org"),
            ("http://example.org:81/a?b", "/a?b", "example.org:81"),
            ("http://user:secret@example.org/a", "/a", "example.org"),
            ("http://[::1]:81/", "/", "[::1]:81"),
        ];
        for (uri, path, host) in table {
            let expected = (path.to_owned(), host.to_owned());
            assert_eq!(prepared(Request::get(uri)).unwrap(), expected, "{uri}");
        }
        let own = Request::get("http://example.org/").header(HOST, "mine");
        assert_eq!(prepared(own).unwrap().1, "mine", "a host that was given stays");
    }

    #[cfg(feature = "http2")]
    #[test]
    fn a_host_that_was_given_is_sent_over_both_protocols() {
        for uri in ["http://192.0.2.1/a", "http://192.0.2.1:81/a", "/a"] {
            let request = || Request::get(uri).header(HOST, "example.org");
            assert_eq!(prepared(request()).unwrap().1, "example.org", "{uri}");
            let (parts, ()) = request().body(()).unwrap().into_parts();
            let pools = Authority::from_static("upstream:8080");
            let head = prepare_http2(&parts, &RequestBody::from(()), &pools, false).unwrap();
            assert_eq!(head.uri(), "http://example.org/a", "{uri}");
            assert!(!head.headers().contains_key(HOST), "{uri}: it is said once");
        }
    }

    #[test]
    fn an_address_is_a_host_without_its_zone_and_without_the_port_of_its_scheme() {
        let table = [
            ("192.0.2.1:80", false, "192.0.2.1"),
            ("192.0.2.1:80", true, "192.0.2.1:80"),
            ("192.0.2.1:443", true, "192.0.2.1"),
            ("[::1]:443", true, "[::1]"),
            ("[fe80::1%3]:81", false, "[fe80::1]:81"),
        ];
        for (addr, is_secure, host) in table {
            let peer = PeerAddr::Tcp(addr.parse().unwrap());
            assert_eq!(host_of(None, &peer, is_secure), host, "{addr}");
        }
    }

    #[test]
    fn what_is_no_request_for_a_pool_is_refused_and_told_why() {
        let table = [
            (Request::connect("example.org:443"), "CONNECT"),
            (Request::get("/").header(UPGRADE, "websocket"), "upgrade"),
            (Request::get("/").header("connection", "keep-alive, Upgrade"), "upgrade"),
            (Request::get("https://example.org/"), "for https"),
            (Request::get("/").version(Version::HTTP_2), "HTTP/2"),
            (Request::get("/").version(Version::HTTP_3), "HTTP/3"),
        ];
        for (request, word) in table {
            let why = prepared(request).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
