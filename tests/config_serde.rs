//! Configuration as files and environment variables spell it.
#![cfg(feature = "serde")]

use std::collections::HashMap;
use std::time::Duration;

use livepool::config::{
    Config, FirstConnect, Keepalive, Limits, ListenerConfig, MetricNames, MetricsConfig, Order,
    ReadTimeout, SocketConfig, SocketOption, Timeouts, UserTimeout,
};

fn secs(secs: u64) -> Option<Duration> {
    Some(Duration::from_secs(secs))
}

fn toml(text: &str) -> Config {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn refusal(text: &str) -> String {
    toml::from_str::<Config>(text).expect_err(text).to_string()
}

fn everything() -> Config {
    let socket = SocketConfig::default()
        .with_keepalive(Keepalive::default().with_idle(Duration::from_secs(20)).with_retries(None))
        .with_user_timeout(UserTimeout::After(Duration::from_millis(12_345)))
        .with_nodelay(false)
        .with_send_buffer(65_536)
        .with_recv_buffer(131_072)
        .with_local_addr("127.0.0.1".parse::<std::net::IpAddr>().unwrap())
        .with_device("lo")
        .with_mark(7)
        .with_tos(0x10)
        .with_congestion("cubic")
        .with_best_effort([SocketOption::Mark, SocketOption::Congestion]);
    Config::new("db:5432")
        .with_name("main")
        .with_upstream(["db:5432", "unix:/run/db.sock"])
        .with_max_size(20)
        .with_max_waiting(None)
        .with_order(Order::Fifo)
        .with_first_connect(FirstConnect::Wait)
        .with_wait_warning(None)
        .with_metrics(MetricsConfig::default().with_peers(9).with_names(MetricNames::OpenTelemetry))
        .with_idle_timeout(None)
        .with_max_lifetime(Duration::from_secs(90))
        .with_limits(
            Limits::default().with_message(None).with_handshake(3000).with_retire_above(3 << 20),
        )
        .with_timeouts(
            Timeouts::default()
                .with_read(None)
                .with_connect(Duration::from_millis(1500))
                .with_operation(Duration::from_secs(2)),
        )
        .with_socket(socket)
}

#[test]
fn every_configuration_survives_toml_and_json() {
    let system = SocketConfig::default().with_keepalive(Keepalive::system());
    let off = SocketConfig::default().with_keepalive(None).with_user_timeout(UserTimeout::Off);
    let configs = [
        Config::default(),
        everything(),
        Config::new("db:1").with_socket(system.clone()),
        Config::new("db:1").with_socket(off.clone()).with_timeouts(Timeouts::never()),
    ];
    for config in configs {
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{text}");
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config, "{text}");
    }
    for socket in [SocketConfig::default(), system, off] {
        let config =
            ListenerConfig::default().with_socket(socket).with_backlog(7).with_reuse_port(true);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ListenerConfig>(&text).unwrap(), config, "{text}");
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ListenerConfig>(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(toml(""), Config::default());
    assert_eq!(toml::from_str::<ListenerConfig>("").unwrap(), ListenerConfig::default());
}

#[test]
fn durations_have_a_unit_or_the_word_never() {
    let config = toml("idle_timeout = 'never'\n[timeouts]\nread = '1m 30s'\nwrite = '250ms'");
    assert_eq!(config.idle_timeout, None);
    assert_eq!(config.timeouts.read, ReadTimeout::After(Duration::from_secs(90)));
    assert_eq!(config.timeouts.write, Some(Duration::from_millis(250)));
    assert_eq!(config.timeouts.flush, secs(30), "an absent field keeps its default");
}

#[test]
fn a_read_timeout_is_set_or_never_or_left_to_the_protocol() {
    let read = |text: &str| toml(&format!("[timeouts]\n{text}")).timeouts.read;
    assert_eq!(read("read = 'never'"), ReadTimeout::Never);
    assert_eq!(read("read = '30s'"), ReadTimeout::After(Duration::from_secs(30)));
    assert_eq!(read(""), ReadTimeout::Default);
    assert_eq!(read("read = 'default'"), ReadTimeout::Default);
    assert_eq!(toml("[timeouts]\noperation = '2s'").timeouts.operation, secs(2));
    assert_eq!(toml("[timeouts]\noperation = 'never'").timeouts.operation, None);
}

#[test]
fn a_duration_without_a_unit_is_refused_with_an_error_that_asks_for_one() {
    for text in
        ["idle_timeout = 30", "idle_timeout = '30'", "idle_timeout = 1.5", "[timeouts]\nread = -1"]
    {
        let error = refusal(text);
        assert!(error.contains("a duration with a unit, such as \"30s\""), "{error}");
        assert!(error.contains("\"never\""), "{error}");
    }
    let error = refusal("[socket]\nuser_timeout = 30");
    assert!(error.contains("a duration with a unit") && error.contains("\"derived\""), "{error}");
}

#[test]
fn keepalive_is_a_word_or_a_table_whose_missing_fields_are_the_defaults() {
    let keepalive = |text: &str| toml(&format!("[socket]\nkeepalive = {text}")).socket.keepalive;
    assert_eq!(keepalive("'off'"), None);
    assert_eq!(keepalive("'system'"), Some(Keepalive::system()));
    assert_eq!(keepalive("{}"), Some(Keepalive::default()));
    let mixed = Keepalive::default().with_idle(Duration::from_secs(60)).with_retries(None);
    assert_eq!(keepalive("{ idle = '1m', retries = 'system' }"), Some(mixed));
    assert!(refusal("[socket]\nkeepalive = 'on'").contains("or \"off\", or \"system\""));
    assert!(refusal("[socket]\nkeepalive = true").contains("or \"off\", or \"system\""));
    assert!(refusal("[socket.keepalive]\nidel = '1s'").contains("idel"));
}

#[test]
fn words_and_lists_are_read_as_documented() {
    let config = toml(
        "upstream = 'db:1'\nmax_waiting = 'unlimited'\norder = 'fifo'\nfirst_connect = 'wait'\nvalidation = 'peek'\n\
         [socket]\nuser_timeout = 'off'\nbest_effort = ['mark', 'user_timeout']",
    );
    assert_eq!(config.upstream, ["db:1"]);
    assert_eq!(config.max_waiting, None);
    assert_eq!(config.order, Order::Fifo);
    assert_eq!(config.first_connect, FirstConnect::Wait);
    assert_eq!(config.socket.user_timeout, UserTimeout::Off);
    assert_eq!(config.socket.best_effort, [SocketOption::Mark, SocketOption::UserTimeout]);
    assert_eq!(toml("upstream = ['a:1', 'b:2']").upstream, ["a:1", "b:2"]);
    assert_eq!(toml("max_waiting = 3").max_waiting, Some(3));
}

#[test]
fn unknown_fields_are_refused_by_name() {
    for text in ["max_conns = 1", "[timeouts]\nreads = '1s'", "[socket]\nno_delay = true"] {
        assert!(refusal(text).contains("unknown field"), "{text}");
    }
}

#[test]
fn what_is_readable_is_still_checked() {
    let config =
        toml("upstream = 'db:1'\n[timeouts]\nread = '0s'\n[socket.keepalive]\nidle = '500ms'");
    let error = config.check().unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["timeouts.read", "socket.keepalive.idle"]);
}

