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
    /// A place is given whether or not there is room (SCHED-1).
    OverCommit,
    /// A lease stays in the books when its worker has died (SCHED-2).
    KeepLeasesOnDead,
    /// A lease stays in the books when its holder has died (SCHED-3).
    KeepLeasesOfDead,
    /// What a node was asked for is forgotten with that node (SCHED-4).
    ForgetAskedOfDead,
    /// A node that a request is not with any more may answer it (SCHED-5).
    AnyPeerGrants,
    /// A device is given to several (SCHED-6).
    ShareDevices,
    /// Jobs are served by age, however much they have (SCHED-9).
    ForgetShare,
    /// One task more than allowed is in flight on a lease (DISP-4).
    DepthOffByOne,
    /// What was in flight on a lost lease is forgotten (DISP-1).
    ForgetLost,
    /// An idle lease is dropped and not given back (DISP-6).
    KeepIdle,
    /// A place that is wanted back gets more to do (DISP-7).
    SendToRecalled,
    /// A task that is handed back is forgotten (DISP-1).
    LoseHandedBack,
    /// An actor that leaves its place is started elsewhere before it has ended there (HOME-5).
    StartBeforeLeft,
    /// Every start of an actor has the number of its first (HOME-1).
    SameLifeAgain,
    /// What an earlier life of an actor says is heard (HOME-2).
    HearStaleLife,
    /// A place that an actor leaves is not given back (HOME-3).
    KeepPlace,
    /// What was in flight when a connection was lost is not sent again (SES-1).
    ForgetUnacknowledged,
    /// A frame that has come before is handed on again (SES-2).
    DeliverRepeats,
    /// What a message names is not held on its way (OWN-1).
    FreeOnItsWay,
    /// A message is counted before the owners of what it names have heard of its receiver's node (OWN-2).
    CountBeforeHeld,
    /// What the dead held stays held (OWN-3).
    KeepHoldsOfDead,
    /// A word that comes again is heard again (OWN-4).
    HearRepeats,
    /// What bytes name is not held for them (OWN-5).
    ForgetInner,
    /// Recipes are kept beyond their bound (OWN-6).
    KeepAllRecipes,
    /// A task runs once more than it may (OWN-6).
    RunOnceMore,
    /// An object is made again while there is a copy of it (OWN-7).
    MakeWhileCopied,
    /// A run that gives other bytes than the first is taken (OWN-8).
    TrustReplay,
    /// A reader is sent to one that waits for it (OWN-11).
    ReadInCircles,
    /// A source that has refused a range is asked for others (HAUL-5).
    AskAgainWhereRefused,
    /// A payload is over while a range of it is still being written (HAUL-1).
    EndWhileWritten,
    /// A node that was declared dead is taken back under its old id (MEM-1).
    AdmitFenced,
    /// One refusal is enough to declare a node killed (MEM-3).
    OneRefusal,
    /// Time in which the head itself did not run counts as the nodes' silence (MEM-3).
    CountHeadStall,
    /// A silent node stays alive (MEM-4).
    ForgetSilence,
    /// A node is told that it is admitted before its record is in the store (MEM-5).
    AdmitBeforeKept,
    /// A name is granted again at the end of the lease, not a second after it (DIR-2).
    GrantAtLeaseEnd,
    /// A name is granted again while its holder has not stopped (DIR-1).
    GrantWhileHeld,
    /// A beat that comes after the end of a lease renews it with its names (DIR-3).
    ReviveLease,
    /// A new grant of a name is not fenced off from the one before (DIR-4).
    ReuseFencing,
    /// A restarted head takes the leases of the one before for ended (DIR-5).
    ForgetLeases,
    /// A token is good for more than one user (DIR-7).
    TokenTwice,
    /// A lease counts from when its renewal was heard, not from when it was sent (LEASE-2).
    CountFromHeard,
    /// Named actors go on after the lease (LEASE-1).
    ForgetToStop,
    /// A node without a head never fences itself (LEASE-4).
    NeverFence,
    /// A node hears a head that another one has replaced (LEASE-5).
    HearOldHead,
    /// An answer leaves before the record that it rests on is synced (HEAD-1).
    AnswerBeforeSync,
    /// What was sent to a lost place is not sent again (OUT-1).
    ForgetSent,
    /// A message may end a fourth process (OUT-3).
    FourthCrash,
    /// The first message of a pair is blamed for deaths over which no message of the pair was handled (OUT-3).
    BlameAnyDeath,
    /// A message that has come before is handled again (OUT-4).
    HandleRepeats,
    /// A message is handled though one before it was dropped on its way (OUT-6).
    HandleAhead,
    /// What comes whole passes what is pulled of its line (INTAKE-1).
    PassInLine,
    /// All payloads of a peer are pulled at once (INTAKE-2).
    PullAll,
    /// A part that comes for the second time is taken for the next (INTAKE-4).
    TakeRepeatedParts,
    /// Nothing that waits is pulled when there is room again (INTAKE-6).
    ForgetWaiting,
    /// The sender of a payload is not told that it has come (INTAKE-7).
    ForgetTaken,
    /// A connection that comes back does not end the wait for it (ATT-2).
    ForgetResumption,
    /// A lost end is waited for without a bound (ATT-3).
    WaitForEver,
    /// Bundles are to be kept before every node of their round has prepared (GRP-3).
    CommitEarly,
    /// What a dead node had of a group is still reserved there (GRP-4).
    KeepPlacesOfDead,
    /// A group that wants a node for each bundle is laid like any other (GRP-5).
    SpreadLoosely,
    /// What a node was told to give back is its again when it names it once more (GRP-6).
    BelieveCrossed,
    /// A node keeps more apart than it has (GRP-7).
    KeepBeyond,
    /// A node keeps the bundles of a group that is over (GRP-8).
    KeepOver,
    /// A group that waits is not looked at again (GRP-9).
    LookOnce,
    /// A head that was started again counts its rounds from the beginning (GRP-10).
    CountRoundsAnew,
    /// A copy that is read is let go of (PRESS-1).
    LeaveUnderReader,
    /// A copy that somebody began to read while it was written is let go of (PRESS-1).
    EvictUnderReader,
    /// A copy that was freed while it was written counts as one that is written (PRESS-2).
    CountFreed,
    /// What found no room when it was to be read waits for none any more (PRESS-4).
    ForgetUnread,
    /// What found no room when it was to be read begins to wait anew (PRESS-7).
    WaitAnew,
    /// A full disk is tried at once (PRESS-8).
    TryFullDisk,
    /// Copies are read beyond the budget though the disk is not full (PRESS-6).
    ReadBeyond,
}

