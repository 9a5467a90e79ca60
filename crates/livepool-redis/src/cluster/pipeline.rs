//! Requests of several nodes: pipelines, and what every master has to do.

use std::sync::Arc;

use ::redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use futures_util::future::join_all;

use super::nodes::{Inner, Node};
use super::run::{Tried, What, request};
use super::slots::{Target, target_of};
use super::topology::{error, redirect, short};
use crate::checkout_error;
use crate::shared::{SharedConnection, answers_of};

impl Inner {
    /// Runs a pipeline: all of it on one node, if it is atomic; else each command where it belongs.
    pub(super) async fn pipeline(
        self: &Arc<Self>,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        if (offset, count) != answers_of(pipeline) {
            let why = format!("{count} answers from {offset} on, of {} commands", commands.len());
            return Err(error("no pipeline of a cluster", why));
        }
        if let Some(refused) =
            commands.iter().find_map(|command| SharedConnection::refusal(command))
        {
            return Err(refused);
        }
        let targets = commands.iter().map(|command| target_of(command));
        let targets = targets.collect::<RedisResult<Vec<Target>>>()?;
        if !pipeline.is_transaction() {
            return self.scattered(&commands, &targets).await;
        }
        if targets.contains(&Target::Every) {
            return Err(error(
                "no transaction of a cluster",
                "a command of it is for every master, and a transaction is of one".to_owned(),
            ));
        }
        let mut slots = targets.iter().filter(|target| **target != Target::Any);
        let first = slots.next().copied();
        if slots.any(|other| Some(*other) != first) {
            return Err(error(
                "no transaction of a cluster",
                "its keys are of several slots, and a transaction is of one: give them a part in braces \
                 that is the same, {user1}.name"
                    .to_owned(),
            ));
        }
        self.run(first.unwrap_or(Target::Any), What::Atomic(pipeline)).await
    }

    /// Runs each command where it belongs: those of one node together, all nodes at the same time. What is
    /// redirected, or was not sent, is tried alone then, in its order.
    async fn scattered(
        self: &Arc<Self>,
        commands: &[&Cmd],
        targets: &[Target],
    ) -> RedisResult<Vec<Value>> {
        self.used();
        let mut answers = vec![None; commands.len()];
        let (mut is_begun, mut failed) = (false, None);
        // First of all: a script is loaded before what runs it.
        for (index, command) in commands.iter().enumerate() {
            if targets[index] == Target::Every {
                let tried = self.everywhere(command).await;
                answers[index] = Some(tried.map_err(|error| in_part(error, is_begun))?);
                is_begun = true;
            }
        }
        let mut groups: Vec<(Arc<Node>, Vec<usize>)> = Vec::new();
        let mut again: Vec<usize> = Vec::new();
        let any = self.any();
        for (index, target) in targets.iter().enumerate() {
            let node = match target {
                Target::Slot(slot) => self.server_of(*slot),
                Target::Any => any.clone(),
                Target::Every => continue,
            };
            let Some(node) = node else {
                again.push(index);
                continue;
            };
            match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &node)) {
                Some((_, indices)) => indices.push(index),
                None => groups.push((node, vec![index])),
            }
        }
        let deadline = self.deadline();
        let tries = groups.into_iter().map(|(node, indices)| async move {
            let of_node: Vec<&Cmd> = indices.iter().map(|index| commands[*index]).collect();
            let target = targets[indices[0]];
            let tried = self.attempt(&node, target, What::Many(&of_node), false, deadline).await;
            (node, indices, tried)
        });
        for (node, indices, tried) in join_all(tries).await {
            match tried {
                Tried::Answered(values) => {
                    for (index, value) in indices.into_iter().zip(values) {
                        match &value {
                            Value::ServerError(said)
                                if redirect(
                                    said,
                                    request(&node, targets[index], What::One(commands[index])),
                                )
                                .is_some() =>
                            {
                                again.push(index);
                            }
                            _ => {
                                is_begun = true;
                                answers[index] = Some(value);
                            }
                        }
                    }
                }
                Tried::Redirected(..) | Tried::NotSent(_) | Tried::Refused(_) => {
                    again.extend(indices);
                }
                Tried::Failed(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(in_part(error, is_begun));
        }
        again.sort_unstable();
        for index in again {
            let tried = self.run(targets[index], What::One(commands[index])).await;
            answers[index] = tried.map_err(|error| in_part(error, is_begun))?.pop();
            is_begun = true;
        }
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Value::Nil)).collect())
    }

    /// Runs a command on every master, and returns what all agree on.
    pub(super) async fn everywhere(self: &Arc<Self>, command: &Cmd) -> RedisResult<Value> {
        self.used();
        if self.slot_of_each().is_empty() {
            // What waits until one is known.
            self.run(Target::Any, What::One(&::redis::cmd("PING"))).await?;
        }
        let of_master = |slot| self.run(Target::Slot(slot), What::One(command));
        let mut all = Vec::new();
        for answers in join_all(self.slot_of_each().into_iter().map(of_master)).await {
            all.extend(answers?);
        }
        Ok(agreed(all))
    }
}

/// What all answered: the first refusal, if there is one; of numbers, as `SCRIPT EXISTS` gives them, the
/// lowest; else the first.
fn agreed(all: Vec<Value>) -> Value {
    let refused = all.iter().position(|value| matches!(value, Value::ServerError(_)));
    let mut all = all.into_iter();
    let first = all.nth(refused.unwrap_or(0)).unwrap_or(Value::Nil);
    all.fold(first, |agreed, value| match (agreed, value) {
        (Value::Array(agreed), Value::Array(values)) => {
            let lower = |pair| match pair {
                (Value::Int(one), Value::Int(other)) => Value::Int(one.min(other)),
                (one, _) => one,
            };
            Value::Array(agreed.into_iter().zip(values).map(lower).collect())
        }
        (agreed, _) => agreed,
    })
}

/// The error of a pipeline. One that says of a command that nothing was sent does not say it of others, if
/// something `is_begun`.
fn in_part(why: RedisError, is_begun: bool) -> RedisError {
    if !is_begun || (why.is_io_error() && checkout_error(&why).is_none()) {
        return why;
    }
    error("a part of the pipeline was done", short(&why.to_string()))
}
