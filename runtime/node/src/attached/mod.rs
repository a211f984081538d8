//! A driver or worker that is attached to a node.
