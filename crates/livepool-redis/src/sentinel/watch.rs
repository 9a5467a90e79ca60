//! [`Watch`]: asks the sentinels, follows what they publish, and has the pool leave a master that is none
//! any more.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{Pipeline, Value};
use livepool::net::PeerAddr;
use livepool::{
    BoxFuture, Config, ConfigError, Delivery, Pool, Resolve, SubscriptionConfig, Timeouts, WeakPool,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::SentinelError;
use super::said::{self, Answer, Known, News, Place, Switch};
use crate::numbers::{Number, Numbers};
use crate::settings::{Redis, Role};

/// So many sentinels are asked and followed: those that were given, and others that these know.
pub(super) const MOST_SENTINELS: usize = 16;
/// So long the others are waited for once one sentinel has answered.
const GRACE: Duration = Duration::from_millis(250);
/// So often the sentinels are asked though nothing has happened, for other sentinels too.
const LOOK: Duration = Duration::from_secs(10);
/// The pause before a sentinel that could not be followed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The sentinels of one pool.
pub(super) struct Watch {
    master: String,
    /// The name of the pool.
    pool_name: String,
    /// Of the sentinels, for their names.
    numbers: Numbers,
    /// The pool is of this kind of server.
    role: Role,
    timeout: Duration,
    /// How sentinels are reached that were not given: as the first one that was.
    template: Redis,
    /// No two lead to the same address. Read and replaced under this lock, nothing else.
    sentinels: Mutex<Vec<Arc<One>>>,
    known: Mutex<Known>,
    pool: OnceLock<WeakPool<Redis>>,
    /// Something was said after which the sentinels have to be asked.
    doubt: Notify,
}

/// One sentinel.
struct One {
    name: String,
    was_given: bool,
    pool: Pool<Redis>,
    /// Where its last connection led to.
    addr: Mutex<Option<PeerAddr>>,
    _number: Number,
}

/// What one sentinel answered.
struct Heard {
    answer: Answer,
    replicas: Vec<Place>,
}

impl Watch {
    pub(super) fn new(
        master: String,
        pool_name: String,
        role: Role,
        timeout: Duration,
        given: &[Redis],
    ) -> Result<Arc<Self>, ConfigError> {
        let numbers = Numbers::default();
        let all = given.iter().take(MOST_SENTINELS);
        let sentinels =
            all.map(|redis| One::new(&pool_name, numbers.take(), redis.clone(), timeout, true));
        let sentinels = sentinels.collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Self {
            role,
            timeout,
            template: given[0].clone(),
            sentinels: Mutex::new(sentinels),
            known: Mutex::default(),
            pool: OnceLock::new(),
            doubt: Notify::new(),
            master,
            pool_name,
            numbers,
        }))
    }

    /// From now on this pool is told.
    pub(super) fn attach(&self, pool: &Pool<Redis>) {
        let _ = self.pool.set(pool.downgrade());
    }

    fn sentinels(&self) -> Vec<Arc<One>> {
        lock(&self.sentinels).clone()
    }

    /// The servers to connect to: the master, or its replicas.
    ///
    /// Of masters no other than the one of the last failover: an old one that was not told yet says that it
    /// is a master, and takes writes that will be lost.
    async fn places(self: &Arc<Self>) -> Result<Vec<Place>, SentinelError> {
        let (heard, sentinels) = self.ask().await?;
        let answers: Vec<Answer> = heard.iter().map(|heard| heard.answer.clone()).collect();
        // What is known may be newer than what those say who could be asked.
        let Some(master) = self.learn(&answers, sentinels) else {
            return Err(SentinelError::unknown(&self.master, Vec::new()));
        };
        if self.role != Role::Replica {
            return Ok(vec![master]);
        }
        let mut replicas: Vec<Place> = Vec::new();
        for heard in heard.iter().filter(|heard| heard.answer.place == master) {
            for place in &heard.replicas {
                if *place != master && !replicas.contains(place) {
                    replicas.push(place.clone());
                }
            }
        }
        match replicas.is_empty() {
            true => Err(SentinelError::no_replica(&self.master)),
            false => Ok(replicas),
        }
    }

    /// Takes in what was answered, and has the pool leave a master that is none any more. Returns what is
    /// known.
    fn learn(&self, answers: &[Answer], sentinels: usize) -> Option<Place> {
        let ranked = said::rank(answers);
        let (news, known) = {
            let mut known = lock(&self.known);
            let news = ranked.first().map(|first| {
                let is_agreed = said::is_agreed(first, answers, sentinels);
                known.answered(first, is_agreed, Instant::now())
            });
            (news, known.place().cloned())
        };
        if news == Some(News::Moved) {
            self.moved();
        }
        known
    }

    /// The master is another one. No connection of today is of use.
    fn moved(&self) {
        let Some(pool) = self.pool.get().and_then(WeakPool::upgrade) else { return };
        match self.role {
            // Those who read from a replica may go on.
            Role::Replica => pool.invalidate(),
            // What is written there now is lost, and who waits there may wait for ever.
            _ => pool.invalidate_and_interrupt(),
        }
    }

    /// Asks all sentinels at once, until a majority agrees, or all have answered, or one has and the
    /// others had a moment more. Returns the answers, and the number of those who were asked.
    async fn ask(self: &Arc<Self>) -> Result<(Vec<Heard>, usize), SentinelError> {
        let sentinels = self.sentinels();
        let (tell, mut told) = mpsc::channel(sentinels.len());
        for one in &sentinels {
            let (watch, one, tell) = (Arc::clone(self), Arc::clone(one), tell.clone());
            // A task: the question to one who is silent goes on to its end, which is within a limit and
            // closes the connection, though nobody waits for it any more.
            tokio::spawn(async move {
                let heard = watch.question(&one).await;
                let _ = tell.send((one.name.clone(), heard)).await;
            });
        }
        drop(tell);
        let known = lock(&self.known).epoch();
        let (mut heard, mut failed) = (Vec::<Heard>::new(), Vec::new());
        let mut end: Option<Instant> = None;
        loop {
            let next = match end {
                None => told.recv().await,
                Some(end) => timeout_at(end, told.recv()).await.unwrap_or_default(),
            };
            match next {
                None if heard.is_empty() => {
                    return Err(SentinelError::unknown(&self.master, failed));
                }
                None => break,
                Some((name, Err(said))) => failed.push((name, said)),
                Some((_, Ok(one))) => {
                    heard.push(one);
                    let answers: Vec<_> = heard.iter().map(|heard| heard.answer.clone()).collect();
                    if said::is_settled(&answers, sentinels.len(), known) {
                        break;
                    }
                    end.get_or_insert(Instant::now() + GRACE);
                }
            }
        }
        Ok((heard, sentinels.len()))
    }

    /// Asks one sentinel. Bounded by twice the timeout: one for a connection, one for the answers.
    async fn question(&self, one: &One) -> Result<Heard, String> {
        let mut questions = ::redis::pipe();
        questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        questions.cmd("SENTINEL").arg("MASTER").arg(&self.master);
        if self.role == Role::Replica {
            questions.cmd("SENTINEL").arg("REPLICAS").arg(&self.master);
        }
        let answers = one.ask(&questions, self.timeout).await?;
        let [place, state, rest @ ..] = &answers[..] else {
            return Err("it does not answer all questions".to_owned());
        };
        let place = said::master(place)?.ok_or_else(|| NO_SUCH_MASTER.to_owned())?;
        let replicas = match rest.first() {
            Some(replicas) => said::servers(replicas)?.up,
            None => Vec::new(),
        };
        Ok(Heard { answer: Answer { place, epoch: said::epoch(state) }, replicas })
    }

    /// Asks the sentinels where the master is, and who the other sentinels are.
    async fn look(self: &Arc<Self>) {
        if let Ok((heard, sentinels)) = self.ask().await {
            let answers: Vec<Answer> = heard.into_iter().map(|heard| heard.answer).collect();
            self.learn(&answers, sentinels);
        }
        let mut question = ::redis::pipe();
        question.cmd("SENTINEL").arg("SENTINELS").arg(&self.master);
        for one in self.sentinels() {
            let Ok(answers) = one.ask(&question, self.timeout).await else { continue };
            if let Some(Ok(others)) = answers.first().map(said::servers) {
                // One that is down may be so for this sentinel only, or soon be up.
                return self.take_over(&[others.up, others.down].concat());
            }
        }
    }

    /// These are the other sentinels. Those that were given are kept in any case.
    fn take_over(&self, others: &[Place]) {
        let before = self.sentinels();
        let given = before.iter().filter(|one| one.was_given).cloned();
        let mut now: Vec<Arc<One>> = given.collect();
        let found: Vec<_> = now.iter().filter_map(|one| lock(&one.addr).clone()).collect();
        for place in others {
            let name = place.upstream();
            let addr = name.parse().ok().map(PeerAddr::Tcp);
            let is_known = now.iter().any(|one| one.name == name)
                || addr.is_some_and(|addr| found.contains(&addr));
            if is_known || now.len() >= MOST_SENTINELS {
                continue;
            }
            if let Some(one) = before.iter().find(|one| one.name == name) {
                now.push(Arc::clone(one));
            } else {
                let redis = self.template.clone().at(name);
                // No address: then nobody can ask there.
                let number = self.numbers.take();
                now.extend(One::new(&self.pool_name, number, redis, self.timeout, false));
            }
        }
        *lock(&self.sentinels) = now;
    }
}

