//! Hooks: what a pool's user has done to a connection after it was made, before it is handed out, after
//! it came back and before it is closed. One that fails, panics or hangs costs its connection and nobody
//! else.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::error::CheckoutFailure;
use livepool::event::{DialOutcome, Hook, Operation};
use livepool::protocol::{Protocol, Verdict, Wire};
use livepool::{
    BoxFuture, CloseReason, Config, Event, Guard, HookError, HookResult, Pool, Release, Timeouts,
};
use livepool_testkit::cut::{DROPS, cut};
use livepool_testkit::lines::{Client, Lines};
use livepool_testkit::{Events, Upstream, ask, until, until_status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// What a hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// One exchange.
    Well,
    Fails,
    Panics,
    Hangs,
    /// Half an exchange.
    Half,
    /// An exchange that takes 100 ms.
    Slow,
}
use Does::{Fails, Half, Hangs, Panics, Slow, Well};

impl Does {
    fn over(self, client: &mut Client) -> BoxFuture<'_, HookResult> {
        Box::pin(async move {
            match self {
                Well => assert_eq!(client.ask("ECHO hook").await?, "hook"),
                Fails => return Err("not\nthis one".into()),
                Panics => panic!("on purpose"),
                Hangs => std::future::pending().await,
                Slow => assert_eq!(client.ask("SLOW 100 hook").await?, "hook"),
                Half => drop(tokio::time::timeout(MS, client.ask("HOLD")).await),
            }
            Ok(())
        })
    }
}

/// What the hooks do, and what was called.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    does: Vec<(Hook, Does)>,
    called: Vec<Hook>,
}

impl Script {
    fn set(&self, hook: Hook, does: Does) {
        let mut told = self.0.lock().unwrap();
        told.does.retain(|(other, _)| *other != hook);
        told.does.push((hook, does));
    }

    fn call<'a>(&self, hook: Hook, client: &'a mut Client) -> BoxFuture<'a, HookResult> {
        let mut told = self.0.lock().unwrap();
        told.called.push(hook);
        let does = told.does.iter().find(|(other, _)| *other == hook);
        does.map_or(Well, |(_, does)| *does).over(client)
    }

    fn called(&self) -> Vec<Hook> {
        std::mem::take(&mut self.0.lock().unwrap().called)
    }
}

/// A pool with these hooks.
fn pool_with(
    config: Config,
    lines: &Lines,
    hooks: &[Hook],
    script: &Script,
) -> (Pool<Lines>, Events) {
    let events = Events::default();
    let mut builder = Pool::builder(config).observer(events.observer()).protocol(lines.clone());
    for hook in hooks.iter().copied() {
        let script = script.clone();
        builder = match hook {
            Hook::AfterConnect => builder.after_connect(move |c, _| script.call(hook, c)),
            Hook::BeforeCheckout => builder.before_checkout(move |c, _| script.call(hook, c)),
            Hook::AfterReturn => builder.after_return(move |c, _| script.call(hook, c)),
            Hook::BeforeClose => builder.before_close(move |c, about| {
                assert!(about.reason().is_some());
                script.call(hook, c)
            }),
            other => panic!("{other}"),
        };
    }
    (builder.build().unwrap(), events)
}

/// What a hook exchanges has 20 s, as pings and resets have here.
fn unhurried(upstream: &Upstream) -> Config {
    let config = upstream.config().with_max_size(2);
    let timeouts = config.timeouts.with_hook(20 * SECOND);
    config.with_timeouts(timeouts)
}

/// For this limit, if `does` hangs; otherwise what is done has to be done.
fn limit(does: Does, brief: Duration) -> Duration {
    if does == Hangs { brief } else { 20 * SECOND }
}

async fn echo(pool: &Pool<Lines>, text: &str) {
    let client = pool.get().await.unwrap();
    assert_eq!(client.ask(&format!("ECHO {text}")).await.unwrap(), text);
}

fn failures(events: &Events) -> Vec<(Hook, String)> {
    let failure = |event: &Event| match event {
        Event::HookFailed { hook, error, .. } => Some((*hook, error.to_string())),
        _ => None,
    };
    events.all().iter().filter_map(failure).collect()
}

