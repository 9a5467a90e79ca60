//! Reading a connection URL: each option is passed on, done here, or refused with what to write
//! instead.
//!
//! The client library knows a part of what libpq knows, and leaves out silently what is of no use
//! to it. Here no option is left out silently: the client library does it, or this crate, or it
//! says what is so anyhow, or it is refused. No text repeats a value, and names only names that are
//! known.

use std::str::FromStr;
use std::time::Duration;

use super::role::Target;
use super::setup::unreadable;
use super::statements::Statements;
use livepool::setup::{PoolOptions, SetupError, percent_decoded};

/// The options of a URL, by who does them.
#[derive(Debug, Default)]
pub(super) struct UrlOptions {
    pub(super) config: tokio_postgres::Config,
    pub(super) target: Option<Target>,
    pub(super) files: TlsFiles,
    pub(super) keepalive: KeepaliveOptions,
    pub(super) statements: Option<Statements>,
}

/// The files of certificates and keys that a URL names.
#[derive(Debug, Default)]
pub(super) struct TlsFiles {
    pub(super) root: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
}

/// The options about keepalive; `None` leaves the pool's setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct KeepaliveOptions {
    pub(super) is_on: Option<bool>,
    pub(super) idle: Option<Duration>,
    pub(super) interval: Option<Duration>,
    pub(super) retries: Option<u32>,
}

/// The value of `sslrootcert` for the authorities that this system trusts.
pub(super) const SYSTEM: &str = "system";

/// Options that are known and not done: the values that say what is so anyhow, and what to write
/// instead of any other.
const REFUSED: [(&str, &[&str], &str); 50] = [
    ("client_encoding", &["auto", "utf8", "UTF8", "UTF-8", "utf-8"], "it is always UTF-8"),
    ("connection_limit", &[], "write pool_max_size"),
    ("currentSchema", &[], "write options=-csearch_path%3Dname"),
    ("gssdelegation", &["0"], "GSS is not supported"),
    ("gssencmode", &["disable", "prefer"], "GSS is not supported: encrypt with sslmode=require"),
    ("gsslib", &[], "GSS is not supported"),
    ("idle_in_transaction_session_timeout", &[], IN_OPTIONS),
    ("keepalives_count", &[], "write keepalives_retries"),
    ("krbsrvname", &[], "GSS is not supported"),
    ("load_balance_hosts", &["random"], "connections are spread evenly: name one host, or random"),
    ("lock_timeout", &[], IN_OPTIONS),
    ("max_connections", &[], "write pool_max_size"),
    ("max_protocol_version", &["3.0", "3.2", "latest"], "the protocol is 3.0"),
    ("min_protocol_version", &["3.0"], "the protocol is 3.0"),
    ("passfile", &[], "give the password in the URL, or to tokio_postgres::Config"),
    ("pgbouncer", &["false"], "it is true or false"),
    ("pool_size", &[], "write pool_max_size"),
    ("pool_timeout", &[], "write pool_timeouts.checkout"),
    ("prefer_simple_protocol", &["false"], "call simple_query()"),
    ("replication", &["0", "false", "off", "no"], "replication is not supported"),
    ("require_auth", &[], "write channel_binding=require, which only SCRAM fulfils"),
    ("requirepeer", &[], "it cannot be checked"),
    ("requiressl", &["0"], "write sslmode=require"),
    ("schema", &[], "write options=-csearch_path%3Dname"),
    ("scram_client_key", &[], "give the password"),
    ("scram_server_key", &[], "give the password"),
    ("search_path", &[], "write options=-csearch_path%3Dname"),
    ("service", &[], "write its settings here"),
    ("servicefile", &[], "write its settings here"),
    ("ssl", &["0", "false"], "write sslmode=verify-full"),
    ("ssl-mode", &[], "write sslmode"),
    ("ssl_mode", &[], "write sslmode"),
    ("ssl_max_protocol_version", &["", "TLSv1.3"], BRING_TLS),
    ("ssl_min_protocol_version", &["", "TLSv1", "TLSv1.1", "TLSv1.2"], BRING_TLS),
    ("sslaccept", &[], "write sslmode=verify-full"),
    ("sslca", &[], "write sslrootcert"),
    ("sslcertmode", &["allow"], "give sslcert and sslkey, or leave them out"),
    ("sslcompression", &["0"], "TLS does not compress"),
    ("sslcrl", &[], BRING_TLS),
    ("sslcrldir", &[], BRING_TLS),
    ("sslidentity", &[], "write sslcert and sslkey"),
    ("sslpassword", &[], "give a key that is not encrypted"),
    ("sslsni", &["1"], BRING_TLS),
    ("statement-cache-capacity", &[], "call with_statement_cache() on Postgres"),
    ("statement_cache_capacity", &[], "call with_statement_cache() on Postgres"),
    ("statement_cache_size", &[], "call with_statement_cache() on Postgres"),
    ("statement_timeout", &[], IN_OPTIONS),
    ("tcp_user_timeout", &[], "write pool_socket.user_timeout, with a unit"),
    ("TimeZone", &[], IN_OPTIONS),
    ("timezone", &[], IN_OPTIONS),
];

