//! Measures how long it takes to copy the state of another worker: two processes on this host, with
//! a new connection each time, as in a run.
//!
//! `state_bench` writes a line of JSON for each size.

#[path = "../tests/support/processes.rs"]
#[allow(dead_code, reason = "members of an all-reduce need more")]
mod processes;

use std::{
    env,
    error::Error,
    io::Write as _,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use processes::{Member, say};
use secure::Security;
use tokio::{net::TcpListener, runtime, sync::mpsc};
use transport::{
    Endpoint,
    state::{Donor, Snapshot, Source, Vectors, fetch},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const RUN: &str = "state-bench";

/// The secret that the donor demands, as in a run.
const SECRET: [u8; secure::SECRET_BYTES] = [7; secure::SECRET_BYTES];

/// Floats in each of the three vectors: the default model's, and a large one's.
const LENGTHS: [usize; 2] = [973_624, 16_777_216];

const FETCHES: usize = 31;

/// How long the donor may take to begin.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> Outcome<()> {
    transport::keep_freed_blocks();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    match words[..] {
        ["donor", length] => runtime.block_on(donate(length.parse()?)),
        _ => LENGTHS.into_iter().try_for_each(|length| measure(&runtime, length)),
    }
}

/// Gives the same state to every worker that asks.
async fn donate(length: usize) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&format!("place {}", listener.local_addr()?));
    let vector: Vec<f32> = (0..length).map(|index| index as f32).collect();
    let vectors = Vectors::Held(Arc::new([vector.clone(), vector.clone(), vector]));
    let (epochs, validation) = (Vec::new(), Vec::new());
    let snapshot = Arc::new(Snapshot { step: 1, length, epochs, validation, vectors });
    let (recipients, mut asked) = mpsc::channel(1);
    let donor = Donor::new(RUN, recipients);
    donor.demand(SECRET.into());
    let endpoint = Endpoint::new(RUN, 1, length).donating(donor);
    tokio::spawn(endpoint.serve(listener.into()));
    while let Some(recipient) = asked.recv().await {
        recipient.give(Arc::clone(&snapshot));
    }
    Ok(())
}

fn measure(runtime: &runtime::Runtime, length: usize) -> Outcome<()> {
    let mut donor = Command::new(env::current_exe()?);
    let donor = Member::start(donor.args(["donor", &length.to_string()]));
    let address = donor.recv("place", DEADLINE).ok_or("the donor sent nothing")?;
    let (address, security) = (address.parse()?, Security::default());
    let (secret, memory_domain) = (SECRET.into(), String::new());
    let source = Source { address, secret, security, memory_domain };
    let mut seconds = Vec::new();
    let mut bytes = 0;
    for _ in 0..FETCHES {
        let begun = Instant::now();
        let snapshot = runtime.block_on(fetch(&source, RUN, length))?;
        seconds.push(begun.elapsed().as_secs_f64());
        bytes = snapshot.bytes_sent;
    }
    seconds.sort_by(f64::total_cmp);
    let (median, slowest) = (seconds[FETCHES / 2], seconds[FETCHES - 1]);
    writeln!(
        std::io::stdout(),
        r#"{{"bytes":{bytes},"median_ms":{:.2},"slowest_ms":{:.2},"gb_per_second":{:.2}}}"#,
        median * 1e3,
        slowest * 1e3,
        bytes as f64 / median / 1e9
    )?;
    Ok(())
}
