use std::time::Duration;

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn fields(error: &ConfigError) -> Vec<&str> {
    error.problems().iter().map(|problem| problem.field.as_str()).collect()
}

fn socket(change: impl FnOnce(SocketConfig) -> SocketConfig) -> Config {
    Config::new("db:1").with_socket(change(SocketConfig::default()))
}

fn keepalive(change: impl FnOnce(Keepalive) -> Keepalive) -> Config {
    socket(|socket| socket.with_keepalive(change(Keepalive::default())))
}

fn timeouts(change: impl FnOnce(Timeouts) -> Timeouts) -> Config {
    Config::new("db:1").with_timeouts(change(Timeouts::default()))
}

#[test]
fn the_defaults_with_an_upstream_are_valid_and_named_after_it() {
    let settings = Config::new("db:5432").to_settings().unwrap();
    assert_eq!(settings.name, "db:5432");
    assert_eq!(settings.socket.user_timeout, Some(secs(30)));
    assert_eq!(Config::new("db:5432").with_name("main").to_settings().unwrap().name, "main");
    assert!(ListenerConfig::default().check().is_ok());
}

#[test]
fn every_value_out_of_range_gives_one_problem_that_names_its_field() {
    let base = || Config::new("db:1");
    let known = |t| socket(|s| s.with_user_timeout(UserTimeout::After(t)));
    let free = |t| socket(|s| s.with_keepalive(None).with_user_timeout(UserTimeout::After(t)));
    #[rustfmt::skip]
    let table = [
        (base().with_name("x".repeat(256)), "name"),
        (Config::default(), "upstream"),
        (base().with_upstream(["db:1", "nonsense"]), "upstream[1]"),
        (base().with_max_size(0), "max_size"),
        (base().with_max_size(65_536), "max_size"),
        (base().with_idle_timeout(Duration::ZERO), "idle_timeout"),
        (base().with_max_lifetime(Duration::from_nanos(1)), "max_lifetime"),
        (timeouts(|t| t.with_checkout(Duration::ZERO)), "timeouts.checkout"),
        (timeouts(|t| t.with_connect(Duration::ZERO)), "timeouts.connect"),
        (timeouts(|t| t.with_read(Duration::from_micros(999))), "timeouts.read"),
        (timeouts(|t| t.with_write(Duration::ZERO)), "timeouts.write"),
        (timeouts(|t| t.with_flush(Duration::ZERO)), "timeouts.flush"),
        (timeouts(|t| t.with_shutdown(Duration::ZERO)), "timeouts.shutdown"),
        (timeouts(|t| t.with_accept(Duration::ZERO)), "timeouts.accept"),
        (keepalive(|k| k.with_idle(ms(500))), "socket.keepalive.idle"),
        (keepalive(|k| k.with_idle(ms(1500)).with_retries(None)), "socket.keepalive.idle"),
        (keepalive(|k| k.with_idle(secs(32_768))), "socket.keepalive.idle"),
        (keepalive(|k| k.with_interval(Duration::ZERO)), "socket.keepalive.interval"),
        (keepalive(|k| k.with_interval(secs(32_768))), "socket.keepalive.interval"),
        (keepalive(|k| k.with_retries(0)), "socket.keepalive.retries"),
        (keepalive(|k| k.with_retries(1)), "socket.keepalive.retries"),
        (keepalive(|k| k.with_retries(128)), "socket.keepalive.retries"),
        (keepalive(|k| k.with_interval(secs(32_767)).with_retries(127)), "socket.user_timeout"),
        (free(Duration::ZERO), "socket.user_timeout"),
        (free(Duration::from_micros(500)), "socket.user_timeout"),
        (free(Duration::from_micros(1500)), "socket.user_timeout"),
        (free(secs(40 * 86_400)), "socket.user_timeout"),
        (known(secs(25)), "socket.user_timeout"),
        (known(ms(30_001)), "socket.user_timeout"),
        (socket(|s| s.with_send_buffer(0)), "socket.send_buffer"),
        (socket(|s| s.with_recv_buffer(1 << 31)), "socket.recv_buffer"),
        (socket(|s| s.with_device("")), "socket.device"),
        (socket(|s| s.with_device("sixteen-bytes-ab")), "socket.device"),
        (socket(|s| s.with_congestion("b\0r")), "socket.congestion"),
        (socket(|s| s.with_congestion("sixteen-bytes-ab")), "socket.congestion"),
    ];
    for (config, field) in table {
        let error = config.check().expect_err(field);
        assert_eq!(fields(&error), [field], "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn every_value_at_the_edge_of_its_range_is_accepted() {
    let known = |t| socket(|s| s.with_user_timeout(UserTimeout::After(t)));
    let table = [
        Config::new("db:1").with_max_size(65_535).with_max_waiting(0),
        Config::new("db:1").with_max_waiting(None).with_timeouts(Timeouts::never()),
        Config::new("db:1").with_timeouts(Timeouts::all(ms(1))),
        Config::new("db:1").with_idle_timeout(secs(60)).with_max_lifetime(secs(60)),
        keepalive(|_| Keepalive::system()),
        keepalive(|k| k.with_idle(secs(1)).with_interval(secs(1)).with_retries(2)),
        keepalive(|k| k.with_idle(secs(32_767)).with_retries(127)),
        known(ms(25_001)),
        known(secs(30)),
        socket(|s| s.with_keepalive(None).with_user_timeout(UserTimeout::After(ms(1)))),
        socket(|s| {
            s.with_keepalive(Keepalive::system()).with_user_timeout(UserTimeout::After(secs(3)))
        }),
        socket(|s| s.with_user_timeout(UserTimeout::Off)),
        socket(|s| s.with_device("fifteen-bytes-a").with_congestion("bbr").with_tos(255)),
        socket(|s| s.with_best_effort([SocketOption::Mark])),
    ];
    for config in table {
        config.check().unwrap();
    }
}

#[test]
fn all_problems_are_reported_at_once_one_line_each() {
    let config =
        keepalive(|k| k.with_idle(ms(500)).with_retries(1)).with_upstream(["db"]).with_max_size(0);
    let error = config.check().unwrap_err();
    let expected = ["upstream[0]", "max_size", "socket.keepalive.idle", "socket.keepalive.retries"];
    assert_eq!(fields(&error), expected);
    let text = error.to_string();
    assert!(text.contains("; (2) max_size = 0: ") && text.lines().count() == 1, "{text}");
    assert_eq!(format!("{error:#}").lines().count(), 5, "{error:#}");
    assert!(text.contains("socket.keepalive.idle = 500ms: must be whole seconds"), "{text}");
}

#[test]
fn a_contradicting_user_timeout_is_told_the_range_that_agrees() {
    let config = socket(|s| s.with_user_timeout(UserTimeout::After(secs(20))));
    let text = config.check().unwrap_err().to_string();
    assert!(text.contains("above 25s and at most 30s"), "{text}");
}

#[test]
fn the_derived_user_timeout_is_off_when_the_system_decides() {
    let user_timeout = |config: Config| config.to_settings().unwrap().socket.user_timeout;
    assert_eq!(user_timeout(keepalive(|k| k.with_retries(None))), None);
    assert_eq!(user_timeout(socket(|s| s.with_keepalive(None))), None);
    assert_eq!(user_timeout(keepalive(|k| k.with_retries(4))), Some(secs(35)));
}

#[test]
fn a_listener_is_checked_by_the_same_rules() {
    let socket = SocketConfig::default().with_local_addr(std::net::IpAddr::from([127, 0, 0, 1]));
    let config = ListenerConfig::default()
        .with_backlog(0)
        .with_idle_timeout(Duration::ZERO)
        .with_timeouts(Timeouts::default().with_accept(Duration::ZERO))
        .with_socket(socket.with_keepalive(Keepalive::default().with_retries(1)));
    let error = config.check().unwrap_err();
    let expected = [
        "backlog",
        "idle_timeout",
        "timeouts.accept",
        "socket.keepalive.retries",
        "socket.local_addr",
    ];
    assert_eq!(fields(&error), expected);
}

#[test]
fn detection_time_is_known_only_when_all_three_values_are() {
    assert_eq!(Keepalive::default().detection_time(), Some(secs(30)));
    assert_eq!(Keepalive::default().with_idle(None).detection_time(), None);
    assert_eq!(Keepalive::system().detection_time(), None);
}