const IN_OPTIONS: &str = "write options=-cname%3Dvalue";
const BRING_TLS: &str = "give with_tls(Tls::new()) a rustls configuration that says it";

/// Options that the client library does.
const PASSED_ON: [&str; 12] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslmode",
    "sslnegotiation",
    "user",
];

/// Reads a URL, or settings.
pub(super) fn read(text: &str, pool: &mut PoolOptions) -> Result<UrlOptions, SetupError> {
    let mut demands = UrlOptions::default();
    let form = match SplitUrl::split(text)? {
        Some(url) => ConnectionString::SplitUrl(url),
        None => ConnectionString::Settings(settings(text)?),
    };
    let mut rest = Vec::new();
    let (mut has_mode, mut wants_tls) = (false, false);
    let (mut fallback_name, mut has_name) = (None, false);
    for (name, value) in form.options() {
        match name.as_str() {
            "sslmode" => {
                has_mode = true;
                rest.push((name, sslmode(&value)?.to_owned()));
            }
            "sslnegotiation" => {
                one_of("sslnegotiation", &value, &["postgres", "direct"])?;
                rest.push((name, value));
            }
            "channel_binding" => {
                one_of("channel_binding", &value, &["disable", "prefer", "require"])?;
                rest.push((name, value));
            }
            "target_session_attrs" => demands.target = Some(target(&value)?),
            "sslrootcert" => demands.files.root = Some(value),
            "sslcert" => demands.files.cert = Some(value),
            "sslkey" => demands.files.key = Some(value),
            "keepalives" => demands.keepalive.is_on = Some(number("keepalives", &value)? != 0),
            "keepalives_idle" => demands.keepalive.idle = seconds("keepalives_idle", &value)?,
            "keepalives_interval" => {
                demands.keepalive.interval = seconds("keepalives_interval", &value)?;
            }
            "keepalives_retries" => {
                let retries = number("keepalives_retries", &value)?;
                demands.keepalive.retries = Some(retries).filter(|retries| *retries > 0);
            }
            // As drivers for other languages have it.
            "ssl" if matches!(&*value, "true" | "1") => wants_tls = true,
            "pgbouncer" if value == "true" => demands.statements = Some(Statements::Unnamed),
            "fallback_application_name" => fallback_name = Some(value),
            known if PASSED_ON.contains(&known) => {
                has_name |= known == "application_name";
                rest.push((name, value));
            }
            _ => match REFUSED.iter().find(|(known, ..)| *known == name) {
                Some((_, accepted, _)) if accepted.contains(&value.as_str()) => {}
                Some((known, _, instead)) => {
                    return Err(SetupError::url(format!(
                        "it has the option {known}, which is not done: {instead}"
                    )));
                }
                // The settings of the pool are no business of the client library.
                None if pool.add(&name, &value)? => {}
                None => {
                    return Err(SetupError::url(
                        "it has an option that nobody knows; they are those of libpq, and pool_.. for \
                         settings of the pool",
                    ));
                }
            },
        }
    }
    if wants_tls && !has_mode {
        has_mode = true;
        rest.push(("sslmode".to_owned(), "require".to_owned()));
    }
    if let (Some(name), false) = (fallback_name, has_name) {
        rest.push(("application_name".to_owned(), name));
    }
    let trusts_system = demands.files.root.as_deref() == Some(SYSTEM);
    if trusts_system && !has_mode {
        // As libpq: anybody can have a certificate of these authorities, for another name.
        rest.push(("sslmode".to_owned(), "require".to_owned()));
    }
    let text = form.with(&rest);
    demands.config = tokio_postgres::Config::from_str(&text).map_err(|error| unreadable(&error))?;
    let mode = demands.config.get_ssl_mode();
    if wants_tls && mode != tokio_postgres::config::SslMode::Require {
        return Err(SetupError::url("ssl=true goes with sslmode=verify-full"));
    }
    if trusts_system && mode != tokio_postgres::config::SslMode::Require {
        return Err(SetupError::url("sslrootcert=system goes with sslmode=verify-full"));
    }
    Ok(demands)
}

