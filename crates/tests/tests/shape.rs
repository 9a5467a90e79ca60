//! One shape for all adapters: from a URL, or a file, to a pool. Nothing connects here.

#[path = "shape/clouds.rs"]
mod clouds;

use std::collections::HashMap;
use std::time::Duration;

use livepool::config::{ReadTimeout, UserTimeout};
use livepool::setup::{FromUrl, PoolOptions, Settings};
use livepool::{Config, Keepalive, Pool, SetupError};
use livepool_http::Http1;
use livepool_http::http2::Http2;
use livepool_postgres::Postgres;
use livepool_redis::Redis;

/// A URL of this adapter, without options.
trait Sample: FromUrl {
    const URL: &'static str;

    fn of(url: &str) -> Result<Self, SetupError> {
        Self::from_url_with(url, PoolOptions::default())
    }
}

impl Sample for Postgres {
    const URL: &'static str = "postgres://app:hunter2@db.internal:5432/app";
}

impl Sample for Redis {
    const URL: &'static str = "redis://app:hunter2@cache.internal:6379";
}

impl Sample for Http1 {
    const URL: &'static str = "http://web.internal:80";
}

impl Sample for Http2 {
    const URL: &'static str = "http://rpc.internal:80";
}

/// Runs a test for every adapter.
macro_rules! for_all {
    ($test:ident) => {
        $test::<Postgres>();
        $test::<Redis>();
        $test::<Http1>();
        $test::<Http2>();
    };
}

fn config_of<P: FromUrl>(mut protocol: P) -> Config {
    protocol.config_mut().clone()
}

fn refused<P: Sample>(options: &str) -> String {
    let url = format!("{}?{options}", P::URL);
    match P::of(&url) {
        Ok(protocol) => panic!("{url}: {:?}", config_of(protocol)),
        Err(error) => {
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2"), "{url}: {text}");
            error.to_string()
        }
    }
}

#[test]
fn every_adapter_has_the_same_way_from_its_url_to_its_pool() {
    // As a user writes it, with no trait in scope: the methods are the types' own.
    fn small(config: Config) -> Config {
        config.with_max_size(3)
    }
    let _: livepool_postgres::Pool =
        Postgres::from_url(Postgres::URL).unwrap().with_config(small).pool().unwrap();
    let _: livepool_redis::Pool =
        Redis::from_url(Redis::URL).unwrap().with_config(small).pool().unwrap();
    let _: livepool_http::Pool =
        Http1::from_url(Http1::URL).unwrap().with_config(small).pool().unwrap();
    let pool: livepool_http::http2::Pool =
        Http2::from_url(Http2::URL).unwrap().with_config(small).pool().unwrap();
    assert_eq!(pool.status().max_size, 3);
    let built = Postgres::from_url(Postgres::URL).unwrap().builder().unwrap().build().unwrap();
    assert_eq!(built.status().max_size, Config::default().max_size);
    // Settings of its own and of its pool, in any order.
    let redis = Redis::from_url(Redis::URL).unwrap().with_config(small);
    let redis = redis.with_role(livepool_redis::Role::Master).with_config(|c| c.with_min_idle(1));
    assert_eq!((redis.config().max_size, redis.config().min_idle), (3, 1));
    for pool in [
        livepool_postgres::pool(Postgres::URL).map(drop),
        livepool_redis::pool(Redis::URL).map(drop),
        livepool_http::pool(Http1::URL).map(drop),
        livepool_http::http2::pool(Http2::URL).map(drop),
    ] {
        pool.unwrap();
    }
}

