use futures_util::FutureExt;

use super::*;

fn join(wait_queue: &WaitQueue) -> Waiter<'_> {
    wait_queue.join(Instant::now(), None, None, Wants::Lease, Location::caller()).unwrap()
}

fn outcome(waiter: &Waiter<'_>) -> Option<CheckoutFailure> {
    waiter.called(|| {}).now_or_never().map(|result| result.unwrap_err().failure)
}

/// Calls the first one.
fn call(wait_queue: &WaitQueue) -> bool {
    wait_queue.give(Err(CheckoutFailure::Connect.into())).is_ok()
}

#[test]
fn callers_are_called_in_order_of_arrival() {
    let wait_queue = WaitQueue::default();
    let (first, second) = (join(&wait_queue), join(&wait_queue));
    assert!(call(&wait_queue));
    assert_eq!(outcome(&second), None);
    assert_eq!(outcome(&first), Some(CheckoutFailure::Connect));
    assert_eq!(wait_queue.waiting(), 1);
    assert!(call(&wait_queue));
    assert_eq!(outcome(&second), Some(CheckoutFailure::Connect));
    assert!(wait_queue.is_empty() && !call(&wait_queue));
}

#[test]
fn a_caller_who_leaves_is_passed_over() {
    let wait_queue = WaitQueue::default();
    let (first, second) = (join(&wait_queue), join(&wait_queue));
    drop(first);
    assert!(call(&wait_queue));
    assert!(outcome(&second).is_some());
    assert!(!call(&wait_queue), "nobody is there to take it");
}

#[test]
fn a_caller_who_comes_back_has_the_place_it_had() {
    let wait_queue = WaitQueue::default();
    let start = Instant::now();
    let later = start + std::time::Duration::from_secs(1);
    let second = wait_queue.join(later, None, None, Wants::Lease, Location::caller()).unwrap();
    let first = wait_queue.rejoin(start, None, Wants::Lease, Location::caller());
    assert!(call(&wait_queue));
    assert!(outcome(&first).is_some() && outcome(&second).is_none());
}

#[test]
fn a_full_line_lets_nobody_join() {
    let wait_queue = WaitQueue::default();
    let waiter =
        wait_queue.join(Instant::now(), None, Some(1), Wants::Lease, Location::caller()).unwrap();
    assert!(
        wait_queue.join(Instant::now(), None, Some(1), Wants::Lease, Location::caller()).is_none()
    );
    drop(waiter);
    assert!(
        wait_queue.join(Instant::now(), None, Some(1), Wants::Lease, Location::caller()).is_some()
    );
}

#[test]
fn those_who_left_do_not_pile_up_behind_one_who_waits() {
    let wait_queue = WaitQueue::default();
    let _first = join(&wait_queue);
    for _ in 0..10_000 {
        drop(join(&wait_queue));
    }
    assert!(wait_queue.queue().callers.len() < 100);
    assert_eq!(wait_queue.waiting(), 1);
}

#[test]
fn the_first_deadline_is_that_of_somebody_who_waits() {
    let wait_queue = WaitQueue::default();
    let start = Instant::now();
    let at = |seconds| start + std::time::Duration::from_secs(seconds);
    let waiters = [9, 3, 5].map(|n| {
        wait_queue.join(start, Some(at(n)), None, Wants::Lease, Location::caller()).unwrap()
    });
    let _forever = wait_queue.join(start, None, None, Wants::Lease, Location::caller()).unwrap();
    assert_eq!(wait_queue.first_deadline(start), Some(at(3)));
    let [nine, three, five] = waiters;
    drop((three, nine));
    assert_eq!(wait_queue.first_deadline(at(3)), Some(at(5)), "the other two have gone");
    drop(five);
    assert_eq!(wait_queue.first_deadline(at(5)), None);
}

#[test]
fn callers_are_counted_by_how_long_they_wait() {
    let wait_queue = WaitQueue::default();
    let start = Instant::now();
    let at = |seconds| start + std::time::Duration::from_secs(seconds);
    let waiters: Vec<_> = (0..4)
        .map(|n| wait_queue.join(at(n), None, None, Wants::Lease, Location::caller()).unwrap())
        .collect();
    assert_eq!(wait_queue.since(at(1)), (2, Some(at(2))));
    drop(waiters);
    assert_eq!(wait_queue.since(at(9)), (0, None));
}

#[test]
fn those_who_want_a_connection_of_their_own_are_counted_in_front_of_the_first_who_shares() {
    let wait_queue = WaitQueue::default();
    let join =
        |wants| wait_queue.join(Instant::now(), None, None, wants, Location::caller()).unwrap();
    assert_eq!((wait_queue.sharing(), wait_queue.in_front_of_sharers()), (0, 0));
    let (first, second) = (join(Wants::Lease), join(Wants::Lease));
    let (share, _last) = (join(Wants::Share), join(Wants::Lease));
    assert_eq!((wait_queue.sharing(), wait_queue.in_front_of_sharers()), (1, 2));
    drop(first);
    assert_eq!(wait_queue.in_front_of_sharers(), 1);
    assert!(call(&wait_queue) && call(&wait_queue), "in order of arrival, whatever they want");
    assert!(outcome(&second).is_some() && outcome(&share).is_some());
    assert_eq!((wait_queue.sharing(), wait_queue.waiting()), (0, 1));
}
