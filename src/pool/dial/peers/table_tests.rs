use super::*;

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(250);
const ABSENCE: Duration = Duration::from_secs(30);
const NOBODY: Demand = Demand::Nobody;
const WAITING: Demand = Demand::Callers(None);

fn rules() -> Rules {
    Rules { backoff: Backoff::default(), patience: PATIENCE, absence: ABSENCE }
}

fn addr(last: u8) -> PeerAddr {
    PeerAddr::Tcp(([10, 0, 0, last], 1).into())
}

/// A table whose pauses are at most as long as the bound, and the peers at these addresses.
fn table(addrs: &[u8]) -> Table {
    let mut table = Table::new(rules(), 0);
    let addrs: Vec<_> = addrs.iter().copied().map(addr).collect();
    assert_eq!(table.resolved(0, &addrs, Instant::now()), []);
    table
}

fn open(table: &mut Table, last: u8, connections: usize) {
    table.find(&addr(last)).unwrap().open.store(connections, std::sync::atomic::Ordering::SeqCst);
}

fn state(table: &Table, last: u8) -> PeerState {
    table.states().find(|(peer, _)| peer.addr == addr(last)).unwrap().1
}

fn ordered(table: &mut Table, addrs: &[u8], now: Instant) -> Vec<PeerAddr> {
    let mut addrs: Vec<_> = addrs.iter().copied().map(addr).collect();
    table.order(&mut addrs, now);
    addrs
}

#[test]
fn the_peer_with_the_fewest_connections_comes_first_and_equals_keep_their_order() {
    let mut table = table(&[1, 2, 3]);
    open(&mut table, 1, 2);
    assert_eq!(ordered(&mut table, &[1, 3, 2], Instant::now()), [addr(3), addr(2), addr(1)]);
}

#[test]
fn an_attempt_under_way_counts_like_a_connection() {
    let mut table = table(&[1, 2]);
    table.find(&addr(1)).unwrap().attempts.store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ordered(&mut table, &[1, 2], Instant::now()), [addr(2), addr(1)]);
}

#[test]
fn two_silent_deaths_and_one_patience_without_a_sign_of_life_eject_a_peer() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    open(&mut table, 1, 3);
    assert_eq!(table.died(&addr(1), now).unwrap().to, PeerState::Suspect);
    assert_eq!(table.died(&addr(1), now), None);
    assert_eq!(table.judge(now), [], "its siblings have just been asked");
    assert_eq!(table.next_judgement(now), Some(now + PATIENCE));
    let ejected = table.judge(now + PATIENCE);
    assert_eq!(ejected.iter().map(|change| change.to).collect::<Vec<_>>(), [PeerState::Ejected]);
    assert_eq!(ordered(&mut table, &[1, 2], now + PATIENCE), [addr(2), addr(1)]);
}

#[test]
fn one_death_among_several_ejects_nobody() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    open(&mut table, 1, 2);
    table.died(&addr(1), now);
    assert_eq!(table.judge(now + 100 * PATIENCE), []);
    assert_eq!(table.next_judgement(now + 100 * PATIENCE), None, "time alone changes nothing");
}

#[test]
fn the_death_of_the_only_connection_ejects_at_once() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    table.died(&addr(1), now);
    assert_eq!(table.judge(now).len(), 1);
}

#[test]
fn a_sibling_that_is_heard_clears_the_suspicion_and_an_old_sign_of_life_does_not() {
    let start = Instant::now();
    let now = start + 10_000 * MS;
    let mut table = table(&[1, 2]);
    open(&mut table, 1, 3);
    table.died(&addr(1), now);
    table.died(&addr(1), now);
    assert_eq!(table.heard(&addr(1), now - 1001 * MS), None);
    assert_eq!(table.heard(&addr(1), now + MS).unwrap().to, PeerState::Healthy);
    assert_eq!(table.judge(now + PATIENCE), []);
    table.died(&addr(1), now + PATIENCE);
    assert_eq!(table.judge(now + 3 * PATIENCE), [], "deaths before it no longer count");
}

#[test]
fn the_last_peer_is_never_ejected() {
    let now = Instant::now();
    let mut alone = table(&[1]);
    alone.died(&addr(1), now);
    alone.died(&addr(1), now);
    assert_eq!(alone.judge(now + PATIENCE), []);
    assert_eq!(state(&alone, 1), PeerState::Suspect);
    assert_eq!(alone.may_dial(now, NOBODY), Ok(usize::MAX));

    let mut both = table(&[1, 2]);
    for last in [1, 2] {
        both.died(&addr(last), now);
    }
    assert_eq!(both.judge(now).len(), 1, "the second one is now the last");

    let mut other_refuses = table(&[1, 2]);
    other_refuses.refused(&addr(2), now, now);
    other_refuses.died(&addr(1), now);
    assert_eq!(other_refuses.judge(now), [], "there is nothing to go to");
}

