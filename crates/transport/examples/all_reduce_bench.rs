//! Measures the time of an all-reduce; the members are processes on this host.
//!
//! `all_reduce_bench [shm|grpc|grpc-tcp|grpc-tls|two-level]...` writes a line of JSON for each
//! transport, number of members and size; `grpc` uses local sockets. The line has two medians of
//! the leader's time. For `median_ms` the partials do not change, so the all-reduce finds them in
//! the caches. For `fresh_median_ms` every member has just written its partials, as in training.
//! The measured rounds are the same for every transport; the way in which members find each other
//! is not.

#[path = "../tests/support/processes.rs"]
mod processes;

use std::{
    env,
    error::Error,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use collective::{
    AllReduce, Contribution, Generation, Kind, Rank, Round, ShardRange, Share, Step, Tally,
};
use processes::{Member, listen, say};
use secure::{
    Security,
    authority::{self, Validity},
};
use tokio::{net::TcpListener, runtime};
use transport::{Group, Listener, Peer, grpc, shm::Segment, two_level::TwoLevel};

type Outcome<T> = Result<T, Box<dyn Error>>;

const RUN: &str = "all-reduce-bench";

const MEMBERS: [u32; 2] = [2, 4];

/// Members that share memory in the bench of two levels; they act as one host.
const TWO_LEVEL_NEIGHBOURS: u32 = 2;

const UNTOLD: &str = "the places of the other members did not arrive";

/// Floats of a small vector, of the default model's gradient, and of a large one: 4 KB,
/// 3.9 MB, 67 MB.
const LENGTHS: [usize; 3] = [1_000, 973_624, 16_777_216];

/// The time that all rounds of one kind take together, about.
const TARGET: Duration = Duration::from_millis(1_500);
const ROUNDS: std::ops::RangeInclusive<u64> = 15..=3_000;
const WARM_UP_ROUNDS: u64 = 10;

/// How long members may take for all their rounds.
const DEADLINE: Duration = Duration::from_secs(120);

fn main() -> Outcome<()> {
    // A worker does the same.
    transport::keep_freed_blocks();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["member", transport, rank, members, length] => {
            measure(connect(transport, rank.parse()?, members.parse()?, length.parse()?)?)
        }
        [] => run(&["shm", "grpc"]),
        ref transports => run(transports),
    }
}

/// Measures all members and lengths over the transports.
fn run(transports: &[&str]) -> Outcome<()> {
    for (length, members) in LENGTHS.iter().flat_map(|length| MEMBERS.map(|m| (*length, m))) {
        for transport in transports {
            let found = start(transport, members, length)?;
            let bytes = length * size_of::<f32>();
            writeln!(
                std::io::stdout(),
                r#"{{"transport":"{transport}","members":{members},"bytes":{bytes},{found}}}"#
            )?;
        }
    }
    Ok(())
}

/// The environment variable with the certificate folder of members over TLS.
const TLS_DIR: &str = "ALL_REDUCE_BENCH_TLS_DIR";

/// Starts the members, tells each the others' addresses, and returns the leader's results.
fn start(transport: &str, members: u32, length: usize) -> Outcome<String> {
    let mut group: Vec<Member> = Vec::new();
    let folder = tempfile::tempdir()?;
    authority::init(folder.path(), Validity::days(1))?;
    let host = authority::issue(folder.path(), &["localhost".into()], Validity::days(1))?;
    for rank in 0..members {
        let mut command = Command::new(env::current_exe()?);
        command.env(TLS_DIR, &host);
        let numbers = [rank.to_string(), members.to_string(), length.to_string()];
        group.push(Member::start(command.args(["member", transport]).args(numbers)));
    }
    let silent = || format!("a member over {transport} sent nothing; is it a known transport?");
    let heard = |member: &Member, word| member.recv(word, DEADLINE).ok_or_else(silent);
    let places: Vec<String> =
        group.iter().map(|member| heard(member, "place")).collect::<Result<_, _>>()?;
    for member in &mut group {
        member.tell(&places.join(";"));
    }
    let found: Vec<String> =
        group.iter().map(|member| heard(member, "found")).collect::<Result<_, _>>()?;
    Ok(found[0].clone())
}