impl Mutant {
    /// Those of the runtime: of tasks, actors, places and sessions.
    pub const ALL: &[Self] = &[
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
        Self::OverCommit,
        Self::KeepLeasesOnDead,
        Self::KeepLeasesOfDead,
        Self::ForgetAskedOfDead,
        Self::AnyPeerGrants,
        Self::ShareDevices,
        Self::ForgetShare,
        Self::DepthOffByOne,
        Self::ForgetLost,
        Self::KeepIdle,
        Self::SendToRecalled,
        Self::LoseHandedBack,
        Self::StartBeforeLeft,
        Self::SameLifeAgain,
        Self::HearStaleLife,
        Self::KeepPlace,
        Self::ForgetUnacknowledged,
        Self::DeliverRepeats,
    ];

    /// Those of objects: who holds them, and how their bytes travel.
    pub const OF_OBJECTS: &[Self] = &[
        Self::FreeOnItsWay,
        Self::CountBeforeHeld,
        Self::KeepHoldsOfDead,
        Self::HearRepeats,
        Self::ForgetInner,
        Self::KeepAllRecipes,
        Self::RunOnceMore,
        Self::MakeWhileCopied,
        Self::TrustReplay,
        Self::ReadInCircles,
        Self::AskAgainWhereRefused,
        Self::EndWhileWritten,
    ];

    /// Those of the head's machines and of a node's lease.
    pub const OF_HEAD: &[Self] = &[
        Self::AdmitFenced,
        Self::OneRefusal,
        Self::CountHeadStall,
        Self::ForgetSilence,
        Self::AdmitBeforeKept,
        Self::GrantAtLeaseEnd,
        Self::GrantWhileHeld,
        Self::ReviveLease,
        Self::ReuseFencing,
        Self::ForgetLeases,
        Self::TokenTwice,
        Self::CountFromHeard,
        Self::ForgetToStop,
        Self::NeverFence,
        Self::HearOldHead,
        Self::AnswerBeforeSync,
    ];

    /// Those of mail between processes, and of attachments.
    pub const OF_MAIL: &[Self] = &[
        Self::ForgetSent,
        Self::FourthCrash,
        Self::BlameAnyDeath,
        Self::HandleRepeats,
        Self::HandleAhead,
        Self::PassInLine,
        Self::PullAll,
        Self::TakeRepeatedParts,
        Self::ForgetWaiting,
        Self::ForgetTaken,
        Self::ForgetResumption,
        Self::WaitForEver,
    ];

    /// Those of placement groups: the head's, and those of the nodes that keep their bundles.
    pub const OF_GROUPS: &[Self] = &[
        Self::CommitEarly,
        Self::KeepPlacesOfDead,
        Self::SpreadLoosely,
        Self::BelieveCrossed,
        Self::KeepBeyond,
        Self::KeepOver,
        Self::LookOnce,
        Self::CountRoundsAnew,
    ];

    /// Those of a node's store under pressure.
    pub const OF_PRESSURE: &[Self] = &[
        Self::LeaveUnderReader,
        Self::EvictUnderReader,
        Self::CountFreed,
        Self::ForgetUnread,
        Self::WaitAnew,
        Self::TryFullDisk,
        Self::ReadBeyond,
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

    #[cfg(feature = "mutants")]
    pub(crate) fn mutant(self) -> Option<Mutant> {
        self.mutant
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