#[tokio::test]
async fn each_hook_runs_once_at_its_place_and_what_it_exchanges_is_nobodys() {
    let upstream = Upstream::start();
    let script = Script::default();
    let (pool, events) = pool_with(unhurried(&upstream), &Lines::default(), Hook::ALL, &script);
    let client = pool.get().await.unwrap();
    assert_eq!(script.called(), [Hook::AfterConnect, Hook::BeforeCheckout]);
    assert_eq!(client.ask("ECHO x").await.unwrap(), "x");
    drop(client);
    until_status(&pool, |now| now.idle == 1).await;
    assert_eq!(script.called(), [Hook::AfterReturn]);
    echo(&pool, "y").await;
    until_status(&pool, |now| now.idle == 1).await;
    assert_eq!(script.called(), [Hook::BeforeCheckout, Hook::AfterReturn]);
    pool.invalidate();
    assert_eq!(events.until_closed(1).await, [CloseReason::Invalidated]);
    assert_eq!(script.called(), [Hook::BeforeClose]);
    assert_eq!((events.opened(), failures(&events)), (1, vec![]));
}

#[tokio::test]
async fn the_hooks_of_bare_streams_leave_no_exchange_to_their_users() {
    async fn say(stream: &mut livepool::Stream) -> HookResult {
        stream.write_all(b"ECHO hook\n").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        Ok(())
    }
    let upstream = Upstream::start();
    let events = Events::default();
    let returns = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&returns);
    let pool = Pool::builder(upstream.config())
        .observer(events.observer())
        .after_connect(|stream, _| Box::pin(say(stream)))
        .before_checkout(|stream, _| Box::pin(say(stream)))
        .after_return(move |stream, _| {
            count.fetch_add(1, SeqCst);
            Box::pin(say(stream))
        })
        .before_close(|stream, _| Box::pin(say(stream)))
        .build()
        .unwrap();
    // Unused, it goes back without a word.
    drop(pool.get().await.unwrap());
    until_status(&pool, |now| now.idle == 1).await;
    let mut used = pool.get().await.unwrap();
    assert_eq!(ask(&mut used, "ECHO x").await.unwrap(), "x");
    assert_eq!(used.release(), Release::Resetting);
    until_status(&pool, |now| now.idle == 1).await;
    let mut used: Guard = pool.get().await.unwrap();
    assert_eq!(ask(&mut used, "ECHO y").await.unwrap(), "y");
    drop(used);
    assert_eq!(events.closed(), [CloseReason::Unfinished], "only its user knows where it ends");
    assert_eq!(returns.load(SeqCst), 2);
}

#[tokio::test]
async fn a_hook_after_connect_that_fails_fails_the_dial_and_is_named_in_its_error() {
    let upstream = Upstream::start();
    for (does, text) in [
        (Fails, r"the after_connect hook failed: not\nthis one"),
        (Panics, "the after_connect hook panicked"),
        (Hangs, "the after_connect hook was not done within the time of the dial"),
        (Half, "the after_connect hook left the connection unfit"),
    ] {
        let script = Script::default();
        script.set(Hook::AfterConnect, does);
        let (pool, events) =
            pool_with(unhurried(&upstream), &Lines::default(), &[Hook::AfterConnect], &script);
        let dial = limit(does, SECOND / 2);
        pool.reconfigure(|config| config.timeouts.connect = Some(dial)).unwrap();
        let error = pool.get_by(Instant::now() + 3 * SECOND).await.unwrap_err();
        assert!(error.to_string().contains(text), "{does:?}: {error}");
        let found = error.find::<HookError>().map(|error| (error.hook(), error.is_timeout()));
        assert_eq!(found, Some((Hook::AfterConnect, does == Hangs)), "{error}");
        let outcome = |event: &Event| match event {
            Event::DialFailed { outcome, .. } => Some(*outcome),
            _ => None,
        };
        let expected = if does == Hangs { DialOutcome::Timeout } else { DialOutcome::Hook };
        assert_eq!(events.all().iter().find_map(outcome), Some(expected), "{does:?}");
        assert_eq!(failures(&events)[0].0, Hook::AfterConnect);
        assert_eq!((events.opened(), events.closed().len()), (0, 0));
        script.set(Hook::AfterConnect, Well);
        pool.reconfigure(|config| config.timeouts.connect = Some(20 * SECOND)).unwrap();
        let client = pool.get_by(Instant::now() + 20 * SECOND).await.unwrap();
        assert_eq!(client.ask("ECHO x").await.unwrap(), "x");
    }
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn a_connection_that_its_hook_refuses_is_closed_and_the_caller_gets_another() {
    let upstream = Upstream::start();
    let (events, stale) = (Events::default(), Arc::new(Mutex::new(Vec::new())));
    let is_stale = Arc::clone(&stale);
    let pool = Pool::builder(upstream.config().with_max_size(4))
        .observer(events.observer())
        .protocol(Lines::default())
        .before_checkout(move |_, about| {
            let is_stale = is_stale.lock().unwrap().contains(&about.conn());
            Box::pin(async move { if is_stale { Err("stale".into()) } else { Ok(()) } })
        })
        .build()
        .unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(pool.get().await.unwrap());
    }
    stale.lock().unwrap().extend(held.iter().map(|client| client.id()));
    drop(held);
    until_status(&pool, |now| now.idle == 3).await;
    echo(&pool, "x").await;
    assert_eq!(events.closed(), [CloseReason::HookFailed; 3]);
    assert_eq!(failures(&events).len(), 3);
    assert_eq!(upstream.accepted(), 4);
}

