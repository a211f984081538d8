//! References in messages: drives [`mobula_logic::handoff`], and keeps what it says is held.

use std::collections::HashMap;
use std::sync::Arc;

use mobula_actor::clock;
use mobula_actor::object::Pins;
use mobula_logic::handoff::{Handoff, Input, Output};
use mobula_types::{NotStarted, ObjectId, ProcessId, StateMachine, Time};
use mobula_wire::{Parcel, Talk};
use parking_lot::Mutex;

use super::process::Process;

/// What this process holds for messages on their way.
#[derive(Default)]
pub(crate) struct Handoffs {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    machine: Handoff,
    pins: HashMap<u64, Pins>,
    /// The time for which a wake-up is under way.
    alarm: Option<Time>,
}

impl Process {
    /// Sends a parcel whose payload names what `pins` hold: from here on it is held for its receiver.
    ///
    /// # Errors
    ///
    /// Why it was not taken; nothing is held for it then.
    pub(crate) fn post(self: &Arc<Self>, parcel: Parcel, pins: Pins) -> Result<(), NotStarted> {
        if pins.is_empty() {
            return self.post_large(parcel);
        }
        let Parcel { to, from, talk, payload } = parcel;
        let (handed, others) = pins.hand_to(to);
        let (talk, number) = if others.is_empty() {
            (talk, None)
        } else {
            let mut state = self.handoffs.state.lock();
            let waiting = state.pins.len();
            let Some(number) = state.machine.send(to) else { return Err(NotStarted::MailboxFull { waiting }) };
            state.pins.insert(number, others);
            (Talk::Counted { number, talk: Box::new(talk) }, Some(number))
        };
        let sent = self.post_large(Parcel { to, from, talk, payload });
        match (&sent, number) {
            (Ok(()), _) => handed.sent(),
            (Err(_), Some(number)) => self.drive_handoffs(Input::NotSent { number }),
            (Err(_), None) => {}
        }
        sent
    }

    /// A message has come that names `refs`: their owners are asked to count this process.
    pub(crate) fn refs_came(self: &Arc<Self>, from: ProcessId, number: Option<u64>, refs: &[ObjectId]) {
        let of_others = |object: &&ObjectId| from != self.me && object.owner != self.me && object.owner != from;
        let objects: Vec<ObjectId> = refs.iter().filter(of_others).copied().collect();
        if number.is_some() || !objects.is_empty() {
            self.drive_handoffs(Input::Arrived { from, number, objects });
        }
    }

    pub(crate) fn drive_handoffs(self: &Arc<Self>, input: Input) {
        let (mut said, mut over) = (Vec::new(), Vec::new());
        {
            let mut state = self.handoffs.state.lock();
            state.machine.handle(clock::now(), input);
            while let Some(output) = state.machine.poll_output() {
                match output {
                    Output::LetGo { number } => over.extend(state.pins.remove(&number)),
                    Output::Hold { owner, receipt, objects } => said.push((owner, Talk::HoldFor { receipt, objects })),
                    Output::Acknowledge { to, numbers } => said.push((to, Talk::Counts { numbers })),
                }
            }
            self.set_handoff_alarm(&mut state);
        }
        for (to, talk) in said {
            self.say(to, talk);
        }
        // Their owners are told by this.
        drop(over);
    }

    fn set_handoff_alarm(self: &Arc<Self>, state: &mut State) {
        let Some(at) = state.machine.next_timeout() else { return };
        if state.alarm.is_some_and(|alarm| alarm <= at) {
            return;
        }
        state.alarm = Some(at);
        let process = Arc::downgrade(self);
        mobula_actor::arbiters::runtime().spawn(async move {
            tokio::time::sleep(at.since(clock::now())).await;
            let Some(process) = process.upgrade() else { return };
            {
                let mut state = process.handoffs.state.lock();
                if state.alarm == Some(at) {
                    state.alarm = None;
                }
            }
            process.drive_handoffs(Input::Tick);
        });
    }
}
