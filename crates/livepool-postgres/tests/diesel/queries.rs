//! What diesel does over a guard, and what the next user finds.

use super::*;

use diesel_async::AnsiTransactionManager;
use diesel_async::TransactionManager;
use futures_util::TryStreamExt;
use livepool_testkit::until_status;

#[derive(Debug, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = orders)]
struct Order {
    id: i64,
    customer: String,
    amount: i32,
}

fn order(id: i64, customer: &str, amount: i32) -> Order {
    Order { id, customer: customer.to_owned(), amount }
}

#[tokio::test]
async fn queries_of_a_schema_and_transactions_run_over_a_guard() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let mut conn = pool.get().await.unwrap();
    let all = vec![order(1, "ann", 10), order(2, "bob", 20), order(3, "ann", 30)];
    diesel::insert_into(orders::table).values(&all).execute(&mut conn).await.unwrap();
    let of_ann = orders::table.filter(orders::customer.eq("ann")).order(orders::id.desc());
    let found: Vec<Order> = of_ann.select(Order::as_select()).load(&mut conn).await.unwrap();
    assert_eq!(found, [order(3, "ann", 30), order(1, "ann", 10)]);

    // The closure's connection is the guard; a transaction inside it is a savepoint.
    let sum = conn
        .transaction(async |conn| {
            diesel::update(orders::table.find(1)).set(orders::amount.eq(11)).execute(conn).await?;
            let inner: QueryResult<()> = conn
                .transaction(async |conn| {
                    diesel::delete(orders::table).execute(conn).await?;
                    Err(diesel::result::Error::RollbackTransaction)
                })
                .await;
            assert_eq!(inner, Err(diesel::result::Error::RollbackTransaction));
            let amounts = orders::table.select(orders::amount).load::<i32>(conn).await?;
            QueryResult::Ok(amounts.into_iter().sum::<i32>())
        })
        .await;
    assert_eq!(sum, Ok(61));
    // What is diesel's own on its own type is a dereference away.
    let own: &mut AsyncPgConnection = &mut conn;
    let mut transaction = own.build_transaction().serializable();
    let level = transaction.run(async |conn| {
        sql::<Text>("SHOW transaction_isolation").get_result::<String>(conn).await
    });
    assert_eq!(level.await.unwrap(), "serializable");
    // Several at once, on one session.
    let (mut a, mut b) = (&**conn, &**conn);
    let a = diesel::select(1.into_sql::<Integer>()).get_result::<i32>(&mut a);
    let b = diesel::select(2.into_sql::<Integer>()).get_result::<i32>(&mut b);
    assert_eq!(futures_util::try_join!(a, b).unwrap(), (1, 2));
    drop(conn);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

/// Without that, what `timestamp` means would depend on who had the session before.
#[tokio::test]
async fn the_settings_of_diesel_are_there_for_every_user_and_those_of_users_are_not() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let zone = async || {
        let mut conn = pool.get().await.unwrap();
        let zone: String = sql::<Text>("SHOW timezone").get_result(&mut conn).await.unwrap();
        (zone, pid(&mut conn).await)
    };
    // What diesel sets when a session begins is nobody's doing: it costs no reset.
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, 1).await, Ok(1));
    assert_eq!(conn.release(), livepool::Release::Reused);
    let (first, backend) = zone().await;
    assert_eq!(first, "UTC");
    let mut conn = pool.get().await.unwrap();
    conn.batch_execute("SET TIME ZONE 'Europe/Vienna'; SET work_mem = '1MB'").await.unwrap();
    drop(conn);
    assert_eq!(zone().await, ("UTC".to_owned(), backend));
    assert_eq!(zone().await, ("UTC".to_owned(), backend));
    // Nor does what is set again after one.
    let mut conn = pool.get().await.unwrap();
    assert_eq!(echo(&mut conn, 1).await, Ok(1));
    assert_eq!(conn.release(), livepool::Release::Reused);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn a_transaction_that_was_ended_behind_the_back_of_diesel_is_not_the_next_users() {
    let server = server();
    let (pool, events) = pool(&server, one);
    for end in ["COMMIT", "ROLLBACK"] {
        let mut conn = pool.get().await.unwrap();
        AnsiTransactionManager::begin_transaction(&mut **conn).await.unwrap();
        conn.batch_execute(end).await.unwrap();
        drop(conn);
        let mut conn = pool.get().await.unwrap();
        // As a savepoint it would fail.
        conn.transaction(async |conn| insert(conn, 1).await).await.unwrap();
        diesel::delete(orders::table).execute(&mut conn).await.unwrap();
    }
    // One that was begun by hand, and left.
    let mut conn = pool.get().await.unwrap();
    AnsiTransactionManager::begin_transaction(&mut **conn).await.unwrap();
    insert(&mut conn, 2).await.unwrap();
    drop(conn);
    assert_eq!(count(&mut pool.get().await.unwrap()).await, 0);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn rows_that_are_read_one_by_one_and_dropped_half_way_are_nobody_elses() {
    let server = server();
    let (pool, events) = pool(&server, one);
    for number in 0..20 {
        let mut conn = pool.get().await.unwrap();
        let many = "SELECT n FROM generate_series(1::int8, 100000) AS n";
        let mut rows = sql::<BigInt>(many).load_stream::<i64>(&mut conn).await.unwrap();
        assert_eq!(rows.try_next().await, Ok(Some(1)));
        assert_eq!(rows.try_next().await, Ok(Some(2)));
        drop((rows, conn));
        let mut conn = pool.get().await.unwrap();
        assert_eq!(echo(&mut conn, number).await, Ok(number));
    }
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}

#[tokio::test]
async fn notifications_and_the_right_to_cancel_are_those_of_the_pool() {
    let server = server();
    let (pool, events) = pool(&server, one);
    let mut conn = pool.get().await.unwrap();
    let mut notifications = conn.notifications();
    conn.batch_execute("LISTEN jobs; NOTIFY jobs, 'seven'").await.unwrap();
    assert_eq!(notifications.recv().await.unwrap().payload(), "seven");
    let token = conn.cancel_token();
    let asked = conn.batch_execute("SELECT pg_sleep(41)");
    let (asked, cancelled) = tokio::join!(asked, async {
        tokio::time::sleep(SECOND).await;
        token.cancel().await
    });
    cancelled.unwrap();
    assert!(asked.unwrap_err().to_string().contains("due to user request"));
    drop(conn);
    until_status(&pool, |now| now.idle == 1).await;
    // The next one inherits no subscription.
    let mut conn = pool.get().await.unwrap();
    let listens = "SELECT EXISTS (SELECT FROM pg_listening_channels())";
    assert_eq!(sql::<Bool>(listens).get_result(&mut conn).await, Ok(false));
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
}
