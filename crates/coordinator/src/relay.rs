//! `board --coordinator URL`: shows a run of another machine on this machine's board. The rows and files
//! that the coordinator sends are kept in a temporary folder, which the board reads like any run
//! directory. When the coordinator is restarted, the stream continues from the last position.

mod mirror;
mod model;

use std::{
    future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use board::{Explorer, Places, Reading, Show, Source};
use protocol::{
    FOLLOW_MESSAGE_BYTES_MAX, door,
    status::{is_transient, reason},
    wire::{FollowReply, coordinator_client::CoordinatorClient, follow_reply::Body},
};
use secure::{Address, Authorized, Security, connection::BoxFuture};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tonic::{Code, Status, Streaming, transport::Endpoint};

use self::{mirror::Mirror, model::Remote};
use crate::board::{Opened, reading, show_at};

/// How long the coordinator may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest silence of a stream; a status comes twice a second.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The time before each reconnection to the coordinator.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// The last status from the coordinator; none while there is no connection.
#[derive(Clone, Debug, Default)]
struct Latest(Arc<Mutex<Option<Reading>>>);

impl Latest {
    fn set(&self, reading: Option<Reading>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }
}

impl Source for Latest {
    fn read(&self) -> BoxFuture<'static, Option<Reading>> {
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(future::ready(latest))
    }
}

/// Why a stream is over.
enum Over {
    /// The connection is lost; a later reconnection may succeed.
    Lost(String),
    /// All rows are void, and must be sent again.
    Restarted,
    /// A reconnection would fail in the same way.
    Refused(anyhow::Error),
}

impl Over {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Lost(why) => anyhow!(why),
            Self::Restarted => anyhow!("the coordinator has begun again"),
            Self::Refused(error) => error,
        }
    }
}

/// How to connect to the coordinator.
#[derive(Debug)]
struct Coordinator {
    url: String,
    security: Security,
    endpoint: Endpoint,
    address: Address,
}

/// Shows the run of the coordinator at `url` until a signal ends the program.
pub(crate) fn relay(
    url: &str,
    security: Security,
    opened: Opened,
    page: Option<Arc<dyn Explorer>>,
) -> Result<String> {
    let (endpoint, address) = security.coordinator(url)?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(door::KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(SILENCE_MAX);
    let coordinator = Arc::new(Coordinator { url: url.to_owned(), security, endpoint, address });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let channel = runtime.block_on(coordinator.connect()).map_err(Over::into_error)?;
    let folder = tempfile::Builder::new().prefix("lockstep-board-").tempdir();
    let folder = folder.context("cannot make a temporary folder for what the coordinator sends")?;
    let mut mirror = Mirror::new(folder.path());
    let _ends = clean_up_at_signals(&mirror, folder.path().to_owned())?;
    stdout::say!("{}", opened.line()?);
    let latest = Latest::default();
    let places = Places { current: None, folder: Some(folder.path().to_owned()) };
    let (_stop, stopped) = oneshot::channel::<()>();
    let explorer = page.map(|page| {
        let (coordinator, runtime) = (Arc::clone(&coordinator), runtime.handle().clone());
        Arc::new(Remote { page, coordinator, runtime }) as Arc<dyn Explorer>
    });
    let show = Show { source: Some(Arc::new(latest.clone())), places, explorer };
    show_at(opened, show, stopped)?;
    let ended = runtime.block_on(coordinator.follow(channel, &mut mirror, &latest));
    Err(ended)
}

/// Lets a signal remove the mirror's folder before the program ends.
fn clean_up_at_signals(mirror: &Mirror, folder: PathBuf) -> Result<process::signals::Listening> {
    let writing = mirror.writing();
    let handle = move |stop: process::signals::Stop| {
        // Held to the end, so that the mirror writes no more.
        let _writing = writing.lock();
        let _gone_with_the_system = std::fs::remove_dir_all(&folder);
        std::process::exit(i32::from(stop.exit_code()));
    };
    process::signals::listen(handle).context("cannot listen for signals")
}

impl Coordinator {
    async fn connect(&self) -> Result<Authorized, Over> {
        let channel = self.security.channel(&self.endpoint, &self.address).await;
        let channel = channel.map_err(|error| match Security::refused(&error) {
            Some(reason) => {
                Over::Refused(anyhow!("cannot follow the coordinator at {}: {reason}", self.url))
            }
            None => {
                let cause = limits::cause(&error);
                Over::Lost(format!("no coordinator answers at {} ({cause})", self.url))
            }
        })?;
        Ok(self.security.authorize(channel))
    }

    /// Follows the run over one connection after the other. Returns the error that ends this.
    async fn follow(
        &self,
        channel: Authorized,
        mirror: &mut Mirror,
        latest: &Latest,
    ) -> anyhow::Error {
        let (mut channel, mut failures) = (Some(channel), 0);
        loop {
            let over = match channel.take() {
                Some(channel) => self.stream(channel, mirror, latest, &mut failures).await,
                None => match self.connect().await {
                    Ok(connected) => {
                        channel = Some(connected);
                        continue;
                    }
                    Err(over) => over,
                },
            };
            latest.set(None);
            match over {
                Over::Refused(error) => return error,
                Over::Restarted => mirror.begin_again(),
                Over::Lost(why) => {
                    if failures == 0 {
                        stdout::say!("{why}; trying again");
                    }
                    sleep(AGAIN[failures.min(AGAIN.len() - 1)]).await;
                    failures += 1;
                }
            }
        }
    }

    async fn stream(
        &self,
        channel: Authorized,
        mirror: &mut Mirror,
        latest: &Latest,
        failures: &mut usize,
    ) -> Over {
        let mut client =
            CoordinatorClient::new(channel).max_decoding_message_size(FOLLOW_MESSAGE_BYTES_MAX);
        let mut replies = match client.follow(mirror.request()).await {
            Ok(replies) => replies.into_inner(),
            Err(status) => return self.over(&status),
        };
        loop {
            match next(&mut replies).await {
                Ok(Body::Status(status)) => latest.set(Some(reading(status))),
                Ok(body) => {
                    if let Body::Run(run) = &body {
                        *failures = 0;
                        stdout::say!("Following run {} at {}", run.run_id, self.url);
                    }
                    match mirror.take_in(body) {
                        Ok(true) => {}
                        Ok(false) => return Over::Restarted,
                        Err(error) => return Over::Refused(error),
                    }
                }
                Err(status) => return self.over(&status),
            }
        }
    }

    fn over(&self, status: &Status) -> Over {
        let url = &self.url;
        match status.code() {
            code if is_transient(code) => Over::Lost(format!("{url}: {}", reason(status))),
            Code::Unimplemented => Over::Refused(anyhow!(
                "the coordinator at {url} is of an earlier version, which no board can follow"
            )),
            _ => Over::Refused(anyhow!("{url}: {}", reason(status))),
        }
    }
}

async fn next(replies: &mut Streaming<FollowReply>) -> Result<Body, Status> {
    let reply = timeout(SILENCE_MAX, replies.message()).await.map_err(|_| silent())??;
    let reply = reply.ok_or_else(|| Status::unavailable("the coordinator has ended the stream"))?;
    reply.body.ok_or_else(|| Status::invalid_argument("the coordinator sent an empty message"))
}

fn silent() -> Status {
    Status::deadline_exceeded("the coordinator has gone silent")
}