fn settings_in_the_url_are_the_pools<P: Sample>() {
    let url = format!(
        "{}?pool_max_size=16&pool_idle_timeout=5m&pool_max_lifetime=never&pool_max%5Fwaiting=unlimited\
         &pool_order=fifo&pool_timeouts.checkout=1m%2030s&pool_timeouts.read=7s\
         &pool_socket.keepalive.idle=20s&pool_socket.nodelay=false&pool_name=a%26b",
        P::URL
    );
    let config = config_of(P::of(&url).unwrap());
    assert_eq!((config.max_size, config.max_waiting), (16, None), "{url}");
    assert_eq!(config.idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!((config.max_lifetime, config.order), (None, livepool::Order::Fifo));
    assert_eq!(config.timeouts.checkout, Some(Duration::from_secs(90)));
    assert_eq!(config.timeouts.read, ReadTimeout::After(Duration::from_secs(7)));
    assert_eq!(config.socket.keepalive.unwrap().idle, Some(Duration::from_secs(20)));
    assert_eq!((config.socket.nodelay, &*config.name), (false, "a&b"));
    assert_eq!(config.socket.user_timeout, UserTimeout::Derived, "what is not said is the default");
    assert_eq!(config.upstream, config_of(P::of(P::URL).unwrap()).upstream);
}

#[test]
fn settings_of_the_pool_stand_in_the_url_of_every_adapter() {
    for_all!(settings_in_the_url_are_the_pools);
    let text = "host=db user=me pool_max_size=16 pool_timeouts.checkout='1m 30s'";
    let config = Postgres::from_url(text).unwrap().config();
    assert_eq!((config.max_size, config.timeouts.checkout.unwrap().as_secs()), (16, 90));
    // The client library does not see them, and sees the rest.
    let url = "redis://h/3?pool_max_size=2&protocol=resp3&pool_min_idle=1";
    let config = Redis::from_url(url).unwrap().config();
    assert_eq!((config.max_size, config.min_idle), (2, 1));
}

fn wrong_settings_are_refused<P: Sample>() {
    // Whatever may be a piece of a password is not repeated: neither an unknown name nor a value.
    let text = refused::<P>("pool_hunter2=1");
    for known in ["pool_name, ", "pool_max_size, ", "pool_idle_timeout, ", "pool_timeouts.checkout"]
    {
        assert!(text.contains(known), "{text}");
    }
    let text = refused::<P>("pool_timeouts.hunter2=1s");
    assert!(text.contains("pool_timeouts.checkout, ") && !text.contains("pool_max_size"), "{text}");
    for (options, name, rule) in [
        ("pool_max_size=hunter2", "pool_max_size ", "a whole number"),
        ("pool_max_size=-1", "pool_max_size ", "a whole number"),
        ("pool_max_size=", "pool_max_size ", "a whole number"),
        ("pool_max_size=4&pool_max_size=4", "pool_max_size ", "stands twice"),
        ("pool_max_size=4&pool_max%5fsize=5", "pool_max_size ", "stands twice"),
        ("pool_timeouts.read=1s&pool_timeouts.read=1s", "pool_timeouts.read ", "stands twice"),
        ("pool_idle_timeout=300", "pool_idle_timeout ", "a duration with a unit, such as \"30s\""),
        ("pool_idle_timeout=hunter2", "pool_idle_timeout ", "or \"never\""),
        ("pool_idle_timeout=5%20hunter2", "pool_idle_timeout ", "or \"never\""),
        ("pool_timeouts.checkout=soon", "pool_timeouts.checkout ", "a duration with a unit"),
        ("pool_timeouts=hunter2", "pool_timeouts ", "with a dot"),
        ("pool_max_size.hunter2=1", "pool_max_size ", "a whole number"),
        ("pool_order=hunter2", "pool_order ", "one of "),
        ("pool_socket.nodelay=hunter2", "pool_socket.nodelay ", "true or false"),
        ("pool_socket.local_addr=hunter2", "pool_socket.local_addr ", "no such value"),
        ("pool_limits.message=hunter2", "pool_limits.message ", "a number of bytes"),
        ("pool_upstream=a:1", "pool_upstream ", "with_upstream"),
    ] {
        let text = refused::<P>(options);
        assert!(text.contains(name) && text.contains(rule), "{options}: {text}");
    }
    // What can be read and breaks a rule is found when the pool is made, with all other problems.
    let both = P::of(&format!("{}?pool_max_size=0&pool_patience=0s", P::URL)).unwrap();
    let error = both.into_builder().unwrap().build().unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["max_size", "patience"]);
}

#[test]
fn a_setting_that_is_unknown_or_wrong_or_stands_twice_is_refused_and_no_value_repeated() {
    for_all!(wrong_settings_are_refused);
}

