//! The tree of supervisors that a seed plants.

use std::rc::Rc;
use std::time::Duration;

use mobula_types::{Backoff, Intensity, Restart, Strategy};

use crate::rng::Rng;

/// One child: how it is restarted, and what it supervises, if anything.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) restart: Restart,
    pub(super) group: Option<Group>,
}

/// What a supervisor is told about its children.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) strategy: Strategy,
    pub(super) intensity: Intensity,
    pub(super) backoff: Backoff,
    pub(super) children: Vec<Rc<Plan>>,
}

const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];
const RESTARTS: [Restart; 4] = [Restart::Permanent, Restart::Transient, Restart::Transient, Restart::Temporary];

impl Plan {
    /// A supervisor that bears more than the others, so that most runs go on to their end.
    pub(super) fn root(rng: &mut Rng) -> Rc<Self> {
        let mut group = Group::draw(rng, 0);
        if rng.chance(80) {
            group.intensity.restarts_max += 20;
        }
        Rc::new(Self { restart: Restart::Temporary, group: Some(group) })
    }

    /// Something to supervise, `depth` levels below the root.
    pub(super) fn draw(rng: &mut Rng, depth: u64) -> Rc<Self> {
        let restart = *rng.pick(&RESTARTS);
        let group = (depth < 3 && rng.chance(30)).then(|| Group::draw(rng, depth));
        Rc::new(Self { restart, group })
    }
}

impl Group {
    fn draw(rng: &mut Rng, depth: u64) -> Self {
        let children = (0..1 + rng.below(5)).map(|_| Plan::draw(rng, depth + 1)).collect();
        Self {
            strategy: *rng.pick(&STRATEGIES),
            intensity: Intensity {
                restarts_max: rng.below(9) as u32,
                period: Duration::from_millis(1_000 + rng.below(9_000)),
            },
            backoff: Backoff {
                first: Duration::from_millis(10 + rng.below(190)),
                max: Duration::from_millis(100 + rng.below(2_000)),
            },
            children,
        }
    }
}
