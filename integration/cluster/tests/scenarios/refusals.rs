//! Who may not come in is told so within a second, with what would be right; and it is counted by cause (G20, G21).
//!
//! Seen from the command line, as who joins sees it. What goes over the wire in each case is tried in `runtime/net`.

use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use mobula_cluster::cluster::{Cluster, PORT, Plan, run};
use mobula_net::identity::{Credentials, Identity, Key};
use mobula_net::{Admitted, Authority, Cause, Gate, Mesh, MeshConfig, NetError, PeerIdentity, Refusal, Token};
use mobula_types::{ClusterId, MemberId, Role};

use crate::turns::Turn;
use crate::{cluster, times};

/// The bound (G20), with the start of the program that asks.
const REFUSED: Duration = Duration::from_secs(1);

/// Lets a node try to join from host 1 and gives what it says when it is refused.
fn refused(cluster: &Cluster, words: &[&str], texts: &[&str]) -> Result<()> {
    let mut command = cluster.mobula(1, &["start", "--block", "--port", &PORT.to_string()]);
    command.args(["--address", &cluster.address()]).args(words);
    let begun = Instant::now();
    let Output { status, stderr, .. } = run(command, Duration::from_secs(10))?;
    let (took, said) = (begun.elapsed(), String::from_utf8_lossy(&stderr).into_owned());
    println!("{words:?}: refused after {took:?}");
    ensure!(!status.success(), "{words:?}: it was let in");
    ensure!(took < REFUSED, "{words:?}: refused only after {took:?}: {said}");
    for text in texts {
        ensure!(said.contains(text), "{words:?}: `{said}` does not say `{text}`");
    }
    Ok(())
}

/// What `mobula status` shows of refusals has these, and maybe others.
fn counted(cluster: &Cluster, expected: &[(&str, u64)]) -> Result<()> {
    let counted = cluster.status(0)?.counters.refusals;
    for (cause, count) in expected {
        ensure!(counted.get(*cause) == Some(count), "not {count} of {cause}: {counted:?}");
    }
    Ok(())
}

/// A cluster of a head alone, beside a host on which nobody has joined yet.
fn head_and_stranger() -> Result<Option<(Cluster, Turn)>> {
    let Some((mut cluster, turn)) = cluster(Plan::of(2))? else { return Ok(None) };
    cluster.kill_node(1)?;
    std::fs::remove_dir_all(cluster.node_folder(1))?;
    Ok(Some((cluster, turn)))
}

#[test]
fn a_join_without_a_good_token_is_refused() -> Result<()> {
    let Some((mut cluster, _turn)) = head_and_stranger()? else { return Ok(()) };
    refused(&cluster, &[], &["mobula token create"])?;
    refused(&cluster, &["--token", "nonsense"], &["token"])?;
    let good = cluster.token("node")?;
    refused(&cluster, &["--token", &good[..good.len() - 3]], &["token"])?;
    // A pin of another CA: the secret is sent to nobody.
    let token: Token = good.parse()?;
    let elsewhere = Token { pin: Authority::new(ClusterId([7; 16]), SystemTime::now())?.pin(), ..token.clone() };
    refused(&cluster, &["--token", &elsewhere.to_string()], &["not of this cluster's CA"])?;
    let nobodys = Token::new(token.pin)?;
    refused(&cluster, &["--token", &nobodys.to_string()], &["no such token", "mobula token create"])?;
    let viewer = cluster.token("viewer")?;
    refused(&cluster, &["--token", &viewer], &["role"])?;
    let expired = cluster.ask(0, &["token", "create", "--role", "node", "--ttl", "1"])?;
    std::thread::sleep(Duration::from_millis(1_200));
    let expired = expired.lines().next_back().unwrap_or_default().trim();
    refused(&cluster, &["--token", expired], &["time is over", "mobula token create"])?;

    // Only those that got as far as the head are counted there: what a host sees by itself it does not ask.
    counted(&cluster, &[("token_unknown", 1), ("wrong_role", 1), ("token_expired", 1)])?;

    // None of these was in the way of a good one, which then is used up.
    let used = cluster.token("node")?;
    cluster.host(1).run(|| Ok(join(&cluster, &used.parse()?).map(drop)?))?;
    refused(&cluster, &["--token", &used], &["was used", "mobula token create"])?;
    counted(&cluster, &[("token_used", 1)])?;
    cluster.start_node(1)?;
    cluster.until_alive(2)?;
    Ok(())
}

#[test]
fn a_certificate_that_is_no_good_is_refused() -> Result<()> {
    let Some((mut cluster, _turn)) = head_and_stranger()? else { return Ok(()) };
    let folder = |node: usize| cluster.node_folder(node).join(PORT.to_string());
    let ours = Authority::open(&folder(0), SystemTime::now())?;
    let theirs = Authority::new(ours.cluster(), SystemTime::now())?;
    let (member, now) = (MemberId([9; 16]), SystemTime::now());
    let last_year = now - Duration::from_secs(365 * 24 * 60 * 60);
    let cases = [
        (Identity::issue(&theirs, member, Role::Node, now)?, "not of this cluster's CA"),
        // What a node sees by itself it does not ask the head.
        (Identity::issue(&ours, member, Role::Node, last_year)?, "mobula token create"),
        (Identity::issue(&ours, member, Role::Viewer, now)?, "role"),
    ];
    for (identity, text) in cases {
        std::fs::create_dir_all(folder(1))?;
        identity.store(&folder(1))?;
        refused(&cluster, &[], &[text]).with_context(|| format!("a certificate to be refused with `{text}`"))?;
        std::fs::remove_dir_all(folder(1))?;
    }
    counted(&cluster, &[("wrong_role", 1)])?;
    std::fs::remove_dir_all(cluster.node_folder(1))?;
    cluster.start_node(1)?;
    cluster.until_alive(2)?;
    Ok(())
}