#[test]
fn an_ejected_peer_is_tried_again_by_one_dial_and_is_back_when_it_succeeds() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    table.died(&addr(1), now);
    table.judge(now);
    let due = table.next_try().unwrap();
    assert!(due > now && due <= now + 50 * MS);
    assert_eq!(table.try_again(now), None);
    assert_eq!(table.try_again(due).unwrap().0, addr(1));
    assert_eq!(table.try_again(due), None, "one at a time");
    assert_eq!(table.refused(&addr(1), due, due).unwrap().to, PeerState::Ejected);
    let due = table.next_try().unwrap();
    assert_eq!(table.try_again(due).unwrap().0, addr(1));
    assert_eq!(table.connected(&addr(1), now, now).unwrap().to, PeerState::Healthy);
    assert_eq!(table.next_try(), None);
}

#[test]
fn a_trial_that_was_given_up_leaves_the_peer_ejected() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    table.died(&addr(1), now);
    table.judge(now);
    table.try_again(now + 50 * MS).unwrap();
    assert_eq!(table.given_up(&addr(1)).unwrap().to, PeerState::Ejected);
}

#[test]
fn a_refusal_backs_off_and_kills_nothing() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    open(&mut table, 2, 5);
    let before = table.find(&addr(1)).unwrap().generation.now();
    assert_eq!(table.refused(&addr(1), now, now), None);
    assert_eq!(state(&table, 1), PeerState::Healthy);
    assert_eq!(table.find(&addr(1)).unwrap().generation.now(), before);
    assert_eq!(ordered(&mut table, &[1, 2], now), [addr(2), addr(1)]);
    assert_eq!(table.may_dial(now, NOBODY), Ok(usize::MAX), "there is another one");
    table.refused(&addr(2), now, now);
    let at = table.may_dial(now, NOBODY).unwrap_err();
    assert!(at > now && at <= now + 50 * MS);
    assert_eq!(table.may_dial(at, NOBODY), Ok(1), "one finds out");
    table.connected(&addr(2), at, at);
    assert_eq!(table.may_dial(at, NOBODY), Ok(usize::MAX));
}

#[test]
fn dials_that_fail_together_are_one_failure() {
    let now = Instant::now();
    let mut table = table(&[1]);
    for ms in 1..20 {
        table.refused(&addr(1), now, now + ms * MS);
    }
    assert!(table.may_dial(now + (1 + 50) * MS, NOBODY).is_ok());
}

/// Three answers without the first address, over the time it has to be missing.
fn miss(table: &mut Table, now: Instant) -> Vec<Change> {
    for at in [now, now + ABSENCE / 2] {
        assert_eq!(table.resolved(0, &[addr(2)], at), []);
    }
    table.resolved(0, &[addr(2)], now + ABSENCE)
}

#[test]
fn an_address_that_is_missing_in_three_answers_is_drained_and_one_that_is_back_is_used() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    open(&mut table, 1, 1);
    assert_eq!(table.resolved(0, &[addr(2)], now), []);
    assert_eq!(table.resolved(0, &[addr(1), addr(2)], now + ABSENCE), [], "it begins anew");
    assert_eq!(miss(&mut table, now + 2 * ABSENCE)[0].to, PeerState::Draining);
    let back = table.resolved(0, &[addr(1)], now + 4 * ABSENCE);
    assert_eq!(back[0].to, PeerState::Healthy);
}

#[test]
fn the_same_answer_to_many_dials_at_a_time_drains_nobody() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    for _ in 0..100 {
        assert_eq!(table.resolved(0, &[addr(2)], now), []);
    }
}

#[test]
fn a_drained_address_without_connections_is_forgotten() {
    let mut table = table(&[1, 2]);
    miss(&mut table, Instant::now());
    assert_eq!(table.states().count(), 1);
}

#[test]
fn an_address_that_another_name_still_leads_to_is_not_drained() {
    let now = Instant::now();
    let mut table = table(&[1]);
    table.resolved(1, &[addr(1)], now);
    for minute in 0..9 {
        assert_eq!(table.resolved(0, &[addr(2)], now + minute * 2 * ABSENCE), []);
    }
}

#[test]
fn a_name_that_cannot_be_looked_up_is_not_asked_for_without_pause() {
    let now = Instant::now();
    let mut table = table(&[1]);
    table.lost_its_way(now, now);
    let at = table.may_dial(now, NOBODY).unwrap_err();
    assert!(at <= now + 50 * MS);
    table.resolved(0, &[addr(1)], now);
    assert_eq!(table.may_dial(now, NOBODY), Ok(usize::MAX));
}

#[test]
fn a_connection_that_is_ended_before_one_byte_of_use_is_a_dial_that_failed() {
    let now = Instant::now();
    let mut table = table(&[1]);
    let mut at = now;
    for failures in 1..9 {
        table.connected(&addr(1), at, at);
        table.ended_unused(&addr(1), at, at);
        // Two that were under way together end together.
        table.ended_unused(&addr(1), at - MS, at + MS);
        assert_eq!(table.row(&addr(1)).unwrap().failures, failures);
        let due = table.may_dial(at, WAITING).unwrap_err();
        assert!(due > at && due <= at + 200 * MS);
        assert_eq!(table.may_dial(due, WAITING), Ok(1));
        at = due;
    }
    table.connected(&addr(1), at, at);
    assert!(table.may_dial(at, WAITING).is_err(), "this one may be ended, too");
    table.used_well(&addr(1));
    assert_eq!(table.may_dial(at, WAITING), Ok(usize::MAX));
}