/// What is said of a sentinel that knows no such master.
pub(super) const NO_SUCH_MASTER: &str = "it knows no such master";

impl One {
    fn new(
        pool_name: &str,
        number: Number,
        redis: Redis,
        timeout: Duration,
        was_given: bool,
    ) -> Result<Arc<Self>, ConfigError> {
        let name = redis.upstream();
        let timeouts =
            Timeouts::default().with_checkout(timeout).with_connect(timeout).with_read(timeout);
        // One connection to follow, and one for questions.
        let config = Config::new(name.clone())
            .with_name(number.name(&format!("{pool_name} sentinel")))
            .with_max_size(2)
            .with_timeouts(timeouts)
            .with_dns_refresh(None);
        let pool = Pool::builder(config).protocol(redis.with_role(Role::Any)).build()?;
        Ok(Arc::new(Self { name, was_given, pool, addr: Mutex::default(), _number: number }))
    }

    async fn ask(&self, questions: &Pipeline, timeout: Duration) -> Result<Vec<Value>, String> {
        let shared = self.pool.share_by(Instant::now() + timeout).await;
        let mut shared = shared.map_err(|error| error.to_string())?;
        *lock(&self.addr) = Some(shared.peer_addr().clone());
        let answers = shared.req_packed_commands(questions, 0, questions.len()).await;
        answers.map_err(|error| error.to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The resolver of the pool. It holds the task that follows the sentinels, which ends with it.
pub(super) struct SentinelResolver {
    watch: Arc<Watch>,
    task: Mutex<Option<AbortHandle>>,
}

impl SentinelResolver {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self { watch, task: Mutex::default() }
    }

    /// Starts the task, if it does not run: at the first dial, or in another runtime than the last one.
    fn follow(&self) {
        let mut task = lock(&self.task);
        if task.as_ref().is_none_or(AbortHandle::is_finished) {
            *task = Some(tokio::spawn(run(Arc::clone(&self.watch))).abort_handle());
        }
    }
}

impl Drop for SentinelResolver {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl Resolve for SentinelResolver {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.follow();
        Box::pin(async move {
            let places = self.watch.places().await.map_err(SentinelError::into_io)?;
            let (mut addrs, mut last) = (Vec::new(), None);
            for Place { host, port } in &places {
                // An IP address is found at once.
                match tokio::net::lookup_host((host.as_str(), *port)).await {
                    Ok(found) => addrs.extend(found),
                    Err(error) => last = Some(error),
                }
            }
            match last.filter(|_| addrs.is_empty()) {
                Some(error) => {
                    Err(SentinelError::name(&self.watch.master, &places, &error).into_io())
                }
                None => Ok(addrs),
            }
        })
    }
}

/// Follows every sentinel that is known, until the pool is closed.
async fn run(watch: Arc<Watch>) {
    let mut tasks = JoinSet::new();
    let mut followed: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        if watch.pool.get().is_some_and(|pool| pool.upgrade().is_none()) {
            return;
        }
        let sentinels = watch.sentinels();
        followed.retain(|name, task| {
            let stays = sentinels.iter().any(|one| one.name == *name);
            if !stays {
                task.abort();
            }
            stays
        });
        for one in &sentinels {
            if !followed.contains_key(&one.name) {
                let task = tasks.spawn(follow(Arc::clone(&watch), Arc::clone(one)));
                followed.insert(one.name.clone(), task);
            }
        }
        // Results are nothing; a set that is never joined grows.
        while tasks.try_join_next().is_some() {}
        drop(sentinels);
        let _ = timeout_at(Instant::now() + LOOK, watch.doubt.notified()).await;
        watch.look().await;
    }
}

/// Follows what one sentinel publishes.
async fn follow(watch: Arc<Watch>, one: Arc<One>) {
    // One that stands still is left after twice this.
    let config = SubscriptionConfig::default().with_max_messages(64).with_heartbeat(watch.timeout);
    loop {
        let channels = ["+switch-master", "+sentinel"];
        if let Ok(mut subscription) = one.pool.listen_with(channels, config.clone()).await {
            // What happened before is not told.
            watch.doubt.notify_one();
            while let Some(delivery) = subscription.next().await {
                let Delivery::Message(message) = delivery else {
                    watch.doubt.notify_one();
                    continue;
                };
                let text = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
                watch.heard(message.get_channel_name(), &text);
            }
        }
        sleep(AGAIN).await;
    }
}

impl Watch {
    /// A sentinel has published this.
    fn heard(&self, channel: &str, text: &str) {
        if channel == "+sentinel" {
            if said::new_sentinel(text, &self.master).is_some() {
                self.doubt.notify_one();
            }
            return;
        }
        let Some(switch) = Switch::parse(text).filter(|switch| switch.master == self.master) else {
            return;
        };
        let news = lock(&self.known).switched(&switch, Instant::now());
        match news {
            News::Moved => self.moved(),
            News::Unclear => self.doubt.notify_one(),
            News::Same | News::Old => {}
        }
    }
}
