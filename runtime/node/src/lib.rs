//! mobula-node.
