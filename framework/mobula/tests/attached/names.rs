//! Names that several programs share, and actors that outlive theirs. The other programs are processes of this
//! executable, or of a copy that is another program to the cluster.

use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

use mobula::prelude::*;
use mobula::{LookupError, SpawnError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{HANGS, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a name is of its namespace", || Box::pin(a_name_is_of_its_namespace())),
    ("a taken name says what to do", || Box::pin(a_taken_name_says_what_to_do())),
    ("racing programs get one actor", || Box::pin(racing_programs_get_one_actor())),
    ("a detached actor outlives its program", || Box::pin(a_detached_actor_outlives_its_program())),
    ("another program asks a detached actor", || Box::pin(another_program_asks_a_detached_actor())),
    ("another build that differs is told what differs", || Box::pin(another_build_that_differs_is_told_what_differs())),
    ("a detached actor is started again", || Box::pin(a_detached_actor_is_started_again())),
    ("a detached actor that does not start says why", || Box::pin(a_detached_actor_that_does_not_start_says_why())),
    ("who watches a detached actor hears of its end", || Box::pin(who_watches_a_detached_actor_hears_of_its_end())),
    ("what cannot be detached says so", || Box::pin(what_cannot_be_detached_says_so())),
    ("what a detached actor begins with is bounded", || Box::pin(what_a_detached_actor_begins_with_is_bounded())),
];

/// Names what a process of this executable is to do as another program.
pub(crate) const DRIVER: &str = "MOBULA_TEST_DRIVER";

static ADDRESS: OnceLock<String> = OnceLock::new();

/// Where other programs attach.
pub(crate) fn here(address: &str) {
    ADDRESS.set(address.to_owned()).ok();
}

/// A till that several programs put into.
struct Till {
    total: u64,
}

#[actor]
impl Till {
    fn new(total: u64) -> Result<Self> {
        if total == 13 {
            return Err(mobula::Error::msg("no till begins with 13"));
        }
        Ok(Till { total })
    }

    fn put(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn abort(&self) {
        std::process::abort();
    }
}

/// At the end of a file whose program is another build.
const OTHER_BUILD: &[u8] = b"another build";

/// Whether this program is the other build: its workers run the same file, so they know it too.
fn is_other_build() -> bool {
    static IS_OTHER: OnceLock<bool> = OnceLock::new();
    *IS_OTHER.get_or_init(|| fs::read("/proc/self/exe").expect("a program has a file").ends_with(OTHER_BUILD))
}

/// What lies on a scale. The other build writes its unit beside it.
struct Load(u64);

impl Serialize for Load {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match is_other_build() {
            true => (self.0, "g").serialize(serializer),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Load {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match is_other_build() {
            true => <(u64, String)>::deserialize(deserializer).map(|(load, _)| Load(load)),
            false => u64::deserialize(deserializer).map(Load),
        }
    }
}

/// An actor that the two builds know with different types.
struct Scale {
    tare: u64,
}

#[actor]
impl Scale {
    fn new(tare: u64) -> Self {
        Scale { tare }
    }

    fn weigh(&self, load: Load) -> u64 {
        load.0.saturating_sub(self.tare)
    }

    fn tare(&self) -> u64 {
        self.tare
    }
}

/// An actor with arguments of any size, and references among them.
struct Shelf {
    bytes: usize,
}

#[actor]
impl Shelf {
    fn new(load: Vec<u8>, more: Vec<ObjectRef<u64>>) -> Self {
        Shelf { bytes: load.len() + more.len() }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What this process does as another program; what it prints is its answer.
pub(crate) fn drive(scenario: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("there are threads");
    let answer: Result<String> = runtime.block_on(async {
        let session = mobula::init().await?;
        let answer = match scenario {
            "look" => match mobula::actor::<Till>("till").await {
                Ok(till) => till.put(1).await?.to_string(),
                Err(LookupError::NoSuchName { name }) => format!("no {name}"),
                Err(error) => return Err(error.into()),
            },
            "look in town" => mobula::actor::<Till>("till").namespace("town").await?.put(1).await?.to_string(),
            "get" => {
                let till = Till::spawn(0).name("race").detached().get_if_exists().await?;
                till.put(1).await?;
                till.address().id().to_string()
            }
            "weigh" => match mobula::actor::<Scale>("scale").await {
                Ok(scale) => scale.weigh(Load(7)).await?.to_string(),
                Err(error) => error.to_string(),
            },
            "weigh or build" => match Scale::spawn(0).name("scale").detached().get_if_exists().await {
                Ok(scale) => scale.weigh(Load(7)).await?.to_string(),
                Err(error) => error.to_string(),
            },
            "end their scale" => {
                mobula::actor::<Scale>("their scale").await?.stop();
                free::<Scale>("their scale", "mill").await;
                "ended".to_owned()
            }
            "leave a scale" => Scale::spawn(2).name("their scale").detached().await?.weigh(Load(7)).await?.to_string(),
            "leave" => {
                let till = Till::spawn(100).name("left").detached().await?;
                till.put(5).await?.to_string()
            }
            "put and end" => {
                mobula::actor::<Till>("left").await?.put(1).tell()?;
                println!("answer: told");
                drop(session);
                #[expect(clippy::disallowed_methods, reason = "nothing of this program is to have another moment")]
                std::process::exit(0)
            }
            "nap" => super::scheduling::naps(super::scheduling::FEW).await?.to_string(),
            other => return Err(mobula::Error::msg(format!("nobody drives {other}"))),
        };
        session.stop().await;
        Ok(answer)
    });
    match answer {
        Ok(answer) => {
            println!("answer: {answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{scenario}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs another program, and gives what it says.
pub(crate) async fn run(program: &Path, scenario: &str, namespace: Option<&str>) -> String {
    let mut command = tokio::process::Command::new(program);
    command.env(DRIVER, scenario).env("MOBULA_ADDRESS", ADDRESS.get().expect("the nodes run"));
    command.env_remove("MOBULA_NAMESPACE").stdout(Stdio::piped()).kill_on_drop(true);
    if let Some(namespace) = namespace {
        command.env("MOBULA_NAMESPACE", namespace);
    }
    let mut child = command.spawn().expect("the program is there");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let answer = tokio::time::timeout(HANGS, async {
        let mut answer = None;
        while let Some(line) = lines.next_line().await.expect("it writes text") {
            answer = line.strip_prefix("answer: ").map(str::to_owned).or(answer);
        }
        assert!(child.wait().await.expect("it ends").success(), "{scenario}");
        answer
    });
    answer.await.expect("it does not hang").expect("it answers")
}

pub(crate) fn this_program() -> PathBuf {
    env::current_exe().expect("a program has a file")
}

async fn a_name_is_of_its_namespace() -> Result<()> {
    let own = Till::spawn(0).name("till").await?;
    let shared = Till::spawn(50).name("till").namespace("town").await?;
    assert_ne!(own, shared);
    assert_eq!(mobula::actor::<Till>("till").await?, own);
    assert_eq!(mobula::actor::<Till>("till").namespace("town").await?, shared);
    assert_eq!(run(&this_program(), "look", None).await, "no till", "nobody else can say this job's namespace");
    assert_eq!(run(&this_program(), "look", Some("village")).await, "no till");
    assert_eq!(run(&this_program(), "look", Some("town")).await, "51");
    assert_eq!(run(&this_program(), "look in town", None).await, "52");
    assert_eq!(own.put(0).await?, 0);
    Ok(())
}

async fn a_taken_name_says_what_to_do() -> Result<()> {
    let first = Till::spawn(1).name("one").await?;
    let taken = Till::spawn(2).name("one").await.unwrap_err();
    assert!(matches!(&taken, SpawnError::NameTaken { name, by } if name == "one" && *by == first.address().id()));
    assert!(taken.to_string().contains(".get_if_exists()"), "{taken}");
    assert_eq!(Till::spawn(2).name("one").get_if_exists().await?, first);
    // Two actors are spawned from within, at once: the name is claimed before either begins.
    let spawned = mobula::get(spawn_twice::remote("two")).await?;
    let (started, refused) = &*spawned;
    assert_eq!((*started, refused.len()), (1, 1), "{refused:?}");
    assert!(refused[0].contains("`two` is taken by"), "{refused:?}");
    Ok(())
}

/// Spawns two actors of one name inside a worker; how many began, and what the others say.
#[remote]
async fn spawn_twice(name: String) -> (usize, Vec<String>) {
    let both = futures_util::future::join(
        Till::spawn(0).name(name.clone()).into_future(),
        Till::spawn(0).name(name).into_future(),
    );
    let both = both.await;
    let both = [both.0, both.1];
    let refused = both.iter().filter_map(|till| till.as_ref().err().map(ToString::to_string)).collect();
    (both.iter().filter(|till| till.is_ok()).count(), refused)
}

async fn racing_programs_get_one_actor() -> Result<()> {
    let program = this_program();
    let racing = (0..4).map(|_| run(&program, "get", Some("race")));
    let mut ids = futures_util::future::join_all(racing).await;
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let till = mobula::actor::<Till>("race").namespace("race").await?;
    assert_eq!((till.address().id().to_string(), till.put(0).await?), (ids[0].clone(), 4));
    end(&till).await;
    Ok(())
}

/// Waits until nobody has a name any more.
async fn free<A: Actor>(name: &str, namespace: &str) {
    let is_free = async {
        loop {
            match mobula::actor::<A>(name).namespace(namespace).await {
                Err(LookupError::NoSuchName { .. }) => return,
                _ => tokio::time::sleep(mobula::millis(1)).await,
            }
        }
    };
    tokio::time::timeout(HANGS, is_free).await.expect("a name is free after its actor's end");
}

/// Stops a detached actor and waits until its name is free: such outlive a test.
async fn end(till: &ActorRef<Till>) {
    till.stop();
    let gone = async {
        while till.put(0).await.is_ok() {
            tokio::time::sleep(mobula::millis(1)).await;
        }
    };
    tokio::time::timeout(HANGS, gone).await.expect("a stopped actor ends");
}

async fn a_detached_actor_outlives_its_program() -> Result<()> {
    assert_eq!(run(&this_program(), "leave", Some("shop")).await, "105");
    let till = mobula::actor::<Till>("left").namespace("shop").await?;
    assert_eq!(till.put(1).await?, 106, "it has gone on, with its state");
    for total in 107..117 {
        run(&this_program(), "put and end", Some("shop")).await;
        let has_come = async {
            while till.put(0).await? < total {
                tokio::time::sleep(mobula::millis(1)).await;
            }
            Ok::<_, mobula::Error>(())
        };
        tokio::time::timeout(HANGS, has_come).await.expect("what a program says last arrives")?;
    }
    let another = Till::spawn(0).name("left").namespace("shop").detached().await.unwrap_err();
    assert!(matches!(another, SpawnError::NameTaken { by, .. } if by == till.address().id()), "{another}");
    end(&till).await;
    let gone = async {
        loop {
            match mobula::actor::<Till>("left").namespace("shop").await {
                Ok(_) => tokio::time::sleep(mobula::millis(1)).await,
                Err(error) => return error,
            }
        }
    };
    let gone = tokio::time::timeout(HANGS, gone).await.expect("its name is free soon");
    assert!(matches!(gone, LookupError::NoSuchName { .. }), "{gone:?}");
    Ok(())
}

/// The same code in a file of its own: to the cluster it is another program. Its folder goes when all is done.
fn other_build(of: &str) -> Result<(PathBuf, PathBuf)> {
    let folder = env::temp_dir().join(format!("mobula-other-{of}-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let other = folder.join("other");
    fs::copy(this_program(), &other)?;
    let mut bytes = fs::OpenOptions::new().append(true).open(&other)?;
    std::io::Write::write_all(&mut bytes, OTHER_BUILD)?;
    Ok((folder, other))
}

async fn another_build_that_differs_is_told_what_differs() -> Result<()> {
    let (folder, other) = other_build("scale")?;
    let scale = Scale::spawn(2).name("scale").namespace("mill").detached().await?;
    // What both builds agree on is no obstacle to this one.
    assert_eq!(run(&this_program(), "weigh", Some("mill")).await, "5");
    for scenario in ["weigh", "weigh or build"] {
        let told = run(&other, scenario, Some("mill")).await;
        for says in ["`scale` is no ", "Scale of this program", "Scale::weigh", "with other types", "one version"] {
            assert!(told.contains(says), "{scenario}: `{told}` does not say `{says}`");
        }
        assert!(!told.contains("Scale::tare"), "what is the same is not blamed: {told}");
    }
    // And the other way round: their own program asks theirs, this one does not.
    assert_eq!(run(&other, "leave a scale", Some("mill")).await, "5");
    let refused = mobula::actor::<Scale>("their scale").namespace("mill").await.map(drop).unwrap_err();
    assert!(
        matches!(&refused, LookupError::OtherType { name, difference, .. }
            if name == "mill/their scale" && difference.contains("Scale::weigh")),
        "{refused:?}"
    );
    // The refused programs have touched nothing.
    assert_eq!((scale.weigh(Load(9)).await?, scale.tare().await?), (7, 2));
    scale.stop();
    free::<Scale>("scale", "mill").await;
    assert_eq!(run(&other, "end their scale", Some("mill")).await, "ended");
    fs::remove_dir_all(&folder)?;
    Ok(())
}

async fn what_a_detached_actor_begins_with_is_bounded() -> Result<()> {
    let spawn = |bytes: usize, more: Vec<ObjectRef<u64>>| {
        Shelf::spawn(vec![7; bytes], more).name("shelf").namespace("shop").detached()
    };
    let over = spawn(64 << 10, Vec::new()).await.map(drop).unwrap_err();
    let SpawnError::ArgumentsTooLarge { name, bytes, max } = &over else { panic!("{over:?}") };
    assert!(name == "shop/shelf" && *bytes > *max && *max == 64 << 10, "{over:?}");
    assert!(over.to_string().contains("send it in a message"), "{over}");
    let object = mobula::put(1)?;
    let refers = spawn(1, vec![object.clone(), mobula::put(2)?]).await.map(drop).unwrap_err();
    assert_eq!(refers, SpawnError::ArgumentsRefer { name: "shop/shelf".into(), objects: 2 });
    assert!(refers.to_string().contains("pass their values"), "{refers}");
    // Nothing was sent: the name is free.
    let nobody = mobula::actor::<Shelf>("shelf").namespace("shop").await.map(drop).unwrap_err();
    assert!(matches!(nobody, LookupError::NoSuchName { .. }), "{nobody:?}");
    let shelf = spawn(60 << 10, Vec::new()).await?;
    assert_eq!((shelf.bytes().await?, *mobula::get(object).await?), (60 << 10, 1));
    // Any actor of a job may begin with more.
    let large = Shelf::spawn(vec![7; 1 << 20], Vec::new()).name("large").await?;
    assert_eq!(large.bytes().await?, 1 << 20);
    shelf.stop();
    free::<Shelf>("shelf", "shop").await;
    Ok(())
}

async fn another_program_asks_a_detached_actor() -> Result<()> {
    let (folder, other) = other_build("till")?;
    let till = Till::spawn(10).name("till").namespace("market").detached().await?;
    assert_eq!(run(&other, "look", Some("market")).await, "11");
    assert_eq!(run(&other, "leave", Some("market")).await, "105", "it starts in workers of its own program");
    let left = mobula::actor::<Till>("left").namespace("market").await?;
    assert_ne!(left.pid().await?, till.pid().await?);
    assert_eq!(left.put(1).await?, 106);
    end(&left).await;
    end(&till).await;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

async fn a_detached_actor_is_started_again() -> Result<()> {
    let till = Till::spawn(1).name("again").namespace("shop").detached().await?;
    let beside = Till::spawn(1).name("beside").namespace("shop").detached().await?;
    let first = till.pid().await?;
    assert_eq!((first, till.put(1).await?), (beside.pid().await?, 2), "they share a worker");
    assert!(till.abort().await.is_err());
    // It starts anew with its arguments, in a process of its own: it has taken one down.
    let second = retried(|| till.pid()).await;
    assert_ne!(second, first);
    assert_eq!(till.put(0).await?, 1);
    let third = retried(|| beside.pid()).await;
    assert!(third != second && third != first, "a bystander does not live with it");
    end(&till).await;
    end(&beside).await;
    Ok(())
}

/// Asks until there is an answer: what asks while an actor falls may be answered with its death.
async fn retried<T, F: IntoFuture<Output = Result<T, CallError>>>(ask: impl Fn() -> F) -> T {
    let asked = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(CallError::MayHaveRun(_)) => tokio::time::sleep(mobula::millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(HANGS, asked).await.expect("it comes back")
}

async fn a_detached_actor_that_does_not_start_says_why() -> Result<()> {
    let error = Till::spawn(13).name("thirteen").namespace("shop").detached().await.unwrap_err();
    assert!(matches!(error, SpawnError::StartFailed(_)), "{error:?}");
    assert!(error.to_string().contains("no till begins with 13"), "{error}");
    let till = Till::spawn(14).name("thirteen").namespace("shop").detached().await?;
    end(&till).await;
    Ok(())
}

struct Watcher {
    downs: Vec<(u32, bool)>,
}

#[actor]
impl Watcher {
    fn new() -> Self {
        Watcher { downs: Vec::new() }
    }

    fn watch(&mut self, till: ActorRef<Till>, ctx: &Context<Self>) {
        ctx.watch(&till);
    }

    fn downs(&mut self) -> Vec<(u32, bool)> {
        self.downs.clone()
    }
}

impl Handler<Down> for Watcher {
    async fn handle(&mut self, down: Down, _: &Context<Self>) {
        self.downs.push((down.incarnation.0, down.ended));
    }
}

async fn who_watches_a_detached_actor_hears_of_its_end() -> Result<()> {
    let till = Till::spawn(1).name("watched").namespace("shop").detached().await?;
    let watcher = Watcher::spawn().await?;
    watcher.watch(till.clone()).await?;
    till.abort().await.ok();
    retried(|| till.pid()).await;
    end(&till).await;
    let heard = async {
        loop {
            let downs = watcher.downs().await?;
            if downs.iter().any(|(_, ended)| *ended) {
                return Ok::<_, mobula::Error>(downs);
            }
            tokio::time::sleep(mobula::millis(1)).await;
        }
    };
    let downs = tokio::time::timeout(HANGS, heard).await.expect("an end is told")?;
    // Whether it comes back is not known at once when a process ends.
    let lives: Vec<u32> = downs.iter().map(|(life, _)| *life).collect();
    assert_eq!((downs.first(), downs.last()), (Some(&(1, false)), Some(&(2, true))), "{downs:?}");
    assert!(lives.is_sorted() && lives.iter().all(|life| (1..=2).contains(life)), "{downs:?}");
    Ok(())
}

async fn what_cannot_be_detached_says_so() -> Result<()> {
    for (spawn, says) in [
        (Till::spawn(1).namespace("shop").detached(), "a detached actor has a name"),
        (Till::spawn(1).name("a").detached(), "choose one with `.namespace(..)`"),
    ] {
        let error = spawn.await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    Ok(())
}
