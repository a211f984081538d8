//! Placement groups that code of this process makes and removes, by way of its node.

use std::sync::Arc;

use mobula_types::ProcessId;
use mobula_wire::local::ToNode;

use super::process::Process;
use crate::groups::{GroupError, Registrar, Waiters, Wish};

impl Registrar for Process {
    const GONE: GroupError = GroupError::NoNode;

    fn process(&self) -> ProcessId {
        self.me
    }

    fn waiters(&self) -> &Waiters {
        &self.groups
    }

    fn say(self: &Arc<Self>, wish: Wish) {
        self.link.tell(&match wish {
            Wish::Create { group, spec } => ToNode::CreateGroup { group, spec },
            Wish::Remove { group } => ToNode::RemoveGroup { group },
        });
    }
}
