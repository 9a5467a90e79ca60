//! [`PoolOptions`]: the settings of a pool that stand in a URL, or in a table beside it.

use std::fmt;

use super::SetupError;
#[cfg(feature = "serde")]
use super::given::{Given, Value};
use crate::Config;

/// What the names of a pool's settings begin with, in a URL.
const PREFIX: &str = "pool_";

/// Settings of a pool that are given as text: in the options of a URL, `?pool_max_size=16&pool_idle_timeout=5m`,
/// or in the table `pool` of [`Settings`](super::Settings).
///
/// The names and values are those of a configuration file ([`config`](crate::config)): a duration has its
/// unit, no limit is `never` or `unlimited`, a setting in a table has a dot, `pool_timeouts.checkout=3s`. Each
/// stands at most once in a URL. A name that is unknown is refused, with the names that there are. They need
/// the feature `serde`, which the adapters have by default.
///
/// An adapter takes them out of its URL, so that its client library does not see them.
///
/// ```
/// use livepool::setup::PoolOptions;
///
/// # #[cfg(feature = "serde")]
/// # fn f() -> Result<(), livepool::SetupError> {
/// let mut options = PoolOptions::default();
/// let url = options.take_from("lines://db?pool_max_size=16&color=red&pool_timeouts.checkout=3s")?;
/// assert_eq!(url, "lines://db?color=red");
/// let config = options.config_for(["db:7"])?;
/// assert_eq!((config.max_size, config.timeouts.checkout.unwrap().as_secs()), (16, 3));
/// # Ok(()) }
/// # #[cfg(feature = "serde")] f().unwrap();
/// ```
#[derive(Clone, Default)]
pub struct PoolOptions {
    /// Those of the table.
    #[cfg(feature = "serde")]
    pub(super) table: Given,
    /// Those of the URL, which come before.
    #[cfg(feature = "serde")]
    pub(super) url: Given,
}

impl PoolOptions {
    /// Takes the options `pool_…` out of a URL, and gives the rest of it, as it was.
    ///
    /// # Errors
    ///
    /// [`SetupError`], as [`add`](Self::add).
    pub fn take_from(&mut self, url: &str) -> Result<String, SetupError> {
        let (url, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
        let Some((names, query)) = url.split_once('?') else {
            return Ok(format!("{url}{fragment}"));
        };
        let mut rest = names.to_owned();
        let mut separator = '?';
        for option in query.split('&') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            // Another one's option is in whatever encoding that one likes.
            let is_ours = decoded_bytes(name).starts_with(PREFIX.as_bytes());
            if !is_ours || !self.add(&percent_decoded(name)?, &percent_decoded(value)?)? {
                rest.push(separator);
                rest.push_str(option);
                separator = '&';
            }
        }
        Ok(rest + fragment)
    }

    /// Adds an option of a URL, if its name begins with `pool_`. Returns whether it does: for an adapter
    /// that splits its URL itself. Name and value are given [decoded](percent_decoded).
    ///
    /// # Errors
    ///
    /// [`SetupError`], if there is no such setting or value, or it was added before.
    pub fn add(&mut self, name: &str, value: &str) -> Result<bool, SetupError> {
        let Some(path) = name.strip_prefix(PREFIX) else { return Ok(false) };
        self.add_setting(path, value).map(|()| true)
    }

    #[cfg(feature = "serde")]
    fn add_setting(&mut self, path: &str, value: &str) -> Result<(), SetupError> {
        if path == "upstream" {
            return Err(SetupError::Setting {
                name: format!("{PREFIX}{path}"),
                rule: "the URL names the servers; give others in code, with_config(|config| \
                       config.with_upstream(..)), or as pool.upstream in a file"
                    .to_owned(),
            });
        }
        // By itself, so that its name is known, and is one that may be repeated.
        let mut alone = Given::default();
        alone.set(path, Value::Text(value.to_owned()));
        alone.config().map_err(|refusal| refusal.told(PREFIX))?;
        if !self.url.set(path, Value::Text(value.to_owned())) {
            return Err(SetupError::Setting {
                name: format!("{PREFIX}{path}"),
                rule: "it stands twice in the URL; leave one out".to_owned(),
            });
        }
        Ok(())
    }

    #[cfg(not(feature = "serde"))]
    fn add_setting(&mut self, _: &str, _: &str) -> Result<(), SetupError> {
        let why = "settings of the pool (pool_...) in it need the feature \"serde\" of its crate";
        Err(SetupError::url(why))
    }

    /// Whether the URL has this setting, or one in this table (`timeouts.connect`, `socket.keepalive`): then
    /// it counts, whatever the URL says of it in the protocol's own words.
    pub fn is_in_url(&self, path: &str) -> bool {
        #[cfg(feature = "serde")]
        return self.url.has(path);
        #[cfg(not(feature = "serde"))]
        path.is_empty()
    }