#[tokio::test]
async fn a_new_connection_that_its_hook_refuses_fails_the_checkout_at_once_with_its_words() {
    let upstream = Upstream::start();
    let script = Script::default();
    script.set(Hook::BeforeCheckout, Fails);
    let (pool, events) =
        pool_with(unhurried(&upstream), &Lines::default(), &[Hook::BeforeCheckout], &script);
    // No caller has so much time.
    let error = pool.get_by(Instant::now() + 3600 * SECOND).await.unwrap_err();
    assert_eq!(error.failure(), CheckoutFailure::Hook);
    let text = error.to_string();
    assert!(text.contains(r"the before_checkout hook failed: not\nthis one"), "{text}");
    assert_eq!((upstream.accepted(), events.closed()), (1, vec![CloseReason::HookFailed]));
    script.set(Hook::BeforeCheckout, Well);
    echo(&pool, "x").await;
}

#[tokio::test]
async fn a_hook_that_panics_hangs_or_stops_half_way_costs_its_connection_and_nobody_else() {
    let upstream = Upstream::start();
    for hook in [Hook::BeforeCheckout, Hook::AfterReturn] {
        for (does, reason) in [
            (Fails, CloseReason::HookFailed),
            (Panics, CloseReason::Panicked),
            (Hangs, CloseReason::HookFailed),
            (Half, CloseReason::HookFailed),
        ] {
            let script = Script::default();
            let (pool, events) =
                pool_with(unhurried(&upstream), &Lines::default(), &[hook], &script);
            // An idle one, which has been in order.
            echo(&pool, "x").await;
            until_status(&pool, |now| now.idle == 1).await;
            let mut victim = None;
            if hook == Hook::AfterReturn {
                victim = Some(pool.get().await.unwrap());
            }
            script.set(hook, does);
            let brief = limit(does, 50 * MS);
            pool.reconfigure(|config| config.timeouts.hook = Some(brief)).unwrap();
            match victim {
                Some(victim) => drop(victim),
                None => drop(pool.get().await),
            }
            let closed = events.until_closed(1).await;
            assert_eq!(closed[0], reason, "{hook} {does:?}");
            assert_eq!(failures(&events)[0].0, hook, "{does:?}");
            let timed_out = events.timed_out().contains(&Operation::Hook);
            assert_eq!(timed_out, does == Hangs, "{hook} {does:?}");
            script.set(hook, Well);
            pool.reconfigure(|config| config.timeouts.hook = Some(20 * SECOND)).unwrap();
            echo(&pool, "y").await;
            until_status(&pool, |now| now.idle >= 1 && now.in_use == 0).await;
        }
    }
}

#[tokio::test]
async fn a_caller_who_goes_at_any_poll_of_its_hook_loses_no_connection() {
    let upstream = Upstream::start();
    for drop_at in DROPS {
        for polls in 1..6 {
            let script = Script::default();
            let (pool, events) = pool_with(
                upstream.config().with_max_size(1),
                &Lines::default(),
                &[Hook::BeforeCheckout, Hook::AfterReturn],
                &script,
            );
            echo(&pool, "x").await;
            until_status(&pool, |now| now.idle == 1).await;
            drop(cut(async { pool.get().await.map(drop) }, polls, drop_at, |_| ()).await);
            until_status(&pool, |now| now.idle == 1 && now.in_use == 0).await;
            echo(&pool, "y").await;
            assert_eq!(events.closed(), [], "{drop_at:?} {polls}");
        }
    }
}