/// The mode in the client library's words. With encryption the certificate is always verified, so
/// the weaker modes become the strictest.
fn sslmode(value: &str) -> Result<&'static str, SetupError> {
    match value {
        "disable" => Ok("disable"),
        // It allows what the other one prefers.
        "allow" | "prefer" => Ok("prefer"),
        "require" | "verify-ca" | "verify-full" => Ok("require"),
        _ => Err(SetupError::url(
            "sslmode is disable, allow, prefer, require, verify-ca or verify-full",
        )),
    }
}

fn target(value: &str) -> Result<Target, SetupError> {
    match value {
        "any" => Ok(Target::Any),
        "read-write" => Ok(Target::ReadWrite),
        "read-only" => Ok(Target::ReadOnly),
        "primary" => Ok(Target::Primary),
        "standby" => Ok(Target::Standby),
        "prefer-standby" => Err(SetupError::url(
            "target_session_attrs=prefer-standby is not done: make a pool with standby, and one with \
             any",
        )),
        _ => Err(SetupError::url(
            "target_session_attrs is any, read-write, read-only, primary or standby",
        )),
    }
}

fn one_of(name: &str, value: &str, values: &[&str]) -> Result<(), SetupError> {
    if values.contains(&value) {
        return Ok(());
    }
    let (last, first) = values.split_last().unwrap_or((&"", &[]));
    Err(SetupError::url(format!("{name} is {} or {last}", first.join(", "))))
}

fn number(name: &str, value: &str) -> Result<u32, SetupError> {
    value.parse().map_err(|_| SetupError::url(format!("{name} is a number")))
}

