//! The worker processes of a node: how they start, what they print, why they died.
