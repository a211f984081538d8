//! Several actors spoken to as one.

use mobula::prelude::*;
use mobula::{ActorGroup, MailboxBounds, SpawnError};

use crate::apparatus::{Gate, Journal, within};

struct Member {
    rank: usize,
    seen: usize,
    journal: Journal,
}

#[actor]
impl Member {
    fn new(rank: usize, journal: Journal, broken: usize) -> Result<Self> {
        if rank == broken {
            return Err(Error::msg(format!("member {rank} is broken")));
        }
        Ok(Member { rank, seen: 0, journal })
    }

    fn see(&mut self, n: usize) -> Result<usize> {
        self.seen += n;
        if n == 13 { Err(Error::msg(format!("member {} cannot bear 13", self.rank))) } else { Ok(self.seen) }
    }

    fn rank(&self) -> usize {
        self.rank
    }

    async fn hold(&mut self, gate: Gate) {
        self.journal.note("held");
        gate.passed().await;
    }

    async fn stopping(&mut self, _: &ExitReason, _: &Context<Self>) {
        self.journal.note(format!("{} stopped", self.rank));
    }
}

const NOBODY: usize = usize::MAX;

async fn group(count: usize) -> Result<(ActorGroup<Member>, Journal)> {
    let journal = Journal::new();
    Ok((ActorGroup::spawn(count, |rank| Member::spawn(rank, journal, NOBODY).spread()).await?, journal))
}

#[mobula::test(plain, encoded, cluster)]
async fn every_member_answers_in_the_order_of_ranks() -> Result<()> {
    let (group, _) = group(5).await?;
    let ranks: Vec<usize> = group.ask_all(|member| member.rank()).await.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(ranks, [0, 1, 2, 3, 4]);
    assert_eq!(group.len(), 5);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_error_of_one_member_stands_in_its_place() -> Result<()> {
    let (group, _) = group(3).await?;
    let mut rank = 0;
    let answers = group
        .ask_all(|member| {
            rank += 1;
            member.see(if rank == 2 { 13 } else { 1 })
        })
        .await;
    assert!(answers[0] == Ok(1) && answers[2] == Ok(1), "{answers:?}");
    assert!(matches!(&answers[1], Err(CallError::Returned(error)) if error.to_string().contains("member 1")));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn members_and_clones_share_one_turn() -> Result<()> {
    let (group, _) = group(3).await?;
    let mut ranks = vec![group.in_turn().rank().await?];
    ranks.push(group.clone().in_turn().rank().await?);
    for _ in 0..3 {
        ranks.push(group.in_turn().rank().await?);
    }
    assert_eq!(ranks, [0, 1, 2, 0, 1]);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_message_that_a_member_cannot_take_comes_back() -> Result<()> {
    let journal = Journal::new();
    let narrow = MailboxBounds { items_max: 1, ..MailboxBounds::default() };
    let spawn = |rank: usize| {
        let spawn = Member::spawn(rank, journal, NOBODY);
        if rank == 1 { spawn.mailbox(narrow) } else { spawn }
    };
    let group = ActorGroup::spawn(2, spawn).await?;
    let gate = Gate::new();
    let held: Vec<_> = group.members().iter().map(|member| member.hold(gate).submit()).collect();
    assert_eq!((journal.next().await, journal.next().await), ("held".to_owned(), "held".to_owned()));
    for member in group.members() {
        within(member.see(1).send()).await?;
    }
    let refused = group.tell_all(|member| member.see(1));
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, 1);
    assert!(matches!(refused[0].1.cause, NotStarted::MailboxFull { .. }), "{:?}", refused[0].1);
    gate.open();
    within(mobula::get(held)).await?;
    let seen: Vec<usize> = group.ask_all(|member| member.see(0)).await.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(seen, [2, 1]);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_group_that_cannot_start_leaves_nobody() {
    let journal = Journal::new();
    let failed = ActorGroup::spawn(3, |rank| Member::spawn(rank, journal, 1)).await;
    let Err(SpawnError::StartFailed(ExitReason::Failed(chain))) = failed else { panic!("{failed:?}") };
    assert_eq!(chain.to_string(), "member 1 is broken");
    let mut stopped = [journal.next().await, journal.next().await];
    stopped.sort();
    assert_eq!(stopped, ["0 stopped", "2 stopped"]);
}
