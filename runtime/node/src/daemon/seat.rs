//! The head's part of a node: jobs, names and values of the cluster.

use std::collections::BTreeMap;

use mobula_types::state::{ClusterStatus, Listed};
use mobula_types::{ActorId, Fencing, HeadId, JobId, NameKey, NodeId};
use mobula_wire::cluster::{FromHead, HeadAnswer, HeadQuestion, JobSetup, ToHead};
use tokio::sync::mpsc;

use super::input::Input;

/// What nodes have said that has not been acted on.
pub(crate) const SEAT_MAX: usize = 16_384;

/// A node says something to the head.
#[derive(Debug)]
pub(crate) struct ToSeat {
    pub(crate) from: NodeId,
    pub(crate) said: ToHead,
}

/// The head.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    head: HeadId,
    jobs: BTreeMap<JobId, JobSetup>,
    last: u64,
    names: BTreeMap<NameKey, ActorId>,
    values: BTreeMap<(JobId, String), Vec<u8>>,
}

impl Seat {
    pub(crate) async fn run(mut self, mut heard: mpsc::Receiver<ToSeat>, inputs: mpsc::Sender<Input>) {
        while let Some(ToSeat { said, .. }) = heard.recv().await {
            if let Some(said) = self.handle(said)
                && inputs.send(Input::FromHead { head: self.head, said }).await.is_err()
            {
                return;
            }
        }
    }

    fn handle(&mut self, said: ToHead) -> Option<FromHead> {
        Some(match said {
            ToHead::JobStart { ask, setup } => {
                self.last += 1;
                self.jobs.insert(JobId(self.last), setup);
                FromHead::JobStarted { ask, result: Ok(JobId(self.last)) }
            }
            ToHead::JobEnd { job, cause } => {
                self.jobs.remove(&job)?;
                self.values.retain(|(of, _), _| *of != job);
                FromHead::JobEnded { job, cause }
            }
            ToHead::Claim { ask, key, actor, .. } => {
                let owner = *self.names.entry(key).or_insert(actor);
                FromHead::Claimed { ask, result: Ok((owner, Fencing(0), 0)) }
            }
            ToHead::Release { key, actor } => {
                if self.names.get(&key) == Some(&actor) {
                    self.names.remove(&key);
                }
                return None;
            }
            ToHead::ProcessDied { process, .. } => {
                self.names.retain(|_, actor| actor.process != process);
                return None;
            }
            ToHead::LookUp { ask, key } => FromHead::Found { ask, owner: self.names.get(&key).copied() },
            ToHead::Put { ask, job, key, value } => {
                match value.clone() {
                    Some(value) => self.values.insert((job, key), value),
                    None => self.values.remove(&(job, key)),
                };
                FromHead::Value { ask, result: Ok(value) }
            }
            ToHead::Get { ask, job, key } => {
                FromHead::Value { ask, result: Ok(self.values.get(&(job, key)).cloned()) }
            }
            ToHead::Tool { ask, question } => match question {
                HeadQuestion::Status => FromHead::Status { ask, status: ClusterStatus::default() },
                HeadQuestion::Jobs => {
                    let line = |(id, setup): (&JobId, &JobSetup)| Listed {
                        id: id.to_string(),
                        kind: "job".to_owned(),
                        name: setup.name.clone(),
                        job_id: Some(id.to_string()),
                        state: "running".to_owned(),
                        ..Listed::default()
                    };
                    FromHead::Answer { ask, answer: Ok(HeadAnswer::Jobs(self.jobs.iter().map(line).collect())) }
                }
                _ => FromHead::Answer { ask, answer: Err("this head cannot do that".to_owned()) },
            },
            _ => return None,
        })
    }
}
