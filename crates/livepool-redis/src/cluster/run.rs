//! A request, from its slot to an answer: through redirections, failovers and nodes that are not ready.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, Pipeline, RedisError, RedisResult, ServerError, Value};
use futures_util::future::{Either, select};
use livepool::{CheckoutError, FirstConnect};
use tokio::time::{Instant, sleep, timeout_at};

use super::nodes::{Inner, Node};
use super::slots::{Target, is_servers_own, target_of};
use super::topology::{Redirect, Request, error, redirect, redirect_of, short};
use crate::shared::{SharedConnection, request_lost};

/// Redirections in a row without a pause.
const AT_ONCE: u32 = 3;
/// The shortest pause before another try; it doubles.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest one.
const MOST_PAUSE: Duration = Duration::from_millis(200);
/// So long a connection is waited for before it is asked whether the slot is elsewhere.
const PATIENCE: Duration = Duration::from_millis(250);
/// The time for all tries, where `timeouts.checkout` has none.
const LONGEST: Duration = Duration::from_secs(60);

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    One(&'a Cmd),
    /// To one node, whatever their slots: an answer for each.
    Many(&'a [&'a Cmd]),
    /// One answer: that of EXEC.
    Atomic(&'a Pipeline),
}

/// What became of one try.
pub(super) enum Tried {
    Answered(Vec<Value>),
    Redirected(Redirect, String),
    /// It was not carried out: it may be sent again, whatever it does.
    NotSent(RedisError),
    /// It was not carried out, as the node refuses its guests: each time, unless it is none of the cluster.
    Refused(RedisError),
    Failed(RedisError),
}

impl Inner {
    /// Runs one command.
    pub(super) async fn command(self: &Arc<Self>, command: &Cmd) -> RedisResult<Value> {
        if let Some(refused) = SharedConnection::refusal(command) {
            return Err(refused);
        }
        let target = target_of(command)?;
        // Whether it was redirected is in the answer that nobody wants.
        let answered;
        let command = match command.is_no_response() {
            false => command,
            true => {
                answered = {
                    let mut command = command.clone();
                    command.set_no_response(false);
                    command
                };
                &answered
            }
        };
        if target == Target::Every {
            return self.everywhere(command).await;
        }
        let mut answers = self.run(target, What::One(command)).await?;
        Ok(answers.pop().unwrap_or(Value::Nil))
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeouts.checkout.unwrap_or(LONGEST).min(LONGEST)
    }

    /// The node for this target. Asks the nodes, if none is known.
    pub(super) async fn node_for(self: &Arc<Self>, target: Target) -> RedisResult<Arc<Node>> {
        let find = || match target {
            Target::Slot(slot) => self.server_of(slot),
            Target::Any | Target::Every => self.any(),
        };
        let seen = self.version();
        if let Some(node) = find() {
            return Ok(node);
        }
        self.refresh(seen).await?;
        find().ok_or_else(|| {
            let what = match target {
                Target::Slot(slot) => format!("slot {slot}"),
                Target::Any | Target::Every => "any slot".to_owned(),
            };
            error("no node serves it", format!("nobody knows a node that serves {what}"))
        })
    }

    async fn node_by(
        self: &Arc<Self>,
        target: Target,
        deadline: Instant,
    ) -> RedisResult<Arc<Node>> {
        let late = || error("no node was found in time", format!("within {:?}", self.limit()));
        timeout_at(deadline, self.node_for(target)).await.unwrap_or_else(|_| Err(late()))
    }

