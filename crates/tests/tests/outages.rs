//! What the callers of a service see while its database is away: the same load on this pool and on
//! deadpool-postgres, at the same time and on the same servers. The table that it prints stands in
//! `docs/outages.md`, with the command.
#![cfg(target_os = "linux")]

#[path = "outages/load.rs"]
mod load;
#[path = "outages/table.rs"]
mod table;

use std::time::{Duration, Instant};

use livepool_testkit::servers::{Haproxy, PgBouncer, Postgres, are_here};
use load::{CALLERS, CONNECTIONS, Contender, Load};
use table::{Row, table};
use tokio_postgres::NoTls;

/// Shorter than a caller waits for a connection.
const AWAY: Duration = Duration::from_secs(1);

/// What this pool may lose to one that dials again whenever a caller asks again: it pauses for up to
/// 200 ms between two dials. The rest is for a machine that is busy.
const LATER: Duration = Duration::from_secs(1);

/// And where HAProxy holds its dials, for which it tries three times itself, a second apart. Those of the
/// other pool may have come before or after that.
const HELD: Duration = Duration::from_secs(3);

/// When an outage began, and when it was over.
type Outage = (Instant, Instant);

/// Has both contenders asked for the whole time of an outage, and a second longer. `warm`: it begins
/// when both have served.
async fn meet(
    name: &'static str,
    urls: [&str; 2],
    warm: bool,
    outage: impl FnOnce() -> Outage,
) -> [Row; 2] {
    let contenders = [Contender::livepool(urls[0]), Contender::deadpool(urls[1])];
    let loads = contenders.map(Load::start);
    if warm {
        for load in &loads {
            load.serves(100).await;
        }
    }
    let (away, back) = tokio::task::block_in_place(outage);
    for load in &loads {
        load.serves(CALLERS).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let [ours, theirs] = loads.map(Load::stop);
    [
        Row::new(name, "livepool", ours.await, away, back),
        Row::new(name, "deadpool-postgres", theirs.await, away, back),
    ]
}

fn trusting(settings: &[(&str, &str)]) -> Postgres {
    let server = Postgres::start_with(settings);
    server.trust_everybody();
    server
}

fn for_a_while(time: Duration, begin: impl FnOnce(), end: impl FnOnce()) -> Outage {
    let away = Instant::now();
    begin();
    std::thread::sleep(time);
    end();
    (away, Instant::now())
}

async fn restart(name: &'static str, time: Duration) -> [Row; 2] {
    let mut server = trusting(&[]);
    let url = server.app_url();
    let outage = || {
        let away = Instant::now();
        server.stop_fast();
        std::thread::sleep(time);
        server.start_again();
        (away, Instant::now())
    };
    meet(name, [&url; 2], true, outage).await
}

fn url_of(port: u16) -> String {
    format!("postgres://app:open%20sesame@127.0.0.1:{port}/app")
}

/// HAProxy checks its servers, and has nobody to send a client to in between: it accepts connections
/// and ends them.
async fn crash_behind_haproxy() -> [Row; 2] {
    let mut servers = [trusting(&[]), trusting(&[])];
    let how = " check inter 50ms fall 2 on-marked-down shutdown-sessions";
    let haproxy = haproxy_for(&servers, how);
    let outage = || for_a_while(AWAY, || servers[0].kill_9(), || haproxy.switch_to(2));
    let name = "crash behind HAProxy, which has another one after 1 s";
    meet(name, [&url_of(haproxy.port()); 2], true, outage).await
}

/// It checks nothing. Who connects is accepted, and waits while it tries three times, a second apart,
/// to reach the server that it knows; whoever connects after the switch is served.
async fn crash_behind_haproxy_without_checks() -> [Row; 2] {
    let mut servers = [trusting(&[]), trusting(&[])];
    let haproxy = haproxy_for(&servers, "");
    let outage = || for_a_while(AWAY, || servers[0].kill_9(), || haproxy.switch_to(2));
    let name = "the same, and HAProxy does not check its servers";
    meet(name, [&url_of(haproxy.port()); 2], true, outage).await
}

/// It stands still, so that its kernel goes on taking connections and requests.
async fn hang_behind_haproxy() -> [Row; 2] {
    let servers = [trusting(&[]), trusting(&[])];
    let haproxy = haproxy_for(&servers, "");
    let outage = || for_a_while(AWAY, || servers[0].freeze(), || haproxy.switch_to(2));
    let name = "hang behind HAProxy, which has another one after 1 s";
    meet(name, [&url_of(haproxy.port()); 2], true, outage).await
}

fn haproxy_for(servers: &[Postgres; 2], how: &str) -> Haproxy {
    let addr = |server: &Postgres| format!("127.0.0.1:{}{how}", server.port());
    let haproxy = Haproxy::tcp(&servers.each_ref().map(addr), &[]);
    haproxy.switch_to(1);
    haproxy
}

async fn crash_of_a_primary() -> [Row; 2] {
    let mut primary = trusting(&[]);
    let standby = primary.standby();
    let url = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=app dbname=app target_session_attrs=read-write",
        primary.port(),
        standby.port()
    );
    let outage = || for_a_while(AWAY, || primary.kill_9(), || standby.promote());
    meet("crash, a standby of the URL takes over after 1 s", [&url; 2], true, outage).await
}

