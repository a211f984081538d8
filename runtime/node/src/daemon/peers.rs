//! Other nodes: what is said to them, and what they say.

use mobula_net::{Connection, Lane};
use mobula_types::{JobId, NodeId, ProcessId};
use mobula_wire::FrameKind;
use mobula_wire::cluster::ClusterTalk;
use mobula_wire::local::RequestId;

use super::state::State;

impl State {
    /// Says something to another node.
    pub(crate) fn tell_node(&self, node: NodeId, said: &ClusterTalk) {
        let Some(mesh) = self.routes.mesh() else { return };
        match mobula_wire::encode(said) {
            Ok(body) => {
                if let Err(error) = mesh.send(node.into(), Lane::Control, FrameKind::Cluster, body.into()) {
                    tracing::debug!(%node, %error, "not said to another node");
                }
            }
            Err(error) => tracing::error!(%error, "what is said to another node cannot be encoded"),
        }
    }

    /// Says something to all other nodes.
    pub(crate) fn tell_nodes(&self, said: &ClusterTalk) {
        self.others().into_iter().for_each(|node| self.tell_node(node, said));
    }

    /// The living nodes beside this one.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        Vec::new()
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> u32 {
        self.others().len() as u32 + 1
    }

    /// Tells another node what a job is, once.
    pub(crate) fn tell_job(&mut self, node: NodeId, job: JobId) {
        let Some(setup) = self.roster.job(job).map(|job| job.setup.clone()) else { return };
        self.tell_node(node, &ClusterTalk::Job { job, setup });
    }

    /// Gets the program of a job from a node that has it.
    pub(crate) fn fetch_program(&mut self, _job: JobId) {}

    pub(crate) fn ask_logs_of(
        &mut self,
        node: NodeId,
        connection: Connection,
        request: RequestId,
        _id: String,
        _offset: u64,
    ) {
        super::tool::answer(&connection, request, Err(format!("{node} is not known here")));
    }

    /// What a process's waiting requests wait for.
    pub(crate) fn place_reason(&self, _process: ProcessId) -> Option<String> {
        None
    }
}
