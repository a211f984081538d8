//! What lives, runs and waits in this process, for lists and for `mobula why`.
//!
//! What waits for a place says with which request: its node knows what that lacks. All other reasons are known here.

use mobula_logic::dispatch::Standing;
use mobula_types::Time;
use mobula_types::state::Listed;
use mobula_wire::local::RequestId;

use mobula_actor::clock;
use mobula_actor::patrol::patrol;
use mobula_logic::waits::AGE_MIN;

use super::process::Process;

/// Items that one process lists at most: what fits in one word to its node. One that is asked for by its id is found among
/// all.
const LISTED_MAX: usize = 4_096;

/// Waits that one process tells of at most, and objects of whose makers it tells: lines that are short.
const WAITS_MAX: usize = 1_024;

/// The kind of a line that says who awaits whom; no list shows it.
pub(crate) const WAIT: &str = "wait";

/// Items, and which of them wait for which request for a place.
type Listing = (Vec<Listed>, Vec<(u32, RequestId)>);

impl Process {
    /// What is here, or the one thing with the id `only`.
    pub(crate) fn listed(&self, only: Option<&str>) -> Listing {
        let is_wanted = |id: &str| only.is_none_or(|only| only == id);
        let mut listing = Listing::default();
        let homes = self.homes.waiting().into_iter();
        for (item, request) in homes.chain(self.living()).filter(|(item, _)| is_wanted(&item.id)).take(LISTED_MAX) {
            add(&mut listing, item, request);
        }
        let room = LISTED_MAX - listing.0.len();
        self.tasks.each(|table| {
            let now = clock::now();
            let standing = table.dispatch.standings().filter_map(|(key, standing)| {
                let entry = table.entries.get(key)?;
                let id = entry.id.to_string();
                if !is_wanted(&id) {
                    return None;
                }
                let mut item = Listed {
                    id,
                    kind: "task".into(),
                    name: entry.name(),
                    since_s: now.since(entry.since).as_secs_f64(),
                    attempt: table.dispatch.attempt(key).map(|attempt| attempt.0),
                    ..Listed::default()
                };
                let mut request = None;
                match standing {
                    Standing::Waits { shape, before } => {
                        item.state = "waiting".into();
                        item.why = (before > 0)
                            .then(|| format!("{before} older or more urgent ones of its process wait for the same"));
                        request = table.dispatch.asked(shape).find_map(|asked| table.requests.get(&asked).copied());
                        if request.is_none() && item.why.is_none() {
                            item.why = Some("the places that its process has are full".into());
                        }
                    }
                    Standing::Sent { process, before } => {
                        item.node_id = Some(process.node().to_string());
                        item.state = if before == 0 { "running" } else { "sent" }.into();
                        item.why = (before > 0).then(|| format!("{before} older ones were sent to the same place"));
                    }
                    Standing::Retry { again_at } => {
                        item.state = "waiting".into();
                        item.cause = entry.cause();
                        item.why = Some(due("its next run", again_at, now));
                    }
                }
                Some((item, request))
            });
            for (item, request) in standing.take(room) {
                add(&mut listing, item, request);
            }
        });
        self.add_waits(&mut listing.0);
        listing
    }

    /// Who of those that run here awaits whom, each a line of its own: the list that they are in may be another process's.
    fn add_waits(&self, items: &mut Vec<Listed>) {
        let Some(system) = self.system() else { return };
        let now = clock::now();
        let line = |id: String, on: String, since_s: f64| Listed {
            id,
            kind: WAIT.into(),
            since_s,
            awaits: vec![on],
            ..Listed::default()
        };
        let before = Time::ZERO + now.since(Time::ZERO).saturating_sub(AGE_MIN);
        let awaited = patrol().awaited(before, WAITS_MAX);
        items.extend(
            awaited.into_iter().map(|wait| line(wait.by.to_string(), wait.on, now.since(wait.since).as_secs_f64())),
        );
        let made = system.makers(WAITS_MAX).into_iter();
        items.extend(made.map(|(object, maker)| line(object.to_string(), maker.to_string(), 0.0)));
    }

    /// The actors that live here.
    fn living(&self) -> Vec<(Listed, Option<RequestId>)> {
        let Some(system) = self.system() else { return Vec::new() };
        let actors = system.actors().into_iter().map(|actor| Listed {
            id: actor.id.to_string(),
            kind: "actor".into(),
            name: actor.name.clone().unwrap_or_else(|| actor.type_name.to_owned()),
            node_id: Some(self.me.node().to_string()),
            state: format!("{:?}", actor.state).to_lowercase(),
            incarnation: Some(actor.incarnation.0),
            ..Listed::default()
        });
        actors.map(|item| (item, None)).collect()
    }
}

fn add((items, requests): &mut Listing, item: Listed, request: Option<RequestId>) {
    if let (Some(request), Ok(at)) = (request, u32::try_from(items.len())) {
        requests.push((at, request));
    }
    items.push(item);
}

/// That something happens after a while.
pub(super) fn due(what: &str, at: Time, now: Time) -> String {
    format!("{what} is due in {} ms", at.since(now).as_millis())
}
