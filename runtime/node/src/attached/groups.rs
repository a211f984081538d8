//! Placement groups that code of this process makes and removes, by way of its node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mobula_types::{GroupEnd, GroupId, GroupSpec, NodeId};
use mobula_wire::local::ToNode;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::process::Process;
use crate::groups::GroupError;

/// The head answers in this time that a group is no more.
const REMOVED_MAX: Duration = Duration::from_secs(30);

/// What is said of a group: the nodes of its bundles, or why it is no more.
type Word = Result<Vec<NodeId>, GroupEnd>;

/// Who waits for which group.
#[derive(Default)]
pub(crate) struct Groups {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    made: u64,
    waiting: HashMap<GroupId, Vec<oneshot::Sender<Word>>>,
    is_cut: bool,
}

impl Groups {
    fn next(&self, process: mobula_types::ProcessId) -> GroupId {
        let mut table = self.table.lock();
        table.made += 1;
        GroupId { process, number: table.made }
    }

    fn wait_for(&self, group: GroupId) -> oneshot::Receiver<Word> {
        let (sender, word) = oneshot::channel();
        let mut table = self.table.lock();
        if !table.is_cut {
            table.waiting.entry(group).or_default().push(sender);
        }
        word
    }

    /// Something was said of a group.
    pub(crate) fn heard(&self, group: GroupId, word: &Word) {
        for waiting in self.table.lock().waiting.remove(&group).unwrap_or_default() {
            waiting.send(word.clone()).ok();
        }
    }

    /// The node is gone: nobody hears anything any more.
    pub(crate) fn cut(&self) {
        let mut table = self.table.lock();
        (table.is_cut, table.waiting) = (true, HashMap::new());
    }
}

impl Process {
    /// Makes a group, and waits until all its bundles are reserved.
    pub(crate) async fn create_group(
        self: &Arc<Self>,
        spec: GroupSpec,
        timeout: Option<Duration>,
    ) -> Result<(GroupId, Vec<NodeId>), GroupError> {
        let group = self.groups.next(self.me);
        let mut word = self.groups.wait_for(group);
        self.link.tell(&ToNode::CreateGroup { group, spec });
        let unwanted = Unwanted(Some((self.clone(), group)));
        let said = match timeout {
            None => Some((&mut word).await),
            Some(after) => tokio::time::timeout(after, &mut word).await.ok(),
        };
        let Some(said) = said else {
            // What it waited for is said with its end; it may have become ready just now.
            unwanted.keep();
            let why = match self.end_group(group).await {
                Ok(GroupEnd::Removed { waited: Some(waited) }) => waited,
                Ok(other) => other.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(GroupError::TimedOut { after: timeout.unwrap_or_default(), why });
        };
        unwanted.keep();
        match said {
            Ok(Ok(nodes)) => Ok((group, nodes)),
            Ok(Err(why)) => Err(GroupError::Ended { why }),
            Err(_) => Err(GroupError::NoNode),
        }
    }

    pub(crate) async fn remove_group(&self, group: GroupId) -> Result<(), GroupError> {
        self.end_group(group).await.map(drop)
    }

    async fn end_group(&self, group: GroupId) -> Result<GroupEnd, GroupError> {
        let mut word = self.groups.wait_for(group);
        self.link.tell(&ToNode::RemoveGroup { group });
        loop {
            match tokio::time::timeout(REMOVED_MAX, &mut word).await {
                Ok(Ok(Err(why))) => return Ok(why),
                // It became ready while this was on its way.
                Ok(Ok(Ok(_))) => word = self.groups.wait_for(group),
                Ok(Err(_)) | Err(_) => return Err(GroupError::NoNode),
            }
        }
    }
}

/// Nobody waits any more for the group that is being made, and nobody could name it.
struct Unwanted(Option<(Arc<Process>, GroupId)>);

impl Unwanted {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        if let Some((process, group)) = self.0.take() {
            process.link.tell(&ToNode::RemoveGroup { group });
        }
    }
}