async fn pause_of_a_pgbouncer() -> [Row; 2] {
    let server = trusting(&[]);
    let pgbouncer = PgBouncer::start(&server, &[("pool_mode", "transaction")]);
    let admin = |command| drop(pgbouncer.admin(command));
    let outage = || for_a_while(AWAY, || admin("PAUSE"), || admin("RESUME"));
    meet("`PAUSE` of a PgBouncer for 1 s", [&pgbouncer.app_url(); 2], true, outage).await
}

/// Nobody of either pool has a connection yet.
async fn full_server() -> [Row; 2] {
    let server = trusting(&[("max_connections", "24")]);
    let mut held = Vec::new();
    while let Ok(conn) = tokio_postgres::connect(&server.app_url(), NoTls).await {
        let (client, connection) = conn;
        held.push((client, tokio::spawn(connection)));
    }
    let held_now = held.len();
    assert!(held_now > 2 * CONNECTIONS, "room for both when they have gone: {held_now}");
    let url = server.app_url();
    let outage = || {
        let end = || {
            held.into_iter().for_each(|(_, connection)| connection.abort());
            // A session takes its place with it when its process has ended.
            let of_app = "SELECT count(*) < 20 FROM pg_stat_activity WHERE usename = 'app'";
            livepool_testkit::until_blocking(|| server.psql(of_app) == "t");
        };
        for_a_while(AWAY, || {}, end)
    };
    meet("`max_connections` taken by others for 1 s", [&url; 2], false, outage).await
}

async fn limited_role() -> [Row; 2] {
    let server = trusting(&[]);
    server.psql("CREATE ROLE other LOGIN");
    let limit = |number: i32| {
        for role in ["app", "other"] {
            server.psql(&format!("ALTER ROLE {role} CONNECTION LIMIT {number}"));
        }
    };
    limit(CONNECTIONS as i32 / 2);
    let (ours, theirs) = (server.app_url(), server.app_url().replace("//app", "//other"));
    let outage = || for_a_while(AWAY, || {}, || limit(-1));
    meet("a role's `CONNECTION LIMIT` of half the pool", [&ours, &theirs], false, outage).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_database_that_is_away_for_a_while_are_served_when_it_is_back() {
    if !are_here(&["postgres", "psql", "pg_basebackup", "pgbouncer", "haproxy"]) {
        return;
    }
    let rows = [
        restart("fast restart, 1 s", AWAY).await,
        restart("fast restart, 5 s", 5 * AWAY).await,
        crash_behind_haproxy().await,
        crash_behind_haproxy_without_checks().await,
        hang_behind_haproxy().await,
        crash_of_a_primary().await,
        pause_of_a_pgbouncer().await,
        full_server().await,
        limited_role().await,
    ];
    println!("{}", table(rows.as_flattened()));
    for (index, [ours, theirs]) in rows.iter().enumerate() {
        let name = ours.name;
        let later = if (2..4).contains(&index) { LATER + HELD } else { LATER };
        assert_eq!(ours.errors_after(), 0, "{name}: it was back when they asked");
        let (first, their_first) = (ours.first_after, theirs.first_after);
        assert!(first <= their_first + later, "{name}: {first:?} and {their_first:?}");
        // Each caller meets the end of what was under way once, and one error for each time that its
        // patience is over meanwhile, give or take half of it.
        let without_answer = ours.away + first;
        let patiences = without_answer.div_duration_f64(load::PATIENCE).round();
        let most = CALLERS * (1 + patiences as usize);
        assert!(ours.errors_meanwhile() <= most, "{name}: {} of {most}", ours.errors_meanwhile());
        assert!(ours.longest < without_answer + load::PATIENCE, "{name}: {:?}", ours.longest);
    }
    let [paused, full, limited] = [6, 7, 8].map(|index: usize| &rows[index][0]);
    for row in [paused, full, limited] {
        assert_eq!(row.errors_meanwhile(), 0, "{}: they only had to wait", row.name);
    }
}
