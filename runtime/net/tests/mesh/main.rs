//! Meshes on loopback: sessions, refusals, joining, silence.

mod cluster;
mod joining;
mod ranges;
mod refusals;
mod sessions;
mod silence;
mod virtual_time;
