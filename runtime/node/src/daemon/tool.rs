//! The command line's questions: what this node answers itself, what it asks the head, and what it gathers from all.

use bytes::Bytes;
use mobula_net::Connection;
use mobula_types::state::{ClusterStatus, LogPart};
use mobula_types::{ActorName, NameKey, ProcessId, Role};
use mobula_wire::FrameKind;
use mobula_wire::cluster::{HeadAnswer, HeadQuestion, ToHead};
use mobula_wire::local::{FromNode, RequestId, ToolQuestion};
use serde::Serialize;

use super::gather::Want;
use super::input::Input;
use super::state::{Purpose, State};
use super::submit::Submit;
use super::workers::Logs;

/// Bytes of an answer: what a frame takes, with room for its head. A longer list is cut, and says so.
const ANSWER_BYTES_MAX: usize = mobula_wire::frame::CONTROL_BYTES_MAX - 4096;

/// Bytes of a log in one answer: JSON may take six for one.
const LOG_BYTES_MAX: usize = 128 << 10;

/// What the head was asked for.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Status,
    Nodes,
    Other,
}

impl State {
    pub(crate) fn tool_asked(&mut self, connection: Connection, request: RequestId, question: ToolQuestion) {
        let of_head = match question {
            ToolQuestion::Status => (Kind::Status, HeadQuestion::Status),
            ToolQuestion::List { kind } => match kind.as_str() {
                "nodes" => (Kind::Nodes, HeadQuestion::Status),
                "jobs" => (Kind::Other, HeadQuestion::Jobs),
                "workers" | "actors" | "tasks" => {
                    let kind = kind.trim_end_matches('s').to_owned();
                    return self.gather(Want::List { connection, request, kind });
                }
                other => {
                    let why = format!("`{other}` cannot be listed: expected nodes, jobs, workers, actors or tasks");
                    return answer(&connection, request, Err(why));
                }
            },
            ToolQuestion::Why { id } => return self.gather(Want::Why { connection, request, id }),
            ToolQuestion::TokenCreate { ttl_s, role } => match role.parse::<Role>() {
                Ok(role) => (Kind::Other, HeadQuestion::TokenCreate { ttl_s: (ttl_s > 0).then_some(ttl_s), role }),
                Err(error) => return answer(&connection, request, Err(format!("role {role}: {error}"))),
            },
            ToolQuestion::TokenList => (Kind::Other, HeadQuestion::TokenList),
            ToolQuestion::TokenRevoke { id } => (Kind::Other, HeadQuestion::TokenRevoke { id }),
            ToolQuestion::Drain { node } => (Kind::Other, HeadQuestion::Drain { node }),
            ToolQuestion::StopActor { name: ActorName { namespace: Some(space), name } } => {
                (Kind::Other, HeadQuestion::StopActor { key: NameKey::shared(space, name) })
            }
            ToolQuestion::StopJob { job } => (Kind::Other, HeadQuestion::StopJob { job }),
            ToolQuestion::Logs { id, offset } => return self.logs_asked(connection, request, id, offset),
            ToolQuestion::Submit { program, args, working_dir, env } => {
                return self.submit(connection, request, Submit { program, args, working_dir, env });
            }
            ToolQuestion::Submission { process } => {
                return answer(&connection, request, self.submissions.status(&process));
            }
            ToolQuestion::Stop => {
                answer(&connection, request, Ok("{}".to_owned()));
                return self.end_soon();
            }
            _ => return answer(&connection, request, Err("this node does not know the question".to_owned())),
        };
        let (kind, question) = of_head;
        self.ask(Purpose::Tool(connection, request, kind), |ask| ToHead::Tool { ask, question });
    }

    /// The head's view has come.
    pub(crate) fn tool_status(
        &mut self,
        connection: &Connection,
        request: RequestId,
        kind: &Kind,
        status: ClusterStatus,
    ) {
        match kind {
            Kind::Nodes => {
                let lines = status.nodes.iter().map(super::gather::node_line);
                answer(connection, request, Ok(json_lines(lines)));
            }
            _ => self.gather(Want::Status { connection: connection.clone(), request, status: Box::new(status) }),
        }
    }