fn connect(transport: &str, rank: u32, members: u32, length: usize) -> Outcome<Box<dyn AllReduce>> {
    let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let peer = |rank| Peer {
        share: Share { rank: Rank(rank), shards: ShardRange { start: rank, end: rank + 1 } },
        address: unknown.into(),
        secret: [0; secure::SECRET_BYTES].into(),
        memory_domain: match transport {
            "grpc-tcp" | "grpc-tls" => None,
            "two-level" => Some(rank / TWO_LEVEL_NEIGHBOURS),
            _ => Some(0),
        },
    };
    let group = Group {
        run_id: RUN.into(),
        shares_state: false,
        generation: Generation(1),
        shards: members,
        length,
        rank: Rank(rank),
        peers: (0..members).map(peer).collect(),
    };
    match transport {
        "shm" => {
            let (segment, _) = meet(&group, None)?;
            Ok(Box::new(segment.into_all_reduce()?))
        }
        "grpc" | "grpc-tcp" | "grpc-tls" | "two-level" => {
            let runtime =
                runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let folder = env::var_os(TLS_DIR).filter(|_| transport == "grpc-tls");
            let security = Security::load(folder.as_deref().map(Path::new), None, false)?;
            let endpoint = grpc::Endpoint::new(RUN, members, length).secured(security);
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
            let address = listener.local_addr()?;
            let _inside = runtime.enter();
            let listener = Listener::from(listener).and_near(&address.into());
            runtime.spawn(endpoint.clone().serve(listener));
            let connected: Box<dyn AllReduce> = if transport != "two-level" {
                say(&format!("place {address}"));
                let places = listen().ok_or(UNTOLD)?;
                let group = with_addresses(group, &places)?;
                Box::new(runtime.block_on(endpoint.connect(&group))?)
            } else {
                let (segment, places) = meet(&group, Some(address))?;
                let group = with_addresses(group, &places)?;
                Box::new(runtime.block_on(TwoLevel::connect(&endpoint, &group, segment))?)
            };
            // The runtime serves until the process ends.
            std::mem::forget(runtime);
            Ok(connected)
        }
        unknown => Err(format!("no transport {unknown}").into()),
    }
}

/// Makes or opens this host's segment; gives it with the places of all members.
fn meet(group: &Group, address: Option<SocketAddr>) -> Outcome<(Segment, String)> {
    let address = address.map_or("-".into(), |address| address.to_string());
    if group.is_first_of_its_host() {
        let (segment, rendezvous) = Segment::create(group)?;
        say(&format!("place {address},{rendezvous}"));
        return Ok((segment, listen().ok_or(UNTOLD)?));
    }
    say(&format!("place {address},"));
    let places = listen().ok_or(UNTOLD)?;
    let domain = |rank: Rank| group.peers[rank.0 as usize].memory_domain;
    let mut firsts = (0..).map(Rank).zip(places.split(';'));
    let first = firsts.find(|(rank, _)| domain(*rank) == domain(group.rank));
    let rendezvous = first.and_then(|(_, place)| place.split_once(',')).ok_or(UNTOLD)?.1;
    Ok((Segment::open(group, &rendezvous.parse()?)?, places))
}

fn with_addresses(mut group: Group, places: &str) -> Outcome<Group> {
    for (peer, place) in group.peers.iter_mut().zip(places.split(';')) {
        let address: SocketAddr = place.split(',').next().unwrap_or_default().parse()?;
        peer.address = address.into();
    }
    Ok(group)
}

/// One member's rounds; all members do the same.
fn measure(mut member: Box<dyn AllReduce>) -> Outcome<()> {
    let mut rounds = Rounds { member: member.as_mut(), step: 0 };
    for _ in 0..WARM_UP_ROUNDS {
        rounds.fresh()?;
    }
    let count = rounds.agree_on_count()?;
    let in_place = median(&mut (0..count).map(|_| rounds.timed()).collect::<Outcome<Vec<_>>>()?);
    let fresh = median(&mut (0..count).map(|_| rounds.fresh()).collect::<Outcome<Vec<_>>>()?);
    let (in_place, fresh) = (in_place.as_secs_f64() * 1e3, fresh.as_secs_f64() * 1e3);
    say(&format!(
        r#"found "rounds":{count},"median_ms":{in_place:.4},"fresh_median_ms":{fresh:.4}"#
    ));
    // A last round, so that no member ends before all are done. It may fail, because the first member
    // to leave it ends at once.
    let _over = rounds.all_reduce(Kind::Evaluate);
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

struct Rounds<'a> {
    member: &'a mut dyn AllReduce,
    step: u64,
}

impl Rounds<'_> {
    fn all_reduce(&mut self, kind: Kind) -> Outcome<u64> {
        self.all_reduce_with(kind, 0)
    }

    /// The sum of the members' numbers.
    fn all_reduce_with(&mut self, kind: Kind, number: u64) -> Outcome<u64> {
        let tally = Tally { index_sum: number, ..Tally::default() };
        let tallies = vec![tally; self.member.nodes().len()];
        let round = Round { step: Step(self.step), kind };
        self.step += 1;
        let contribution = Contribution { tallies, ..Contribution::default() };
        Ok(self.member.all_reduce(round, &contribution)?.tally.index_sum)
    }

    fn timed(&mut self) -> Outcome<Duration> {
        let begun = Instant::now();
        self.all_reduce(Kind::Train)?;
        Ok(begun.elapsed())
    }

    /// The time of a round with freshly written partials, as in training. It begins when all members
    /// are ready.
    fn fresh(&mut self) -> Outcome<Duration> {
        let value = self.step as f32;
        self.member.partial_mut(0).fill(value);
        self.all_reduce(Kind::Evaluate)?;
        self.timed()
    }

    /// The number of rounds that fits into [`TARGET`], the same on every member.
    fn agree_on_count(&mut self) -> Outcome<u64> {
        let nanos = u64::try_from(self.fresh()?.as_nanos())?;
        let all_members = self.all_reduce_with(Kind::Evaluate, nanos)?;
        let target = u64::try_from(TARGET.as_nanos())?;
        Ok((target / all_members.max(1)).clamp(*ROUNDS.start(), *ROUNDS.end()))
    }
}
