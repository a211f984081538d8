//! The command line's questions: what this node answers itself, what it asks the head, and what it gathers from all.

use bytes::Bytes;
use mobula_net::Line;
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
    /// Why one placement group waits.
    Group(String),
    Other,
}

impl State {
    pub(crate) fn tool_asked(&mut self, line: Line, request: RequestId, question: ToolQuestion) {
        let of_head = match question {
            ToolQuestion::Status => (Kind::Status, HeadQuestion::Status),
            ToolQuestion::List { kind } => match kind.as_str() {
                "nodes" => (Kind::Nodes, HeadQuestion::Status),
                "placement-groups" => (Kind::Other, HeadQuestion::Groups),
                "jobs" => (Kind::Other, HeadQuestion::Jobs),
                "workers" | "actors" | "tasks" | "objects" => {
                    let kind = kind.trim_end_matches('s').to_owned();
                    return self.gather(Want::List { line, request, kind });
                }
                other => {
                    let why = format!(
                        "`{other}` cannot be listed: expected nodes, jobs, workers, actors, tasks, objects or \
                         placement-groups"
                    );
                    return answer(&line, request, Err(why));
                }
            },
            ToolQuestion::Why { id } if id.starts_with("group-") => (Kind::Group(id), HeadQuestion::Groups),
            ToolQuestion::Why { id } => return self.gather(Want::Why { line, request, id }),
            ToolQuestion::TokenCreate { ttl_s, role } => match role.parse::<Role>() {
                Ok(role) => (Kind::Other, HeadQuestion::TokenCreate { ttl_s: (ttl_s > 0).then_some(ttl_s), role }),
                Err(error) => return answer(&line, request, Err(format!("role {role}: {error}"))),
            },
            ToolQuestion::TokenList => (Kind::Other, HeadQuestion::TokenList),
            ToolQuestion::TokenRevoke { id } => (Kind::Other, HeadQuestion::TokenRevoke { id }),
            ToolQuestion::Drain { node } => (Kind::Other, HeadQuestion::Drain { node }),
            ToolQuestion::StopActor { name: ActorName { namespace: Some(space), name } } => {
                (Kind::Other, HeadQuestion::StopActor { key: NameKey::shared(space, name) })
            }
            ToolQuestion::StopJob { job } => (Kind::Other, HeadQuestion::StopJob { job }),
            ToolQuestion::Logs { id, offset } => return self.logs_asked(line, request, id, offset),
            ToolQuestion::Submit { program, args, working_dir, env } => {
                let name = program.clone();
                return self.submit(line, request, Submit { name, program, args, working_dir, env, luggage: None });
            }
            ToolQuestion::Submission { process } => {
                return answer(&line, request, self.submissions.status(&process));
            }
            ToolQuestion::Stop => {
                answer(&line, request, Ok("{}".to_owned()));
                return self.end_soon();
            }
            _ => return answer(&line, request, Err("this node does not know the question".to_owned())),
        };
        let (kind, question) = of_head;
        self.ask(Purpose::Tool(line, request, kind), |ask| ToHead::Tool { ask, question });
    }

    /// The head's view has come.
    pub(crate) fn tool_status(&mut self, line: &Line, request: RequestId, kind: &Kind, status: ClusterStatus) {
        match kind {
            Kind::Nodes => {
                let lines = status.nodes.iter().map(super::gather::node_line);
                answer(line, request, Ok(json_lines(lines)));
            }
            _ => self.gather(Want::Status { line: line.clone(), request, status: Box::new(status) }),
        }
    }

    /// The head has answered something else.
    pub(crate) fn tool_answer(
        &mut self,
        line: &Line,
        request: RequestId,
        kind: &Kind,
        said: Result<HeadAnswer, String>,
    ) {
        if let (Kind::Group(id), Ok(HeadAnswer::Groups(groups))) = (kind, &said) {
            let found = groups.iter().find(|group| group.id == *id).map(json);
            let missing = || format!("there is no placement group {id}: see `mobula list placement-groups`");
            return answer(line, request, found.ok_or_else(missing));
        }
        let said = said.map(|said| match said {
            HeadAnswer::Jobs(listed) | HeadAnswer::Groups(listed) => json_lines(listed),
            HeadAnswer::Token(token) => json(&serde_json::json!({ "token": token })),
            HeadAnswer::Tokens(tokens) => json_lines(tokens),
            _ => "{}".to_owned(),
        });
        answer(line, request, said);
    }

    fn logs_asked(&mut self, line: Line, request: RequestId, id: String, offset: u64) {
        let node = id.split_once(':').and_then(|(node, _)| node.parse::<u64>().ok());
        match node.filter(|node| *node != self.node.0) {
            Some(node) => self.ask_logs_of(mobula_types::NodeId(node), line, request, id, offset),
            None => {
                let logs = self.workers.logs().clone();
                // Reads the disk, so not here.
                tokio::task::spawn_blocking(move || answer(&line, request, read_log(&logs, &id, offset)));
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
            let mut chunk = logs.read(only, offset, LOG_BYTES_MAX).map_err(|error| error.to_string())?;
            chunk.bytes.truncate(whole_characters(&chunk.bytes, chunk.has_ended));
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

/// How many of the bytes are whole characters: the last one may go on in the next part, and is left to it. What is no
/// beginning of a character is no reason to wait, and neither is the end of a log.
fn whole_characters(bytes: &[u8], has_ended: bool) -> usize {
    /// A character has four bytes at most, so that three of one may stand at the end.
    const CUT_BYTES_MAX: usize = 3;
    let cut = match std::str::from_utf8(&bytes[bytes.len().saturating_sub(CUT_BYTES_MAX + 1)..]) {
        // Whether it stands at the end is told by the missing length.
        Err(_) => (1..=CUT_BYTES_MAX.min(bytes.len())).find(|cut| {
            let last = &bytes[bytes.len() - cut..];
            std::str::from_utf8(last).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        }),
        Ok(_) => None,
    };
    // A part of nothing but such a beginning would be asked for again and again.
    match cut {
        Some(cut) if !(has_ended && bytes.len() <= CUT_BYTES_MAX) => bytes.len() - cut,
        _ => bytes.len(),
    }
}

/// Sends an answer to the command line.
pub(crate) fn answer(line: &Line, request: RequestId, answer: Result<String, String>) {
    let answer = answer.map(cut);
    match mobula_wire::encode(&FromNode::Answer { request, answer }) {
        // Whoever asked has gone when it is not taken.
        Ok(body) => drop(line.send(FrameKind::Local, Bytes::from(body))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_log_ends_with_a_whole_character() {
        for text in ["a", "ä", "€", "🐟"] {
            let all = format!("xxxx{text}");
            for cut in 0..=text.len() {
                let part = &all.as_bytes()[..4 + cut];
                let expect = if cut == text.len() { all.len() } else { 4 };
                assert_eq!(whole_characters(part, false), expect, "{cut} bytes of {text}");
            }
        }
        for odd in [&b"xxxx\xff"[..], b"xxxx\x80\x80", b"xxx\xe2\x28"] {
            assert_eq!(whole_characters(odd, false), odd.len(), "{odd:?} is no beginning of a character");
        }
        assert_eq!(whole_characters(b"\xe2\x82", true), 2, "nothing follows at the end of a log");
        assert_eq!(whole_characters(b"\xe2\x82", false), 0);
        assert_eq!(whole_characters(b"", false), 0);
    }
}
