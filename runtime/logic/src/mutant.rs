//! Faults that can be planted in the machines, so that the simulator can show that it finds them.
//!
//! Each leaves out a line that cites an invariant. Without the feature `mutants` none can be planted, and asking for one
//! is a constant `false`.

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// One restart more than the intensity allows (SUP-3).
    IntensityOffByOne,
    /// A restart never waits (SUP-4).
    ForgetBackoff,
    /// A temporary child is restarted (SUP-5).
    RestartTemporary,
    /// Siblings are stopped in the order in which they were started (SUP-2).
    StopInStartOrder,
    /// Siblings are started in reverse order (SUP-1).
    StartInReverseOrder,
    /// Siblings are asked to stop all at once (SUP-2).
    StopAllAtOnce,
    /// The supervisor says that it has failed before its children have stopped (SUP-6).
    EscalateAtOnce,
    /// The result of a superseded attempt is taken (TASK-3).
    AcceptSuperseded,
    /// A result that comes twice is said twice (TASK-1).
    ResolveTwice,
    /// One retry more than allowed (TASK-2).
    RetryOffByOne,
    /// A task that may run at most once is retried (TASK-4).
    RetryAtMostOnce,
    /// A bystander's run is counted against its retries (TASK-5).
    CountBystander,
    /// A retry never waits (TASK-6).
    ForgetRetryWait,
    /// A passed deadline is not noticed (TASK-7).
    ForgetDeadline,
    /// What was in flight when a connection was lost is not sent again (SES-1).
    ForgetUnacknowledged,
    /// A frame that has come before is handed on again (SES-2).
    DeliverRepeats,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::IntensityOffByOne,
        Self::ForgetBackoff,
        Self::RestartTemporary,
        Self::StopInStartOrder,
        Self::StartInReverseOrder,
        Self::StopAllAtOnce,
        Self::EscalateAtOnce,
        Self::AcceptSuperseded,
        Self::ResolveTwice,
        Self::RetryOffByOne,
        Self::RetryAtMostOnce,
        Self::CountBystander,
        Self::ForgetRetryWait,
        Self::ForgetDeadline,
        Self::ForgetUnacknowledged,
        Self::DeliverRepeats,
    ];
}

/// Where a machine keeps the fault planted in it; takes no memory without the feature.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "mutants")]
    mutant: Option<Mutant>,
}

impl Planted {
    #[cfg(feature = "mutants")]
    pub(crate) fn new(mutant: Mutant) -> Self {
        Self { mutant: Some(mutant) }
    }

    #[inline]
    pub(crate) fn is(self, mutant: Mutant) -> bool {
        #[cfg(feature = "mutants")]
        return self.mutant == Some(mutant);
        #[cfg(not(feature = "mutants"))]
        {
            let _ = mutant;
            false
        }
    }

    /// Whether any is: the debug asserts are silent then, so that the simulator is the one that notices.
    #[inline]
    pub(crate) fn is_any(self) -> bool {
        #[cfg(feature = "mutants")]
        return self.mutant.is_some();
        #[cfg(not(feature = "mutants"))]
        false
    }
}