    /// The configuration of these settings, for a pool of these addresses unless the table gives others.
    ///
    /// # Errors
    ///
    /// [`SetupError`], if a setting cannot be read. The rules between settings are checked when the pool
    /// is made.
    pub fn config_for<T: Into<String>>(
        &self,
        upstream: impl IntoIterator<Item = T>,
    ) -> Result<Config, SetupError> {
        #[cfg(feature = "serde")]
        let config = {
            let mut all = self.table.clone();
            all.put(&self.url);
            all.config().map_err(|refusal| refusal.told("pool."))?
        };
        #[cfg(not(feature = "serde"))]
        let config = Config::default();
        let is_given = !config.upstream.is_empty();
        Ok(if is_given { config } else { config.with_upstream(upstream) })
    }
}

/// What is given, by name. A value in a URL may be a secret that stands at the wrong place.
impl fmt::Debug for PoolOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PoolOptions");
        #[cfg(feature = "serde")]
        shown.field("table", &self.table.names()).field("url", &self.url.names());
        shown.finish()
    }
}

/// A name or value out of a URL without its percent-encoding. A `%` that begins none stays as it is.
///
/// ```
/// use livepool::setup::percent_decoded;
///
/// # fn f() -> Result<(), livepool::SetupError> {
/// assert_eq!(percent_decoded("a%26b, 100%")?, "a&b, 100%");
/// assert!(percent_decoded("%FF").is_err());
/// # Ok(()) }
/// # f().unwrap();
/// ```
///
/// # Errors
///
/// [`SetupError::Url`], if that is not in UTF-8.
pub fn percent_decoded(text: &str) -> Result<String, SetupError> {
    String::from_utf8(decoded_bytes(text)).map_err(|_| SetupError::url("an option is not in UTF-8"))
}

fn decoded_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        (bytes, rest) = match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                (bytes, &after[2..])
            }
            _ => {
                bytes.push(*byte);
                (bytes, after)
            }
        };
    }
    bytes
}

#[cfg(all(test, feature = "serde", not(shuttle)))]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::Pool;

    /// The paths of all settings, and of the tables that they are in.
    fn paths() -> Vec<String> {
        fn walk(value: &Value, prefix: &str, paths: &mut Vec<String>) {
            for (name, value) in value.as_object().into_iter().flatten() {
                let path = format!("{prefix}{name}");
                walk(value, &format!("{path}."), paths);
                paths.push(path);
            }
        }
        let mut paths = Vec::new();
        walk(&serde_json::to_value(Config::default()).unwrap(), "", &mut paths);
        paths
    }

    fn told(result: Result<Config, SetupError>) -> Option<String> {
        let result = result.and_then(|config| Ok(Pool::new(config).map(drop)?));
        result.err().map(|error| format!("{error} {error:?} {error:#}"))
    }

    #[test]
    fn no_error_repeats_a_piece_of_a_value_however_that_is_written() {
        const SECRET: &str = "hunter2";
        let awkward = [
            "hunter2",
            "x\" is not hunter2",
            "x\" is not hunter2: x\" is not hunter2",
            "\" is not : hunter2",
            "5 hunter2",
            "5m hunter2: 3s",
            "1 hunter2iB",
            "struct hunter2",
            "`hunter2`",
            "hunter2\0",
            "hunter2\n\" is not \u{1f}hunter2",
            "hunter2hunter2hunter2hunter2",
            "user:hunter2@db:7",
        ];
        let mut refused = 0;
        for path in paths() {
            for value in awkward {
                let mut options = PoolOptions::default();
                let added = options.add(&format!("pool_{path}"), value);
                let in_url = told(added.and_then(|_| options.config_for(["db:7"])));
                // The same in a file.
                let mut file = Value::from(value);
                for name in path.rsplit('.') {
                    file = serde_json::json!({ name: file });
                }
                let file: Result<PoolOptions, _> = serde_json::from_value(file);
                let in_file = match file {
                    Ok(options) => told(options.config_for(["db:7"])),
                    Err(error) => Some(format!("{error} {error:?}")),
                };
                for text in [in_url, in_file].into_iter().flatten() {
                    refused += 1;
                    assert!(!text.contains(SECRET), "{path} = {value:?}: {text}");
                }
            }
        }
        // All but the few that take any text, and the rules between them.
        assert!(refused > 500, "{refused}");
    }

    #[test]
    fn an_option_of_the_pool_is_in_utf_8_and_another_ones_are_its_own_business() {
        for option in ["pool_name=a%FFb", "pool_%ff=1", "pool%5F%FF=1"] {
            let result = PoolOptions::default().take_from(&format!("lines://db?{option}"));
            let text = result.unwrap_err().to_string();
            assert!(text.contains("not in UTF-8"), "{option}: {text}");
        }
        let url = "lines://db?color=%FF&%FF=1&%&%zz=%4";
        assert_eq!(PoolOptions::default().take_from(url).unwrap(), url);
    }
}
