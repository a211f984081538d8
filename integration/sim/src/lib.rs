//! mobula-sim.