    /// Tries until there is an answer, or the time is over.
    pub(super) async fn run(
        self: &Arc<Self>,
        target: Target,
        what: What<'_>,
    ) -> RedisResult<Vec<Value>> {
        self.used();
        let deadline = self.deadline();
        let mut redirected: Option<(Arc<Node>, bool)> = None;
        let mut tries = 0_u32;
        loop {
            self.check_open()?;
            let seen = self.version();
            let found = match redirected.take() {
                Some(found) => Ok(found),
                None => self.node_by(target, deadline).await.map(|node| (node, false)),
            };
            // As a pool does: before anything has ever worked it is told at once.
            if let Err(error) = &found
                && self.version() == 0
                && self.config.first_connect == FirstConnect::FailFast
            {
                return Err(error.clone());
            }
            let tried = match &found {
                Ok((node, asking)) => self.attempt(node, target, what, *asking, deadline).await,
                Err(error) => Tried::NotSent(error.clone()),
            };
            tries += 1;
            let why = match tried {
                Tried::Answered(values) => return Ok(values),
                Tried::Failed(error) => return Err(error),
                Tried::Redirected(redirect, said) => {
                    let to = match &redirect {
                        Redirect::Moved(slot, addr) => {
                            self.moved(*slot, addr).map(|node| Some((node, false)))
                        }
                        Redirect::Ask(_, addr) => self.node_at(addr).map(|node| {
                            node.asked();
                            Some((node, true))
                        }),
                        Redirect::Later => Ok(None),
                    };
                    match to {
                        Ok(Some(to)) => {
                            redirected = Some(to);
                            if tries <= AT_ONCE {
                                continue;
                            }
                            said
                        }
                        Ok(None) => {
                            self.doubt();
                            said
                        }
                        // No address, or one node too many: until those that have left are known.
                        Err(error) => {
                            self.doubt();
                            short(&format!("{said}: {error}"))
                        }
                    }
                }
                Tried::Refused(error) => {
                    // Somebody else may have the address of a node that is gone.
                    let asked = timeout_at(deadline, self.refresh(seen)).await;
                    let now = match target {
                        Target::Slot(slot) => self.server_of(slot),
                        Target::Any | Target::Every => self.any(),
                    };
                    let is_same = match (&found, &now) {
                        (Ok((node, _)), Some(now)) => Arc::ptr_eq(node, now),
                        _ => false,
                    };
                    // The nodes say that it is one of them; or they refuse as well.
                    if is_same || !matches!(asked, Ok(Ok(()))) {
                        return Err(error);
                    }
                    short(&error.to_string())
                }
                Tried::NotSent(error) => {
                    // Where there was no node, it was asked for just now.
                    if found.is_ok() {
                        let _ = timeout_at(deadline, self.refresh(seen)).await;
                    }
                    short(&error.to_string())
                }
            };
            let pause = PAUSE.saturating_mul(1 << tries.min(6)).min(MOST_PAUSE);
            let pause = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if Instant::now() + pause >= deadline {
                let what = match target {
                    Target::Slot(slot) => format!("slot {slot}: "),
                    Target::Any | Target::Every => String::new(),
                };
                let detail =
                    format!("{what}{tries} tries within {:?}, the last: {why}", self.limit());
                return Err(error("no node of the cluster took it", detail));
            }
            sleep(pause).await;
        }
    }

    fn limit(&self) -> Duration {
        self.config.timeouts.checkout.unwrap_or(LONGEST).min(LONGEST)
    }