#[test]
fn callers_wait_for_a_short_pause_where_nobody_waits_for_a_long_one() {
    let now = Instant::now();
    let mut table = table(&[1]);
    let mut at = now;
    for _ in 0..12 {
        table.refused(&addr(1), at, at + MS);
        at += 10_000 * MS;
    }
    let last = at - 10_000 * MS;
    assert!(table.may_dial(last + 200 * MS, WAITING).is_ok());
    // Drawn from 5 s: a share below a twentieth would be over by then, so the order is what holds.
    let waiting = table.may_dial(last, WAITING).unwrap_err();
    let nobody = table.may_dial(last, NOBODY).unwrap_err();
    assert!(waiting < nobody && nobody <= last + 5_001 * MS);
}

#[test]
fn of_thousands_of_addresses_a_thousand_are_taken_in_and_four_thousand_remembered() {
    let now = Instant::now();
    let mut table = table(&[1]);
    open(&mut table, 1, 1);
    let many = |answer: u32| -> Vec<PeerAddr> {
        let ip = |host: u32| std::net::Ipv4Addr::from(0x0b00_0000 + answer * 0x1_0000 + host);
        (0..4_000).map(|host| PeerAddr::Tcp((ip(host), 1).into())).collect()
    };
    // The quickest of each counts: the machine may have other work.
    let (mut table_took, mut linear_took) = (Duration::MAX, Duration::MAX);
    for answer in 0..20 {
        let began = std::time::Instant::now();
        let mut addrs = many(answer);
        table.resolved(0, &addrs, now);
        assert!(table.states().count() <= MOST_PEERS, "{}", table.states().count());
        // Those that were not taken in are tried last.
        table.order(&mut addrs, now);
        assert!(table.find(&addrs[0]).is_some() && table.find(&addrs[999]).is_some());
        assert!(table.find(&addrs[1_000]).is_none());
        table_took = table_took.min(began.elapsed());
        let began = std::time::Instant::now();
        for addr in &addrs {
            std::hint::black_box(addrs[..1_000].iter().position(|known| known == addr));
        }
        linear_took = linear_took.min(began.elapsed());
    }
    assert!(table.find(&addr(1)).is_some(), "it has a connection");
    assert!(table_took < linear_took / 2, "{table_took:?}, a linear search {linear_took:?}");
}

#[test]
fn what_happens_to_an_address_that_was_forgotten_makes_it_no_peer_again() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    miss(&mut table, now);
    assert_eq!((table.died(&addr(1), now), table.connected(&addr(1), now, now)), (None, None));
    assert_eq!((table.refused(&addr(1), now, now), table.heard(&addr(1), now)), (None, None));
    assert!(table.find(&addr(1)).is_none());
}

#[test]
fn the_longest_times_that_may_be_configured_go_beyond_no_clock() {
    let (now, year) = (Instant::now(), Duration::from_secs(365 * 86_400));
    let backoff = Backoff::default().with_first(year).with_most(year).with_while_waiting(year);
    let mut table = Table::new(Rules { backoff, patience: year, absence: year }, 0);
    table.resolved(0, &[addr(1), addr(2)], now);
    table.refused(&addr(2), now, now);
    table.lost_its_way(now, now);
    for at in [now, now + year] {
        table.died(&addr(1), at);
        table.ended_unused(&addr(2), at, at);
        for demand in [NOBODY, WAITING] {
            let _ = table.may_dial(at, demand);
        }
        let _ = (table.next_judgement(at), table.judge(at), table.next_try(), table.try_again(at));
    }
}

#[test]
fn a_use_that_began_before_its_peer_was_ejected_does_not_end_its_trials() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    open(&mut table, 1, 3);
    // One that was idle ended unused; then the others died, but for one that is still in use.
    table.ended_unused(&addr(1), now, now);
    table.died(&addr(1), now);
    table.died(&addr(1), now);
    assert_eq!(table.judge(now + PATIENCE).len(), 1);
    table.used_well(&addr(1));
    assert_eq!(state(&table, 1), PeerState::Ejected);
    let at = table.next_try().expect("it is tried again");
    assert_eq!(table.try_again(at).unwrap().0, addr(1));
    table.used_well(&addr(1));
    table.given_up(&addr(1));
    assert!(table.next_try().is_some(), "and once more");
}

#[test]
fn the_endpoint_that_leads_to_an_address_is_that_of_the_last_answers() {
    let now = Instant::now();
    let mut table = table(&[1, 2]);
    assert_eq!(table.endpoint_of(&addr(2)), Some(0));
    assert_eq!(table.endpoint_of(&addr(9)), None);
    table.resolved(3, &[addr(2)], now);
    table.resolved(0, &[addr(1)], now);
    assert_eq!((table.endpoint_of(&addr(1)), table.endpoint_of(&addr(2))), (Some(0), Some(3)));
}
