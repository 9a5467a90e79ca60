//! The lines of `docs/guide/migrating.md`, old and new. They compile, and nobody runs them: most want a server.
#![allow(dead_code, clippy::diverging_sub_expression)]

use std::error::Error;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use livepool::error::{CheckoutFailure, Phase};
use livepool::{
    Builder, CheckoutError, Config, Guard, HookInfo, HookResult, Order, Pool, Subscription,
    Timeouts, Validation,
};
use livepool_postgres::tokio_postgres::error::SqlState;
use livepool_postgres::{Client, GenericClient, PoolExt as _, Postgres, RecyclingMethod};
use livepool_redis::{PoolExt as _, Redis};

type Done = Result<(), Box<dyn Error>>;

/// A value that a line needs and no line is about.
fn some<T>() -> T {
    unreachable!("nobody runs this")
}

fn settings(config: Config, timeouts: Timeouts, limit: Duration) {
    let _ = config
        .with_order(Order::Lifo)
        .with_min_idle(2)
        .with_idle_timeout(Some(limit))
        .with_max_lifetime(Some(limit))
        .with_validation(Validation::Ping)
        .with_wait_warning(Some(limit));
    let _ = timeouts.with_checkout(limit).with_connect(limit).with_ping(limit);
}

async fn pools(pool: Pool, limit: Duration) -> Done {
    let _ = Pool::new(Config::new("cache:6379").with_max_size(16))?;
    let _ = Pool::new(Config::new("cache:6379"))?;
    let guard = pool.get().await?;
    let _ = guard.detach();
    let _ = pool.get().await?.detach();
    let _ = pool.get_by(Instant::now() + limit).await?;
    let _ = pool.try_get();
    pool.resize(32)?;
    pool.warm_up_or_fail(1).await?;
    pool.warm_up(1).await?;
    let _ = pool.status().waiting;
    let _ = pool.status().idle;
    let _ = pool.status().idle + pool.status().in_use;
    pool.close();
    pool.close_and_wait(Instant::now() + limit).await;
    Ok(())
}

fn hook<'a>(_: &'a mut Client, _: &'a HookInfo) -> BoxFuture<'a, HookResult> {
    Box::pin(async { Ok(()) })
}

fn hooks(builder: Builder<Postgres>) {
    let _ = builder.after_connect(hook).before_checkout(hook).after_return(hook);
}

fn errors(error: CheckoutError) -> bool {
    let _ = error.find::<livepool_postgres::Error>();
    error.failure() == CheckoutFailure::Timeout(Phase::Queue) || error.is_timeout()
}

async fn generic(client: &impl GenericClient) -> Result<bool, livepool_postgres::Error> {
    let error = client.execute("SELECT 1", &[]).await.unwrap_err();
    Ok(error.code() == Some(&SqlState::UNIQUE_VIOLATION))
}

async fn listening(pool: Pool<Postgres>, mut subscription: Subscription<Postgres>) -> Done {
    let _ = subscription.next().await;
    let _ = pool.listen(["jobs"]).await?;
    Ok(())
}

fn blocking(pool: Pool, runtime: tokio::runtime::Runtime, limit: Duration) -> Done {
    drop(runtime.block_on(pool.get())?);
    drop(runtime.block_on(pool.get_by(Instant::now() + limit))?);
    Ok(())
}

async fn postgres(url: &str, sql: &str, postgres: Postgres, pool: Pool<Postgres>) -> Done {
    let _ = Postgres::from_url(url)?.pool()?;
    let _ = Postgres::from_url(url)?.with_config(|config| config.with_max_size(16)).pool()?;
    let mut client: Guard<Postgres> = pool.get().await?;
    let statement = client.prepare_cached(sql).await?;
    let row = client.query_one(&statement, &[]).await?;
    let _ = row.try_get::<_, i64>("id")?;
    let _ = client.statement_cache().size();
    let _ = client.transaction().await?;
    client.batch_execute(sql).await?;
    pool.execute(sql, &[&7]).await?;
    pool.query_one(sql, &[&7]).await?;
    pool.query_opt(sql, &[&7]).await?;
    pool.query(sql, &[&7]).await?;
    let _ = pool.get().await?;
    postgres.clear_statement_caches();
    let _ = postgres.with_recycling(RecyclingMethod::Fast);
    Ok(())
}

async fn redis(url: &str, pool: Pool<Redis>) -> Done {
    use redis::AsyncCommands;
    let _ = Redis::from_url(url)?.pool()?;
    let mut conn = pool.connection().await?;
    let _: () = conn.set("key", "value").await?;
    let _: () = redis::cmd("GET").arg("key").query_async(&mut conn).await?;
    Ok(())
}

mod old {
    use super::*;

    mod deadpool {
        use super::*;
        use ::deadpool::managed::{self, Manager, Object, Timeouts};

        async fn lines<M: Manager>(
            manager: M,
            pool: managed::Pool<M>,
            object: Object<M>,
            timeouts: Timeouts,
            limit: Duration,
        ) -> Done
        where
            M::Error: Error + 'static,
        {
            let _: managed::Pool<M> = managed::Pool::builder(manager).max_size(16).build()?;
            let _ = managed::Pool::<M>::builder(some())
                .wait_timeout(Some(limit))
                .create_timeout(Some(limit))
                .recycle_timeout(Some(limit))
                .queue_mode(managed::QueueMode::Lifo);
            let _ = pool.get().await?;
            let _ = pool.timeout_get(&timeouts).await?;
            let _ = managed::Object::take(object);
            pool.retain(|_, metrics| metrics.last_used() < limit);
            pool.resize(32);
            let _ = pool.status().waiting;
            pool.close();
            Ok(())
        }
    }