#[tokio::test]
async fn what_a_hook_left_to_a_caller_who_has_gone_is_reset_as_a_users() {
    let upstream = Upstream::start();
    // Nobody could mistake it for one that was not reset.
    let lines = Lines { reuse: Verdict::NeedsReset, reset: "HOLD".to_owned(), ..Lines::default() };
    let script = Script::default();
    let timeouts = Timeouts::default().with_reset(50 * MS);
    let config = upstream.config().with_timeouts(timeouts);
    let (pool, events) = pool_with(config, &lines, &[Hook::BeforeCheckout], &script);
    script.set(Hook::BeforeCheckout, Slow);
    let mut get = Box::pin(pool.get());
    let is_called = async {
        let called = || script.called().contains(&Hook::BeforeCheckout);
        until(called).await;
    };
    tokio::select! {
        biased;
        () = is_called => drop(get),
        _ = &mut get => panic!("it waits for its hook"),
    }
    assert_eq!(events.until_closed(1).await, [CloseReason::ResetFailed]);
}

#[tokio::test]
async fn a_hook_before_close_delays_nobody_and_is_bounded() {
    let upstream = Upstream::start();
    for does in [Fails, Panics, Hangs, Half] {
        let script = Script::default();
        script.set(Hook::BeforeClose, does);
        let (pool, events) =
            pool_with(unhurried(&upstream), &Lines::default(), &[Hook::BeforeClose], &script);
        let brief = limit(does, 50 * MS);
        pool.reconfigure(|config| config.timeouts.hook = Some(brief)).unwrap();
        echo(&pool, "x").await;
        pool.invalidate();
        assert_eq!((pool.status().ending, pool.status().idle), (1, 0), "{}", pool.status());
        echo(&pool, "y").await;
        // The one that ends has its place until then, and no longer.
        assert_eq!(events.until_closed(1).await, [CloseReason::Invalidated], "{does:?}");
        until_status(&pool, |now| now.ending == 0).await;
        let expected = if does == Half { vec![] } else { vec![Hook::BeforeClose] };
        let failed: Vec<_> = failures(&events).into_iter().map(|(hook, _)| hook).collect();
        assert_eq!(failed, expected, "{does:?}");
        pool.close();
        assert_eq!(events.until_closed(2).await[1], CloseReason::PoolClosed);
    }
    until(|| upstream.open() == 0).await;
}

#[tokio::test]
async fn a_connection_that_died_or_was_spoilt_is_closed_without_its_hook() {
    let upstream = Upstream::start();
    let script = Script::default();
    let (pool, events) =
        pool_with(unhurried(&upstream), &Lines::default(), &[Hook::BeforeClose], &script);
    echo(&pool, "x").await;
    upstream.order_all(&livepool_testkit::Order::Close);
    assert_eq!(events.until_closed(1).await, [CloseReason::PeerClosed]);
    pool.get().await.unwrap().discard();
    let client = pool.get().await.unwrap();
    drop(tokio::time::timeout(MS, client.ask("HOLD")).await);
    pool.close();
    drop(client);
    assert_eq!(events.until_closed(3).await.len(), 3);
    assert_eq!(script.called(), []);
}

#[test]
fn a_runtime_that_ends_in_the_middle_of_a_hook_closes_its_connection() {
    let upstream = Upstream::start();
    let script = Script::default();
    let config = upstream.config().with_max_size(2);
    let hooks = [Hook::BeforeClose, Hook::AfterReturn];
    script.set(Hook::BeforeClose, Hangs);
    let (pool, events) = pool_with(config, &Lines::default(), &hooks, &script);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        echo(&pool, "x").await;
        until_status(&pool, |now| now.idle == 1).await;
        pool.invalidate();
        script.set(Hook::AfterReturn, Hangs);
        script.called();
        echo(&pool, "y").await;
        until(|| script.called().contains(&Hook::AfterReturn)).await;
    });
    drop(runtime);
    assert_eq!(events.closed().len(), 2, "{:?}", events.closed());
    assert_eq!((pool.status().ending, pool.status().in_use), (0, 0), "{}", pool.status());
}

#[tokio::test]
async fn who_never_waits_gets_what_its_hook_does_without_waiting() {
    let upstream = Upstream::start();
    for waits in [false, true] {
        let pool = Pool::builder(upstream.config())
            .protocol(Lines::default())
            .before_checkout(move |_, _| {
                Box::pin(async move {
                    if waits {
                        tokio::time::sleep(MS).await;
                    }
                    Ok(())
                })
            })
            .build()
            .unwrap();
        echo(&pool, "x").await;
        assert_eq!(pool.try_get().is_some(), !waits);
        // The hook went on for the pool, and the connection is back.
        until_status(&pool, |now| now.idle == 1).await;
        echo(&pool, "y").await;
        assert_eq!(pool.status().idle, 1);
    }
}

