//! Checks whether a request is one for a pool, before a connection is taken for it; and adaptation
//! of a request to its connection: its form, its `Host`.

use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use super::Error;

/// Refuses a request that cannot be made on a connection of such a pool.
pub(super) fn check<B>(request: &Request<B>, is_secure: bool) -> Result<(), Error> {
    if request.method() == Method::CONNECT {
        return Err(Error::refused("CONNECT makes a tunnel of its connection; this is a pool"));
    }
    if request.headers().contains_key(UPGRADE) || has_token(request.headers(), "upgrade") {
        return Err(Error::refused("an upgrade takes its connection away; this is a pool"));
    }
    match request.version() {
        Version::HTTP_10 | Version::HTTP_11 => {}
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
        check(&request, false).map_err(|error| error.to_string())?;
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

    #[test]
    fn what_is_no_request_for_a_pool_is_refused_and_told_why() {
        let table = [
            (Request::connect("example.org:443"), "CONNECT"),
            (Request::get("/").header(UPGRADE, "websocket"), "upgrade"),
            (Request::get("/").header("connection", "keep-alive, Upgrade"), "upgrade"),
            (Request::get("https://example.org/"), "for https"),
            (Request::get("/").version(Version::HTTP_3), "HTTP/3"),
        ];
        for (request, word) in table {
            let why = prepared(request).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