    mod deadpool_postgres {
        use super::*;
        use ::deadpool_postgres::{
            Config, GenericClient, Hook, Object, Pool, PoolBuilder, PoolError, RecyclingMethod,
            Runtime, TimeoutType,
        };
        use tokio_postgres::NoTls;

        async fn lines(config: Config, pool: Pool, mut client: Object, sql: &str) -> Done {
            let _ = config.create_pool(Some(Runtime::Tokio1), NoTls)?;
            let statement = client.prepare_cached(sql).await?;
            let _ = client.query_one(&statement, &[]).await?;
            let _ = client.transaction().await?;
            let _ = client.statement_cache.size();
            pool.manager().statement_caches.clear();
            let _ = RecyclingMethod::Fast;
            let _ = RecyclingMethod::Verified;
            Ok(())
        }

        fn hooks(builder: PoolBuilder, hook: impl Fn() -> Hook) {
            let hooks = hook;
            let hook = hooks();
            let builder = builder.post_create(hook);
            let hook = hooks();
            let builder = builder.pre_recycle(hook);
            let hook = hooks();
            let _ = builder.post_recycle(hook);
        }

        async fn generic(client: &impl GenericClient, error: PoolError) -> bool {
            let _ = client;
            match error {
                PoolError::Timeout(TimeoutType::Wait) => true,
                PoolError::Backend(error) => error.is_closed(),
                _ => false,
            }
        }
    }

    mod deadpool_redis {
        use super::*;
        use ::deadpool_redis::{Config, Connection, Pool, Runtime, redis};
        use redis::AsyncCommands;

        async fn lines(config: Config, pool: Pool, mut conn: Connection) -> Done {
            let _ = config.create_pool(Some(Runtime::Tokio1))?;
            let _ = pool.get().await?;
            let _: () = conn.set("key", "value").await?;
            let _: () = redis::cmd("GET").arg("key").query_async(&mut conn).await?;
            Ok(())
        }
    }

    mod bb8 {
        use super::*;

        async fn lines<M: ::bb8::ManageConnection>(
            manager: M,
            pool: ::bb8::Pool<M>,
            limit: Duration,
        ) -> Done
        where
            M::Error: Error + 'static,
        {
            use ::bb8;
            let _ = bb8::Pool::builder().max_size(16).build(manager).await?;
            let manager: M = some();
            let _ = bb8::Pool::builder().build_unchecked(manager);
            let _ = bb8::Pool::<M>::builder()
                .min_idle(2)
                .connection_timeout(limit)
                .idle_timeout(limit)
                .max_lifetime(limit)
                .test_on_check_out(true);
            let customizer: Box<dyn bb8::CustomizeConnection<_, _>> = some();
            let _ = bb8::Pool::<M>::builder().connection_customizer(customizer);
            let _: bb8::RunError<M::Error> = bb8::RunError::TimedOut;
            let _ = pool.get().await?;
            let _ = pool.get_owned().await?;
            let _ = pool.dedicated_connection().await?;
            let _ = pool.state().idle_connections;
            Ok(())
        }
    }

    mod r2d2 {
        use super::*;

        fn lines<M: ::r2d2::ManageConnection>(
            manager: M,
            pool: ::r2d2::Pool<M>,
            limit: Duration,
        ) -> Done {
            use ::r2d2;
            let _ = r2d2::Pool::builder().max_size(16).build(manager)?;
            let _ = r2d2::Pool::<M>::builder()
                .min_idle(Some(2))
                .connection_timeout(limit)
                .idle_timeout(Some(limit))
                .max_lifetime(Some(limit))
                .test_on_check_out(true);
            let _ = pool.get()?;
            let _ = pool.get_timeout(limit)?;
            let _ = pool.try_get();
            let _ = pool.state().idle_connections;
            Ok(())
        }
    }
}

/// Text without white space, so that line breaks of rustfmt do not matter.
fn dense(text: &str) -> String {
    text.split_whitespace().collect()
}

/// The parts in backquotes of a cell.
fn code(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(|code| dense(&code.replace("\\|", "|")))
}

/// The cells of a row of two.
fn cells(row: &str) -> Option<(String, String)> {
    let row = row.strip_prefix("| ")?.strip_suffix(" |")?.replace("\\|", "\\\u{1}");
    let (old, new) = row.split_once(" | ")?;
    let back = |cell: &str| cell.replace('\u{1}', "|");
    Some((back(old), back(new)))
}

#[test]
fn every_line_of_the_tables_for_those_who_come_from_other_pools_compiles() {
    let page = include_str!("../../../../docs/guide/migrating.md");
    let source = include_str!("from_others.rs");
    let (new, old) = source.split_once("mod old {").unwrap();
    let (old, _) = old.split_once("/// Text without").unwrap();
    let old_of = |name: &str| {
        let name = name.replace('-', "_");
        let rest = old.split_once(&format!("mod {name} {{"))?.1;
        Some(dense(rest.split("\n    mod ").next().unwrap()))
    };
    let (new, mut rows, mut missing) = (dense(new), 0, Vec::new());
    for section in page.split("\n## ").skip(1) {
        let name = section.lines().next().unwrap();
        // sqlx is not built here: it would cost more than all the rest.
        let old = old_of(name);
        assert!(old.is_some() || name == "sqlx", "no lines of {name}");
        for (before, after) in section.lines().filter_map(cells).skip(2) {
            rows += 1;
            missing.extend(code(&after).filter(|code| !new.contains(code)));
            let Some(old) = &old else { continue };
            missing.extend(code(&before).filter(|code| !old.contains(code)));
        }
    }
    assert!(rows > 50, "{rows} rows were found");
    assert!(missing.is_empty(), "not compiled: {missing:#?}");
}