/// Who does not hold its own certificate against it, as `mobula` does, is refused by the head; the head counts why.
#[test]
fn the_head_counts_certificates_that_are_no_good() -> Result<()> {
    let Some((cluster, _turn)) = head_and_stranger()? else { return Ok(()) };
    let ours = Authority::open(&cluster.node_folder(0).join(PORT.to_string()), SystemTime::now())?;
    let theirs = Authority::new(ours.cluster(), SystemTime::now())?;
    let (member, now) = (MemberId([9; 16]), SystemTime::now());
    let last_year = now - Duration::from_secs(365 * 24 * 60 * 60);
    // It says that it believes the head, whom its own CA does not know.
    let key = Key::new()?;
    let certificate = theirs.issue(member, Role::Node, &key.public(), now)?;
    let foreign = Identity::new(&key, certificate, ours.certificate().clone())?;
    let expired = Identity::issue(&ours, member, Role::Node, last_year)?;
    for (identity, cause) in [(foreign, Cause::ForeignAuthority), (expired, Cause::Expired)] {
        for count in 1..=3 {
            let begun = Instant::now();
            let entered = cluster.host(1).run(|| Ok(enter(&cluster, &identity)))?;
            ensure!(begun.elapsed() < REFUSED, "refused only after {:?}", begun.elapsed());
            match entered {
                Err(NetError::Refused(refusal)) if refusal.cause == cause => {}
                other => bail!("expected a refusal because of {cause:?}, found {other:?}"),
            }
            counted(&cluster, &[(cause.word(), count)])?;
        }
    }
    Ok(())
}

/// Comes to the head with a certificate; to be run on a host.
fn enter(cluster: &Cluster, identity: &Identity) -> Result<(), NetError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (head, own) = ((cluster.host(0).ip(), PORT).into(), (cluster.host(1).ip(), 0).into());
    runtime.map_err(NetError::Socket)?.block_on(async {
        let (mesh, _events) = Mesh::bind(MeshConfig::new(own, Credentials::new(identity)?), Arc::new(Nobody)).await?;
        let entered = mesh.enter(head, Default::default(), REFUSED).await;
        mesh.close().await;
        entered.map(drop)
    })
}

/// Lets nobody in.
struct Nobody;

impl Gate for Nobody {
    fn admit(&self, _: &PeerIdentity, _: Bytes) -> BoxFuture<'_, Result<Admitted, Refusal>> {
        Box::pin(async { Err(Refusal::new(Cause::NotReady)) })
    }
}

/// So many guess at once.
const GUESSERS: usize = 8;

#[test]
fn guessing_does_not_help() -> Result<()> {
    let Some((cluster, _turn)) = head_and_stranger()? else { return Ok(()) };
    let token: Token = cluster.token("node")?.parse()?;
    let guesses = times(10_000);
    let (mut burned, mut unheard) = (0, 0);
    cluster.host(1).run(|| {
        let head = (cluster.host(0).ip(), PORT).into();
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let guesses = stream::iter(0..guesses).map(|_| async {
                let guess = Token { secret: Token::new(token.pin)?.secret, ..token.clone() };
                Ok::<_, anyhow::Error>(mobula_net::join(head, &guess, Role::Node, REFUSED).await)
            });
            let mut answers = guesses.buffer_unordered(GUESSERS);
            while let Some(answer) = answers.next().await {
                match answer? {
                    Err(NetError::Refused(refusal)) if refusal.cause == Cause::TokenUnknown => {}
                    Err(NetError::Refused(refusal)) if refusal.cause == Cause::TokenBurned => burned += 1,
                    // The connection may end before its last word was read; the guess was one all the same.
                    Err(NetError::Unreachable { .. }) => unheard += 1,
                    other => bail!("a guess was answered with {other:?}"),
                }
            }
            Ok(())
        })
    })?;
    // Five tries at most; and then the right secret is worth nothing either.
    ensure!(unheard <= guesses / 100, "{unheard} of {guesses} guesses were not answered");
    ensure!(burned + unheard >= guesses - 5, "only {burned} of {guesses} guesses met a burned token");
    refused(&cluster, &["--token", &token.to_string()], &["void", "mobula token create"])?;
    let counts = cluster.status(0)?.counters.refusals;
    let of = |cause: &str| counts.get(cause).copied().unwrap_or(0);
    // The last one was no guess; and who heard nothing may not have been heard either.
    let (counted, shown) = (of("token_unknown") + of("token_burned"), guesses as u64 + 1);
    let sure = shown - unheard as u64;
    ensure!((sure..=shown).contains(&counted), "{shown} wrong secrets were shown, {unheard} in vain: {counts:?}");
    ensure!(of("token_unknown") <= 5, "a token takes five tries: {counts:?}");
    Ok(())
}

/// Redeems a token; to be run on a host.
fn join(cluster: &Cluster, token: &Token) -> Result<Identity, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NetError::Socket)?;
    let head = (cluster.host(0).ip(), PORT).into();
    runtime.block_on(mobula_net::join(head, token, Role::Node, REFUSED))
}
