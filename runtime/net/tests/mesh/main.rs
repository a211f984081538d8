//! Meshes on loopback: sessions, refusals, joining, silence.

mod cluster;
mod joining;
mod refusals;
mod sessions;
mod silence;
mod virtual_time;