    /// Tries once, at this node.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        node: &Arc<Node>,
        target: Target,
        what: What<'_>,
        asking: bool,
        deadline: Instant,
    ) -> Tried {
        let _running = node.begin();
        let mut share = pin!(node.pool.share_by(deadline));
        let shared = loop {
            match select(share.as_mut(), pin!(sleep(PATIENCE))).await {
                Either::Left((shared, _)) => break shared,
                // Nobody has to wait for a node that others have replaced.
                Either::Right(_) => {
                    self.doubt();
                    let is_elsewhere = match target {
                        Target::Slot(slot) => {
                            self.server_of(slot).is_some_and(|now| !Arc::ptr_eq(&now, node))
                        }
                        Target::Any | Target::Every => true,
                    };
                    if is_elsewhere && !asking {
                        let why =
                            format!("node {} gave no connection within {PATIENCE:?}", node.addr);
                        return Tried::NotSent(error("it is served elsewhere", short(&why)));
                    }
                }
            }
        };
        let mut shared = match shared {
            Ok(shared) => shared,
            Err(error) if is_permanent(&error) => {
                return Tried::Refused(io::Error::from(error).into());
            }
            Err(error) => return Tried::NotSent(io::Error::from(error).into()),
        };
        let answers = match what {
            What::One(command) => many(&mut shared, &[command], asking).await,
            What::Many(commands) => many(&mut shared, commands, asking).await,
            What::Atomic(pipeline) => atomic(&mut shared, pipeline, asking).await,
        };
        let request = || request(node, target, what);
        match answers {
            Ok(answers) => {
                // Of many, each is looked at by whoever sent them.
                let refused = match (&what, answers.last()) {
                    (What::Many(_), _) => None,
                    (_, Some(Value::ServerError(said))) => {
                        redirect(said, request()).map(|redirect| (redirect, text(said)))
                    }
                    _ => None,
                };
                match refused {
                    Some((redirect, said)) => Tried::Redirected(redirect, said),
                    None => Tried::Answered(answers),
                }
            }
            Err(error) => match redirect_of(&error, request()) {
                Some(redirect) => Tried::Redirected(redirect, short(&error.to_string())),
                None if request_lost(&error).is_some_and(|lost| !lost.maybe_done) => {
                    Tried::NotSent(error)
                }
                None => {
                    // The node may be gone.
                    if error.is_io_error() {
                        self.doubt();
                    }
                    Tried::Failed(error)
                }
            },
        }
    }
}

/// Whether no later try is spared this: a password that is refused, say.
fn is_permanent(error: &CheckoutError) -> bool {
    error.connect_error().is_some_and(|error| !error.is_retryable())
}

pub(super) fn request<'a>(node: &'a Node, target: Target, what: What<'_>) -> Request<'a> {
    let slot = match target {
        Target::Slot(slot) => Some(slot),
        Target::Any | Target::Every => None,
    };
    let is_servers = match what {
        What::One(command) => is_servers_own(command),
        // What runs in a transaction answers inside of its answer.
        What::Atomic(_) => true,
        What::Many(_) => false,
    };
    Request { host: node.host(), slot, is_servers }
}

fn text(error: &ServerError) -> String {
    short(&format!("{} {}", error.code(), error.details().unwrap_or_default()))
}

/// Sends these commands. The word that the first of them is redirected goes in the same write: on a
/// connection that others use, nothing may come in between.
async fn many(
    shared: &mut SharedConnection,
    commands: &[&Cmd],
    asking: bool,
) -> RedisResult<Vec<Value>> {
    if let ([command], false) = (commands, asking) {
        return Ok(vec![::redis::aio::ConnectionLike::req_packed_command(shared, command).await?]);
    }
    let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
    if asking {
        pipeline.cmd("ASKING");
    }
    for command in commands {
        pipeline.add_command((*command).clone());
    }
    let mut answers = shared.send_all(&pipeline, 0, pipeline.len()).await?;
    if asking {
        answers.remove(0).extract_error()?;
    }
    Ok(answers)
}

/// Sends a transaction. One that was discarded is an error that names why.
async fn atomic(
    shared: &mut SharedConnection,
    pipeline: &Pipeline,
    asking: bool,
) -> RedisResult<Vec<Value>> {
    let count = pipeline.len();
    if !asking {
        return shared.send_all(pipeline, count + 1, 1).await;
    }
    let mut flat = Pipeline::with_capacity(count + 3);
    flat.cmd("ASKING").cmd("MULTI");
    for command in pipeline.cmd_iter() {
        flat.add_command(command.clone());
    }
    flat.cmd("EXEC");
    let mut answers = shared.send_all(&flat, 0, flat.len()).await?;
    let done = answers.pop().unwrap_or(Value::Nil);
    if matches!(done, Value::ServerError(_)) {
        // The first refusal is why; EXECABORT says only that there was one.
        for answer in answers {
            answer.extract_error()?;
        }
    }
    Ok(vec![done])
}