fn variables() -> HashMap<String, String> {
    let pairs = [
        ("LIVEPOOL__UPSTREAM", "db:5432"),
        ("LIVEPOOL__NAME", "42"),
        ("LIVEPOOL__MAX_SIZE", "20"),
        ("LIVEPOOL__MAX_WAITING", "64"),
        ("LIVEPOOL__ORDER", "fifo"),
        ("LIVEPOOL__IDLE_TIMEOUT", "never"),
        ("LIVEPOOL__TIMEOUTS__READ", "1m"),
        ("LIVEPOOL__SOCKET__NODELAY", "false"),
        ("LIVEPOOL__SOCKET__SEND_BUFFER", "65536"),
        ("LIVEPOOL__SOCKET__TOS", "16"),
        ("LIVEPOOL__SOCKET__LOCAL_ADDR", "127.0.0.1"),
        ("LIVEPOOL__SOCKET__KEEPALIVE__IDLE", "20s"),
        ("LIVEPOOL__SOCKET__KEEPALIVE__RETRIES", "4"),
        ("LIVEPOOL__SOCKET__BEST_EFFORT", "mark"),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn environment(variables: HashMap<String, String>) -> config::Environment {
    config::Environment::with_prefix("LIVEPOOL").separator("__").source(Some(variables))
}

fn load(environment: config::Environment) -> Result<Config, config::ConfigError> {
    config::Config::builder().add_source(environment).build()?.try_deserialize()
}

#[test]
fn environment_variables_configure_everything_although_they_are_all_text() {
    let text = environment(variables());
    let parsed = environment(variables()).try_parsing(true);
    for source in [text, parsed] {
        let config = load(source).unwrap();
        let keepalive = Keepalive::default().with_idle(Duration::from_secs(20)).with_retries(4);
        let socket = SocketConfig::default()
            .with_nodelay(false)
            .with_send_buffer(65_536)
            .with_tos(16)
            .with_local_addr("127.0.0.1".parse::<std::net::IpAddr>().unwrap())
            .with_keepalive(keepalive)
            .with_best_effort([SocketOption::Mark]);
        let expected = Config::new("db:5432")
            .with_name("42")
            .with_max_size(20)
            .with_max_waiting(64)
            .with_order(Order::Fifo)
            .with_idle_timeout(None)
            .with_timeouts(Timeouts::default().with_read(Duration::from_secs(60)))
            .with_socket(socket);
        assert_eq!(config, expected);
        config.check().unwrap();
    }
}

#[test]
fn environment_variables_can_hold_a_list_of_upstreams() {
    let mut variables = variables();
    variables.insert("LIVEPOOL__UPSTREAM".into(), "a:1,[::1]:2".into());
    let source = environment(variables)
        .try_parsing(true)
        .list_separator(",")
        .with_list_parse_key("upstream");
    assert_eq!(load(source).unwrap().upstream, ["a:1", "[::1]:2"]);
}

#[test]
fn a_bare_number_in_an_environment_variable_is_refused_too() {
    for parsing in [false, true] {
        let mut variables = variables();
        variables.insert("LIVEPOOL__TIMEOUTS__READ".into(), "30".into());
        let error = load(environment(variables).try_parsing(parsing)).unwrap_err().to_string();
        assert!(error.contains("a duration with a unit"), "{error}");
    }
}

#[test]
fn a_limit_of_bytes_is_a_number_with_or_without_a_unit_or_the_word_unlimited() {
    let limits = |text: &str| toml(&format!("[limits]\n{text}")).limits;
    assert_eq!(limits(""), Limits::default());
    for (text, expected) in [
        ("65536", Some(65_536)),
        ("'65536'", Some(65_536)),
        ("'64 KiB'", Some(65_536)),
        ("'64KiB'", Some(65_536)),
        ("'3 MiB'", Some(3 << 20)),
        ("'1 GiB'", Some(1 << 30)),
        ("'2000 B'", Some(2000)),
        ("'unlimited'", None),
    ] {
        assert_eq!(limits(&format!("message = {text}")).message, expected, "{text}");
    }
    for text in ["'64 kB'", "'1.5 MiB'", "'never'", "-1", "true", "'99999999999999 GiB'", "'MiB'"] {
        let error = refusal(&format!("[limits]\nmessage = {text}"));
        assert!(error.contains("a number of bytes, such as 65536 or \"64 KiB\""), "{error}");
        assert!(error.contains("\"unlimited\""), "{error}");
    }
}
