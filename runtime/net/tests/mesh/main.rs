//! Meshes on loopback: sessions, refusals, joining, silence.

mod cluster;
mod sessions;