#[tokio::test]
async fn those_who_share_a_connection_have_its_hook_run_once() {
    let upstream = Upstream::start();
    let script = Script::default();
    let (pool, events) =
        pool_with(unhurried(&upstream), &Lines::default(), &[Hook::BeforeCheckout], &script);
    let first = pool.share().await.unwrap();
    let second = pool.share().await.unwrap();
    assert_eq!(first.ask("ECHO a").await.unwrap(), "a");
    assert_eq!(second.ask("ECHO b").await.unwrap(), "b");
    assert_eq!(script.called(), [Hook::BeforeCheckout]);
    drop((first, second));
    until_status(&pool, |now| now.idle == 1).await;
    drop(pool.share().await.unwrap());
    assert_eq!((script.called(), events.closed()), (vec![Hook::BeforeCheckout], vec![]));
}

#[tokio::test]
async fn what_the_hook_after_connect_has_done_is_done_again_after_a_reset() {
    let upstream = Upstream::start();
    let script = Script::default();
    let (pool, events) =
        pool_with(unhurried(&upstream), &Lines::default(), &[Hook::AfterConnect], &script);
    let client = pool.get().await.unwrap();
    assert_eq!(client.ask("ECHO stain").await.unwrap(), "stain");
    drop(client);
    until_status(&pool, |now| now.idle == 1).await;
    assert_eq!(script.called(), [Hook::AfterConnect; 2]);
    // Who leaves nothing behind costs none.
    echo(&pool, "x").await;
    until_status(&pool, |now| now.idle == 1).await;
    assert_eq!((script.called(), events.closed()), (vec![], vec![]));
}

#[test]
fn hooks_that_would_never_run_are_refused() {
    let config = || Config::new("127.0.0.1:1");
    let lost = Pool::builder(config())
        .after_connect(|_, _| Box::pin(async { Ok(()) }))
        .protocol(Lines::default());
    let error = lost.build().unwrap_err().to_string();
    assert!(error.contains("give them after protocol(..)"), "{error}");
    let of_deadpool = Pool::builder(config())
        .before_checkout(|_, _| Box::pin(async { Ok(()) }))
        .after_return(|_, _| Box::pin(async { Ok(()) }))
        .before_close(|_, _| Box::pin(async { Ok(()) }));
    let error = of_deadpool.build_manager().unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["before_checkout", "after_return"]);
}

/// Its task outlives its client, as one does that waits for an answer.
struct Stubborn;

impl Protocol for Stubborn {
    type Client = ();
    type Error = std::io::Error;

    async fn connect(&self, mut wire: Wire) -> std::io::Result<()> {
        tokio::spawn(async move { wire.read_u8().await });
        Ok(())
    }

    async fn ping(&self, _: &mut ()) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_connection_whose_hook_fails_or_is_given_up_is_closed_whatever_its_task_waits_for() {
    let upstream = Upstream::start();
    for hangs in [false, true] {
        let builder = Pool::builder(unhurried(&upstream)).protocol(Stubborn);
        let pool = builder.after_connect(move |(), _| {
            Box::pin(async move {
                match hangs {
                    true => std::future::pending().await,
                    false => Err("not this one".into()),
                }
            })
        });
        let pool = pool.build().unwrap();
        let before = upstream.accepted();
        let caller = tokio::spawn({
            let pool = pool.clone();
            async move { pool.get_by(Instant::now() + SECOND / 4).await.map(drop) }
        });
        until(|| upstream.accepted() > before).await;
        caller.await.unwrap().unwrap_err();
        pool.close();
        drop(pool);
        until(|| upstream.open() == 0).await;
    }
}

#[tokio::test]
async fn the_hook_before_close_is_not_run_over_what_a_user_has_spoilt() {
    let upstream = Upstream::start();
    for end in [Pool::invalidate, Pool::pause, Pool::close] {
        let script = Script::default();
        let config = unhurried(&upstream);
        let (pool, events) = pool_with(config, &Lines::default(), &[Hook::BeforeClose], &script);
        let client = pool.get().await.unwrap();
        // A reset is due.
        assert_eq!(client.ask("ECHO stain").await.unwrap(), "stain");
        end(&pool);
        drop(client);
        let [reason] = events.until_closed(1).await[..] else { panic!() };
        use CloseReason::{Invalidated, Paused, PoolClosed};
        assert!(matches!(reason, Invalidated | Paused | PoolClosed), "{reason}");
        assert_eq!(script.called(), []);
    }
}
