//! What the network decides by itself. Pure: no clock, socket, task or lock.

mod pace;

pub(crate) use pace::Pace;