/// A number of seconds; zero and less leave the pool's setting.
fn seconds(name: &str, value: &str) -> Result<Option<Duration>, SetupError> {
    let seconds: i64 =
        value.parse().map_err(|_| SetupError::url(format!("{name} is a number of seconds")))?;
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

/// The options in the form in which they were written.
enum ConnectionString {
    SplitUrl(SplitUrl),
    Settings(Vec<(String, String)>),
}

impl ConnectionString {
    fn options(&self) -> Vec<(String, String)> {
        match self {
            Self::SplitUrl(url) => url.options.clone(),
            Self::Settings(settings) => settings.clone(),
        }
    }

    /// The same string with these options in place of its own.
    fn with(&self, options: &[(String, String)]) -> String {
        match self {
            Self::SplitUrl(url) => {
                let escaped = options.iter().map(|(name, value)| {
                    let escape = |text: &str| {
                        text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>()
                    };
                    format!("{}={}", escape(name), escape(value))
                });
                let escaped = escaped.collect::<Vec<_>>().join("&");
                format!("{}{}{escaped}", url.names, if escaped.is_empty() { "" } else { "?" })
            }
            Self::Settings(_) => {
                let quoted = options.iter().map(|(name, value)| {
                    format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
                });
                quoted.collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// A URL up to its options, and these.
struct SplitUrl {
    names: String,
    options: Vec<(String, String)>,
}

impl SplitUrl {
    /// Splits a URL where the client library does. Returns `None` for settings (`host=...
    /// user=...`).
    fn split(text: &str) -> Result<Option<Self>, SetupError> {
        let schemes = ["postgres://", "postgresql://"];
        let Some(scheme) = schemes.into_iter().find(|scheme| text.starts_with(scheme)) else {
            let is_setting = |text: &str| text.contains(|c: char| c == '=' || c.is_whitespace());
            return match text.split_once("://") {
                Some((scheme, _)) if !is_setting(scheme) => Err(SetupError::url(
                    "it has another scheme; write postgres://user:password@host:5432/database",
                )),
                _ => Ok(None),
            };
        };
        if has_stray_at(&text[scheme.len()..]) {
            return Err(SetupError::url(
                "an \"@\" in a user, a password or a database must be written %40",
            ));
        }
        if hides_options(&text[scheme.len()..]) {
            return Err(SetupError::url(
                "an \"@\" in an option must be written %40, and a \"?\" in a password %3F",
            ));
        }
        // What stands before the "@" may hold any other character.
        let begin = text.find('@').unwrap_or(scheme.len());
        let Some(at) = text[begin..].find('?') else {
            return Ok(Some(Self { names: text.to_owned(), options: Vec::new() }));
        };
        let (names, query) = text.split_at(begin + at);
        let mut options = Vec::new();
        let mut query = &query[1..];
        while !query.is_empty() {
            let unfinished = || SetupError::url("it ends in an option without a value");
            let (name, after) = query.split_once('=').ok_or_else(unfinished)?;
            let (value, after) = after.split_once('&').unwrap_or((after, ""));
            options.push((percent_decoded(name)?, percent_decoded(value)?));
            query = after;
        }
        Ok(Some(Self { names: names.to_owned(), options }.with_hosts_of_options()?))
    }

    /// Hosts and ports among the options are in place of those in front, of which the client library would
    /// make one list; of several options of one name the last one counts.
    fn with_hosts_of_options(mut self) -> Result<Self, SetupError> {
        let last = |wanted: &str| {
            let option = self.options.iter().rev().find(|(name, _)| name == wanted);
            option.map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
        };
        let (hosts, ports) = (last("host"), last("port"));
        if hosts.is_none() && ports.is_none() {
            return Ok(self);
        }
        let begin = self.names.find('@').or_else(|| Some(self.names.find("//")? + 1));
        let begin = begin.unwrap_or_default() + 1;
        let end = self.names[begin..].find('/').map_or(self.names.len(), |at| begin + at);
        let (mut front_hosts, mut front_ports) = (Vec::new(), Vec::new());
        let front = &self.names[begin..end];
        for entry in front.split(',').filter(|_| !front.is_empty()) {
            let (host, port) = match entry.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
                Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
                None => entry.split_once(':').unwrap_or((entry, "")),
            };
            front_hosts.push(percent_decoded(host)?);
            front_ports.push(percent_decoded(port)?);
        }
        self.names.replace_range(begin..end, "");
        self.options.retain(|(name, _)| name != "host" && name != "port");
        // One option for each host: the client library splits no other.
        let hosts = hosts.unwrap_or(front_hosts).into_iter();
        self.options.extend(hosts.map(|host| ("host".to_owned(), host)));
        let ports = ports.unwrap_or(front_ports);
        // A host without a port says nothing of that of another.
        if ports.iter().any(|port| !port.is_empty()) {
            self.options.push(("port".to_owned(), ports.join(",")));
        }
        Ok(self)
    }
}

/// `name = value`, with spaces between them, as the library has it: a value with a space in it stands in
/// quotes, and a backslash is in front of a quote or a backslash.
fn settings(text: &str) -> Result<Vec<(String, String)>, SetupError> {
    let cannot = |what| SetupError::url(what);
    let mut settings = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        let (false, Some(value)) = (name.is_empty(), value) else {
            return Err(cannot(
                "it is neither postgres://user:password@host:5432/database nor name=value; a value \
                 with spaces stands in '...'",
            ));
        };
        let (value, after) = match value.strip_prefix('\'') {
            Some(quoted) => up_to(quoted, |c| c == '\'')
                .and_then(|(value, after)| Some((value, after.strip_prefix('\'')?)))
                .ok_or_else(|| cannot("a quote in it does not end"))?,
            None => up_to(value, char::is_whitespace)
                .filter(|(value, _)| !value.is_empty())
                .ok_or_else(|| {
                    cannot("it has an option without a value; write '' for an empty one")
                })?,
        };
        settings.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(settings)
}

/// The text before the end, without its backslashes, and the text behind it.
fn up_to(text: &str, is_end: impl Fn(char) -> bool) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if is_end(c) => return Some((value, &text[at..])),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    Some((value, ""))
}

/// Whether there is an `@` that parts nothing. The library would take the first for the end of the
/// password, and what follows for a host, a database or an option, which are no secrets.
fn has_stray_at(rest: &str) -> bool {
    let Some((_, after)) = rest.split_once('@') else { return false };
    match after.split_once('?') {
        // In the value of an option it stands for itself.
        Some((names, options)) if options.split('&').all(|option| option.contains('=')) => {
            names.contains('@')
        }
        _ => after.contains('@'),
    }
}

/// Whether what stands before the `@` looks as if options were in it. The library would take them for a
/// password, and `sslmode` with them.
fn hides_options(rest: &str) -> bool {
    let before = rest.split_once('@').map(|(before, _)| before);
    let options = before.and_then(|before| before.split_once('?'));
    options.is_some_and(|(_, options)| options.contains('='))
}

/// The client library's error, as far as it repeats nothing that may be a secret.
pub(super) fn harmless(cause: &str) -> Option<&str> {
    let fixed = ["invalid value for option `", "unexpected EOF", "unterminated"];
    fixed.iter().any(|text| cause.starts_with(text)).then_some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::{ChannelBinding, Host, SslMode};

    fn read(text: &str) -> Result<UrlOptions, SetupError> {
        super::read(text, &mut PoolOptions::default())
    }

    fn refused(text: &str) -> String {
        match read(text) {
            Ok(demands) => panic!("{text}: {demands:?}"),
            Err(error) => error.to_string(),
        }
    }

    /// In both ways of writing it.
    fn both(options: &str) -> [String; 2] {
        [
            format!("postgres://me:secret@db/x?{options}"),
            format!("host=db user=me dbname=x {}", options.replace('&', " ").replace("%20", "\\ ")),
        ]
    }

    #[test]
    fn every_sslmode_of_libpq_is_understood_and_none_means_less_than_there() {
        for (mode, expected) in [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Prefer),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::Require),
            ("verify-full", SslMode::Require),
        ] {
            for text in both(&format!("sslmode={mode}")) {
                assert_eq!(read(&text).unwrap().config.get_ssl_mode(), expected, "{text}");
            }
        }
        for text in both("sslmode=verify_full") {
            assert!(refused(&text).contains("prefer, require, verify-ca or verify-full"));
        }
        // The last one counts, however it is written.
        let text = "postgres://me@db/x?sslmode=disable&ssl%6Dode=verify%2Dfull";
        assert_eq!(read(text).unwrap().config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn what_stands_in_the_urls_of_clouds_is_done_or_says_what_to_write_instead() {
        for text in both("sslmode=require&channel_binding=require&options=endpoint%3Done") {
            let config = read(&text).unwrap().config;
            assert_eq!(config.get_channel_binding(), ChannelBinding::Require, "{text}");
        }
        for text in both("sslrootcert=ca.pem&sslcert=me.pem&sslkey=me.key&sslmode=verify-ca") {
            let TlsFiles { root, cert, key } = read(&text).unwrap().files;
            let files = [root, cert, key].map(Option::unwrap);
            assert_eq!(files, ["ca.pem", "me.pem", "me.key"], "{text}");
        }
        // As libpq: whoever trusts everybody whom the system trusts looks at the name.
        for text in both("sslrootcert=system") {
            assert_eq!(read(&text).unwrap().config.get_ssl_mode(), SslMode::Require);
        }
        for text in both("sslrootcert=system&sslmode=prefer") {
            assert!(refused(&text).contains("goes with sslmode=verify-full"));
        }
        for (options, instead) in [
            ("ssl=yes", "write sslmode=verify-full"),
            ("ssl=true&sslmode=disable", "goes with sslmode=verify-full"),
            ("ssl_mode=require", "write sslmode"),
            ("sslcrl=x", "with_tls"),
            ("sslpassword=x", "not encrypted"),
            ("gssencmode=require", "sslmode=require"),
            ("require_auth=scram-sha-256", "channel_binding=require"),
            ("ssl_min_protocol_version=TLSv1.3", "with_tls"),
            ("pgbouncer=maybe", "true or false"),
            ("connection_limit=5", "pool_max_size"),
            ("tcp_user_timeout=9", "pool_socket.user_timeout"),
            ("load_balance_hosts=disable", "evenly"),
            ("target_session_attrs=prefer-standby", "standby"),
            ("target_session_attrs=best", "read-write"),
            ("channel_binding=maybe", "disable, prefer or require"),
            ("hunter2=x", "nobody knows"),
        ] {
            for text in both(options) {
                let error = refused(&text);
                assert!(error.contains(instead) && !error.contains("hunter2"), "{text}: {error}");
            }
        }
        for text in both("ssl=true&pgbouncer=true") {
            let demands = read(&text).unwrap();
            assert_eq!(demands.config.get_ssl_mode(), SslMode::Require, "{text}");
            assert_eq!(demands.statements, Some(Statements::Unnamed), "{text}");
        }
        // What is so anyhow.
        for text in
            both("gssencmode=disable&ssl_min_protocol_version=TLSv1.2&sslcompression=0&sslsni=1")
        {
            read(&text).unwrap();
        }
    }

    #[test]
    fn nothing_that_is_written_is_passed_over_in_silence() {
        // The library stops reading at the "=" that has no name.
        for text in [
            "host=db =x sslmode=require",
            "host=db sslmode",
            "host=db sslmode='require",
            // It takes all that stands before an "@" for user and password.
            "postgres://db:5432/x?sslmode=require&application_name=me@here",
            "postgres://db/x?application_name=me@here&sslmode=require",
        ] {
            refused(text);
        }
        let demands = read("host = 'a b' password='it\\'s \\\\' user=me\\ too").unwrap();
        assert_eq!(demands.config.get_hosts(), [Host::Tcp("a b".to_owned())]);
        assert_eq!(demands.config.get_password(), Some(&br"it's \"[..]));
        assert_eq!(demands.config.get_user(), Some("me too"));
        let demands = read("postgres://u%40x:p%2Fw%3F@db/x?application_name=a%26b%3D").unwrap();
        assert_eq!(demands.config.get_user(), Some("u@x"));
        assert_eq!(demands.config.get_password(), Some(&b"p/w?"[..]));
        assert_eq!(demands.config.get_application_name(), Some("a&b="));
        let target =
            |attrs: &str| read(&format!("host=db target_session_attrs={attrs}")).unwrap().target;
        assert_eq!(target("primary"), Some(Target::Primary));
        assert_eq!(target("read-write"), Some(Target::ReadWrite));
        let keepalive = read("host=db keepalives_idle=60 keepalives_retries=0").unwrap().keepalive;
        assert_eq!((keepalive.idle, keepalive.retries), (Some(Duration::from_secs(60)), None));
        assert_eq!(read("host=db keepalives=0").unwrap().keepalive.is_on, Some(false));
    }

    #[test]
    fn what_may_be_a_piece_of_a_password_is_not_repeated() {
        for text in [
            "postgres://me:open@hunter2@db/x",
            "postgres://app:p@hunter2@127.0.0.1:5441/app",
            "postgres://me@db/x?hunter2=x",
            "postgres://me@db/x?hunter2",
            "host=db password=a hunter2=x",
            "host=db password=a hunter2",
            "host=db sslmode=hunter2",
            "host=db keepalives_idle=hunter2",
        ] {
            assert!(!refused(text).contains("hunter2"), "{text}");
        }
        assert!(refused("postgres://me:open@hunter2@db/x").contains("%40"));
    }
}