    /// The head has answered something else.
    pub(crate) fn tool_answer(
        &mut self,
        connection: &Connection,
        request: RequestId,
        _kind: &Kind,
        said: Result<HeadAnswer, String>,
    ) {
        let said = said.map(|said| match said {
            HeadAnswer::Jobs(jobs) => json_lines(jobs),
            HeadAnswer::Token(token) => json(&serde_json::json!({ "token": token })),
            HeadAnswer::Tokens(tokens) => json_lines(tokens),
            _ => "{}".to_owned(),
        });
        answer(connection, request, said);
    }

    fn logs_asked(&mut self, connection: Connection, request: RequestId, id: String, offset: u64) {
        let node = id.split_once(':').and_then(|(node, _)| node.parse::<u64>().ok());
        match node.filter(|node| *node != self.node.0) {
            Some(node) => self.ask_logs_of(mobula_types::NodeId(node), connection, request, id, offset),
            None => {
                let logs = self.workers.logs().clone();
                // Reads the disk, so not here.
                tokio::task::spawn_blocking(move || answer(&connection, request, read_log(&logs, &id, offset)));
            }
        }
    }

    /// Ends this node as if a signal had come.
    pub(crate) fn end_soon(&self) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let (done, ended) = tokio::sync::oneshot::channel();
            if inputs.send(Input::Stop { done }).await.is_ok() {
                ended.await.ok();
            }
        });
    }
}

/// Part of a log, as the command line gets it.
pub(crate) fn read_log(logs: &Logs, id: &str, offset: u64) -> Result<String, String> {
    let found = logs.resolve(id).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let (mut next_offset, mut has_ended) = (offset, true);
    match found[..] {
        [only] => {
            let chunk = logs.read(only, offset, LOG_BYTES_MAX).map_err(|error| error.to_string())?;
            (next_offset, has_ended) = (chunk.next_offset(), chunk.has_ended);
            text.push_str(&String::from_utf8_lossy(&chunk.bytes));
        }
        // Several: their ends, each under its name; to follow one, it is named.
        _ => {
            let each = LOG_BYTES_MAX / found.len().max(1);
            for log in found {
                let end = logs.end(log).map_err(|error| error.to_string())?;
                let from = end.saturating_sub(each as u64);
                let chunk = logs.read(log, from, each).map_err(|error| error.to_string())?;
                if !chunk.bytes.is_empty() {
                    text.push_str(&format!("==> {log} <==\n{}", String::from_utf8_lossy(&chunk.bytes)));
                }
                has_ended &= chunk.has_ended;
            }
        }
    }
    Ok(json(&LogPart { text, next_offset, has_ended }))
}

/// Sends an answer to the command line.
pub(crate) fn answer(connection: &Connection, request: RequestId, answer: Result<String, String>) {
    let answer = answer.map(cut);
    match mobula_wire::encode(&FromNode::Answer { request, answer }) {
        // Whoever asked has gone when it is not taken.
        Ok(body) => drop(connection.send(FrameKind::Local, Bytes::from(body))),
        Err(error) => tracing::error!(%error, "an answer cannot be encoded"),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > ANSWER_BYTES_MAX {
        let end = text[..ANSWER_BYTES_MAX].rfind('\n').unwrap_or(0);
        text.truncate(end);
        tracing::warn!("a list is longer than {ANSWER_BYTES_MAX} bytes: its end was left out");
    }
    text
}

pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records have text for keys")
}

pub(crate) fn json_lines<T: Serialize>(records: impl IntoIterator<Item = T>) -> String {
    records.into_iter().map(|record| json(&record)).collect::<Vec<_>>().join("\n")
}

/// How a process is named in lists and logs.
pub(crate) fn name(process: ProcessId) -> String {
    process.to_string()
}
