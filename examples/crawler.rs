//! A tree of supervised crawlers: one actor per site, its fetchers below it, over pages that are made up on the spot.
//!
//! Look at page 13 of each site: its fetcher dies of it, is started again by its parent, and goes on with the next page.
//! The site only notes what became of that page, and nobody above the site hears of it.
//!
//! Run with `cargo run --example crawler`.

use std::collections::BTreeSet;

use mobula::prelude::*;
use serde::{Deserialize, Serialize};

/// One site: knows which pages there are, and leaves the reading to its children.
struct Site {
    fetchers: Vec<ActorRef<Fetcher>>,
}

#[derive(Default, Serialize, Deserialize)]
struct Report {
    read: usize,
    lost: Vec<u64>,
}

#[actor]
impl Site {
    async fn new(ctx: &Context<Self>, site: u64) -> Result<Self> {
        let mut fetchers = Vec::new();
        for _ in 0..FETCHERS {
            // A child: it is restarted by its own policy, and ends with its site.
            fetchers.push(ctx.spawn::<Fetcher>((site,)).await?);
        }
        Ok(Site { fetchers })
    }

    /// Follows links from page 0 until no new page turns up.
    async fn crawl(&mut self) -> Result<Report> {
        let (mut seen, mut frontier) = (BTreeSet::from([0]), vec![0]);
        let mut report = Report::default();
        while !frontier.is_empty() {
            let calls = frontier.iter().zip(self.fetchers.iter().cycle());
            let pages: Vec<(u64, ObjectRef<Vec<u64>>)> =
                calls.map(|(page, fetcher)| (*page, fetcher.links(*page).submit())).collect();
            frontier.clear();
            for (page, links) in pages {
                match links.await {
                    Ok(links) => {
                        report.read += 1;
                        frontier.extend(links.iter().filter(|link| seen.insert(**link)));
                    }
                    Err(CallError::Panicked(_)) => report.lost.push(page),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(report)
    }

    /// How often its fetchers were started, all in all.
    async fn starts(&mut self) -> Result<u32> {
        let mut starts = 0;
        for fetcher in &self.fetchers {
            starts += fetcher.starts().await?;
        }
        Ok(starts)
    }
}

/// Reads pages, one at a time.
struct Fetcher {
    site: u64,
    starts: u32,
}

#[actor(max_restarts = 3)]
impl Fetcher {
    fn new(ctx: &Context<Self>, site: u64) -> Self {
        Fetcher { site, starts: ctx.incarnation().0 }
    }

    fn links(&mut self, page: u64) -> Vec<u64> {
        assert!(page != BROKEN, "page {page} of site {} ends in the middle", self.site);
        // The pages of a site are a tree, with links across.
        [2 * page + 1, 2 * page + 2, page / 2, (page * 7 + self.site) % PAGES]
            .into_iter()
            .filter(|link| *link < PAGES)
            .collect()
    }

    fn starts(&self) -> u32 {
        self.starts
    }
}

const SITES: u64 = 4;
const FETCHERS: u32 = 3;
const PAGES: u64 = 100;
const BROKEN: u64 = 13;

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    // Sites that die for good would take each other down only after three of them have within ten seconds.
    let mut tree = Supervisor::new(Strategy::OneForOne).intensity(3, secs(10));
    for site in 0..SITES {
        tree = tree.child(ChildSpec::new::<Site>(format!("site-{site}"), (site,)).permanent());
    }
    let tree = tree.spawn().await?;
    let mut reports = Vec::new();
    for site in 0..SITES {
        let site = tree.child::<Site>(&format!("site-{site}")).await?;
        reports.push((site.crawl().submit(), site));
    }
    for (n, (report, site)) in reports.into_iter().enumerate() {
        let report = report.await?;
        let starts = site.starts().await?;
        println!(
            "site {n}: {} pages read, {:?} lost, {starts} starts of {FETCHERS} fetchers",
            report.read, report.lost
        );
        assert_eq!(report.lost, [BROKEN]);
        assert_eq!(starts, FETCHERS + 1);
        // What page 13 links to is found from elsewhere, too.
        assert_eq!(report.read as u64, PAGES - 1);
    }
    Ok(())
}