fn settings_from_toml<P: Sample>() {
    let text = format!(
        "url = '{}?pool_max_size=7'\n[pool]\nmax_size = 16\nmin_idle = 2\nidle_timeout = '5m'\n\
         validation = {{ ping_if_idle = '30s' }}\n[pool.timeouts]\ncheckout = '3s'\nread = 'never'\n\
         [pool.socket]\nkeepalive = 'system'\nbest_effort = ['mark', 'congestion']\n",
        P::URL
    );
    let settings: Settings<P> = toml::from_str(&text).unwrap();
    let config = config_of(settings.protocol().unwrap());
    assert_eq!((config.max_size, config.min_idle), (7, 2), "what the URL says counts more");
    assert_eq!(config.idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!(config.timeouts.checkout, Some(Duration::from_secs(3)));
    assert_eq!(config.timeouts.read, ReadTimeout::Never);
    assert_eq!(config.socket.best_effort.len(), 2);
    let read: Config =
        toml::from_str("validation = { ping_if_idle = '30s' }\n[socket]\nkeepalive = 'system'")
            .unwrap();
    assert_eq!(
        (config.validation, config.socket.keepalive),
        (read.validation, read.socket.keepalive)
    );
    assert_eq!(config.upstream, config_of(P::of(P::URL).unwrap()).upstream);
    // Several addresses of one service are given beside the URL.
    let text = format!("url = '{}'\npool = {{ upstream = ['a:1', 'b:2'] }}", P::URL);
    let settings: Settings<P> = toml::from_str(&text).unwrap();
    assert_eq!(config_of(settings.protocol().unwrap()).upstream, ["a:1", "b:2"]);
    let settings: Settings<P> = toml::from_str(&format!("url = '{}'", P::URL)).unwrap();
    let _: Pool<P> = settings.pool().unwrap();

    for (pool, expected) in [
        ("max_sise = 16", "pool.max_size, "),
        ("max_size = 'many'", "pool.max_size cannot be used: it has to be a whole number"),
        ("max_size = -1", "pool.max_size cannot be used: it has to be a whole number"),
        ("idle_timeout = 300", "a duration with a unit"),
        ("timeouts = { chekout = '3s' }", "pool.timeouts.checkout, "),
        ("timeouts = 3", "with a dot"),
    ] {
        let text = format!("url = '{}'\n[pool]\n{pool}", P::URL);
        let error = toml::from_str::<Settings<P>>(&text).expect_err(pool).to_string();
        assert!(error.contains(expected), "{pool}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for text in ["pool = {}", "url = 'x'\npol = {}", "url = 'x'\npool = 3"] {
        toml::from_str::<Settings<P>>(text).expect_err(text);
    }
}

#[test]
fn a_url_and_a_table_for_the_pool_are_read_from_toml() {
    for_all!(settings_from_toml);
}

fn settings_from_the_environment<P: Sample>() {
    let variables = HashMap::from(
        [
            ("ORDERS__URL", P::URL),
            ("ORDERS__POOL__MAX_SIZE", "20"),
            ("ORDERS__POOL__MAX_WAITING", "64"),
            ("ORDERS__POOL__IDLE_TIMEOUT", "never"),
            ("ORDERS__POOL__TIMEOUTS__CHECKOUT", "3s"),
            ("ORDERS__POOL__SOCKET__NODELAY", "false"),
            ("ORDERS__POOL__SOCKET__KEEPALIVE__RETRIES", "4"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    for parsing in [false, true] {
        let source = config::Environment::with_prefix("ORDERS").separator("__");
        let source = source.source(Some(variables.clone())).try_parsing(parsing);
        let read = config::Config::builder().add_source(source).build().unwrap();
        let settings: Settings<P> = read.try_deserialize().unwrap();
        let config = config_of(settings.protocol().unwrap());
        assert_eq!((config.max_size, config.max_waiting), (20, Some(64)));
        assert_eq!((config.idle_timeout, config.socket.nodelay), (None, false));
        assert_eq!(config.timeouts.checkout, Some(Duration::from_secs(3)));
        assert_eq!(config.socket.keepalive.unwrap().retries, Some(4));
    }
}

#[test]
fn a_url_and_a_table_for_the_pool_are_read_from_the_environment_where_all_is_text() {
    for_all!(settings_from_the_environment);
}

#[test]
fn the_url_of_settings_is_a_secret() {
    let text = format!("url = '{}?pool_max_size=7'\npool = {{ min_idle = 2 }}", Postgres::URL);
    let settings: livepool_postgres::Settings = toml::from_str(&text).unwrap();
    let shown = format!("{settings:?} {:#?} {:?}", settings.clone(), settings.protocol().unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("min_idle"), "what is set is seen: {shown}");
    let wrong = livepool_postgres::Settings::new("postgres://app:hunter2@db:hunter2/app");
    let error = Postgres::from_settings(&wrong).unwrap_err();
    assert!(!format!("{error} {error:?} {wrong:?}").contains("hunter2"), "{error}");
    for wrong in [Settings::<Redis>::new("redis://:hunter2@h:hunter2"), Settings::new("hunter2")] {
        let error = wrong.pool().map(drop).unwrap_err();
        assert!(!format!("{error} {error:?} {wrong:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn of_several_places_for_one_setting_the_one_that_is_documented_counts() {
    let given = "url = 'postgres://db/x?connect_timeout=7&keepalives_idle=60'\n[pool.timeouts]\nconnect = '8s'";
    let settings: livepool_postgres::Settings = toml::from_str(given).unwrap();
    let config = settings.protocol().unwrap().config();
    assert_eq!(config.timeouts.connect, Some(Duration::from_secs(7)), "the URL, before the table");
    assert_eq!(config.socket.keepalive.unwrap().idle, Some(Duration::from_secs(60)));
    for both in [
        "postgres://db/x?connect_timeout=7&pool_timeouts.connect=9s",
        "postgres://db/x?pool_timeouts.connect=9s&connect_timeout=7",
    ] {
        let postgres = Postgres::from_url(both).unwrap();
        let connect = postgres.config().timeouts.connect;
        assert_eq!(connect, Some(Duration::from_secs(9)), "the pool's own word: {both}");
        let limit = Duration::from_secs(1);
        let code = postgres.with_config(|config| {
            let timeouts = config.timeouts.with_connect(limit);
            config.with_timeouts(timeouts)
        });
        assert_eq!(code.config().timeouts.connect, Some(limit), "code, which is said last");
    }
}

#[test]
fn of_several_places_for_keepalive_each_value_is_that_of_the_last_place_that_gives_it() {
    let of = |options: &str, table: &str| {
        let given = format!("url = 'postgres://db/x?{options}'\n[pool.socket]\n{table}");
        let settings: livepool_postgres::Settings = toml::from_str(&given).unwrap();
        settings.protocol().unwrap().config().socket
    };
    let off = "keepalive = 'off'\nuser_timeout = 'derived'";
    assert_eq!(of("connect_timeout=7", off).keepalive, None, "the URL says nothing of it");
    assert_eq!(of("keepalives_retries=0", off).keepalive, None, "the pool's own, says the URL");
    assert_eq!(of("keepalives=0", "").keepalive, None);
    assert_eq!(of("keepalives=1", off).keepalive, Some(Keepalive::default()), "the URL, later");
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let keepalive = of("keepalives_idle=60", off).keepalive.unwrap();
    assert_eq!((keepalive.idle, keepalive.retries), (seconds(60), Keepalive::default().retries));
    // The pool's own word about one value is none about the others.
    let options = "keepalives_idle=60&keepalives_interval=7&pool_socket.keepalive.idle=30s";
    let keepalive = of(options, "keepalive = { retries = 5 }").keepalive.unwrap();
    let values = (keepalive.idle, keepalive.interval, keepalive.retries);
    assert_eq!(values, (seconds(30), seconds(7), Some(5)));
    let keepalive = of("keepalives=0&pool_socket.keepalive.idle=30s", "").keepalive.unwrap();
    assert_eq!(keepalive.idle, seconds(30), "it is on");
    // A word is one about all of them.
    for (word, expected) in [("off", None), ("system", Some(Keepalive::system()))] {
        let options = format!("keepalives=1&keepalives_idle=60&pool_socket.keepalive={word}");
        assert_eq!(of(&options, "").keepalive, expected, "{word}");
    }
}

fn a_running_pool_takes_what_a_file_says_now<P: Sample>() {
    let read = |pool: &str| {
        let text = format!("url = '{}?pool_max_size=7'\n[pool]\n{pool}", P::URL);
        toml::from_str::<Settings<P>>(&text).unwrap()
    };
    let pool = read("idle_timeout = '5m'\nname = 'orders'").pool().unwrap();
    let mut again = read("idle_timeout = '9m'\nname = 'orders'").protocol().unwrap();
    let from_file = again.config_mut().clone();
    pool.reconfigure(|config| *config = from_file.clone()).unwrap();
    let now = pool.config();
    assert_eq!((now.idle_timeout, now.max_size), (Some(Duration::from_secs(540)), 7));
}

#[test]
fn a_file_of_an_adapter_that_is_read_again_changes_its_running_pool() {
    for_all!(a_running_pool_takes_what_a_file_says_now);
}

#[test]
fn an_option_of_the_pool_that_is_not_in_utf_8_is_refused_by_every_adapter() {
    fn of<P: Sample>() {
        for options in ["pool_name=%FF", "pool_%FF=1"] {
            let text = refused::<P>(options);
            assert!(text.contains("not in UTF-8"), "{options}: {text}");
        }
    }
    for_all!(of);
}

#[test]
fn one_error_says_of_every_adapter_what_is_wrong_and_what_to_write() {
    for (error, expected) in [
        (
            livepool_postgres::pool("mysql://db").map(drop),
            "postgres://user:password@host:5432/database",
        ),
        (livepool_redis::pool("localhost:6379").map(drop), "redis://[user:password@]host:port/db"),
        (livepool_http::pool("web:80").map(drop), "such as \"http://127.0.0.1:8080\""),
        (livepool_http::http2::pool("ftp://web").map(drop), "must begin with http:// or https://"),
        (livepool_postgres::pool("host=a,b port=1,2,3").map(drop), "one for all, or one for each"),
    ] {
        let error: SetupError = error.unwrap_err();
        assert!(matches!(error, SetupError::Url(_)), "{error:?}");
        assert!(error.to_string().starts_with("the connection URL cannot be used: "), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = Redis::from_url("redis://h").unwrap().with_config(|c| c.with_max_size(0)).pool();
    assert!(matches!(error.map(drop).unwrap_err(), SetupError::Config(_)));
}

/// The README's snippets about adapters, which its own crate cannot compile: it names no adapter.
#[allow(dead_code, reason = "it has to compile; there are no such servers")]
mod readme {
    async fn postgres() -> Result<(), Box<dyn std::error::Error>> {
        use livepool_postgres::{PoolExt as _, Postgres};

        let pool = Postgres::from_url("postgres://app:secret@db:5432/app?pool_idle_timeout=5m")?
            .with_config(|config| config.with_name("orders").with_max_size(16))
            .pool()?;
        let row = pool.query_one("SELECT count FROM visits", &[]).await?; // one checkout, for one statement
        let mut client = pool.get().await?;
        let transaction = client.transaction().await?;
        transaction.execute("UPDATE visits SET count = count + 1", &[]).await?;
        transaction.commit().await?;
        let _ = row;
        Ok(())
    }

    async fn share(
        pool: livepool::Pool<livepool_postgres::Postgres>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let row = pool.share().await?.query_one("SELECT count FROM visits", &[]).await?;
        let _ = row;
        Ok(())
    }
}

#[test]
fn the_snippets_of_the_readme_about_adapters_are_those_that_compile_here() {
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    let (source, readme) = (dense(include_str!("shape.rs")), include_str!("../../../README.md"));
    let mut count = 0;
    for block in readme.split("```rs\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for line in block.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            count += 1;
            assert!(source.contains(&dense(line)), "not compiled: {line}");
        }
    }
    assert!(count > 8, "{count} lines were found");
    // The table of a file is one of `Settings`.
    let table = readme.split("```toml\n").find(|block| block.starts_with("[orders]")).unwrap();
    let table = table.split("```").next().unwrap();
    let file: HashMap<String, livepool_postgres::Settings> = toml::from_str(table).unwrap();
    let config = file["orders"].protocol().unwrap().config();
    assert_eq!((config.max_size, config.idle_timeout), (16, Some(Duration::from_secs(300))));
}
