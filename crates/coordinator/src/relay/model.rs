//! The page of the latent space for a run on another machine: the coordinator there reads the checkpoint
//! and the examples, and the page here shows them.

use std::{path::Path, sync::Arc, time::Duration};

use board::{Exploration, Explorer, PageFile};
use bytes::BytesMut;
use protocol::{
    status::reason,
    wire::{
        ExploreReply, ExploreRequest, coordinator_client::CoordinatorClient, explore_reply::Part,
    },
};
use serde_json::Value;
use tokio::{runtime::Handle, time::timeout};
use tonic::{Code, Status, Streaming};

use super::{Coordinator, silent};
use crate::{files, run_dir};

/// How long the coordinator may be silent; it reads the checkpoint before it answers.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The most bytes of a model and its examples.
const BYTES_MAX: usize = 128 << 20;

/// Shows models that the coordinator sends, on the program's own page.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) page: Arc<dyn Explorer>,
    pub(super) coordinator: Arc<Coordinator>,
    /// The runtime that drives the connection.
    pub(super) runtime: Handle,
}

impl Explorer for Remote {
    fn task(&self) -> &str {
        self.page.task()
    }

    fn files(&self) -> Vec<PageFile> {
        self.page.files()
    }

    fn open(&self, run_dir: &Path) -> Result<Exploration, String> {
        let configuration = files::read(&run_dir.join(run_dir::CONFIG)).unwrap_or_default();
        let configuration: Value = serde_json::from_str(&configuration).unwrap_or_default();
        let run_id = configuration["run_id"].as_str().unwrap_or_default().to_owned();
        self.runtime.block_on(self.fetch(run_id))
    }
}

impl Remote {
    async fn fetch(&self, run_id: String) -> Result<Exploration, String> {
        let channel = self.coordinator.connect().await.map_err(|over| {
            format!("{:#}; only the coordinator has the model", over.into_error())
        })?;
        let told = |status: Status| match status.code() {
            Code::Unimplemented => {
                "the coordinator is of an earlier version, which sends no models".to_owned()
            }
            _ => reason(&status),
        };
        let mut client = CoordinatorClient::new(channel);
        let asked = timeout(SILENCE_MAX, client.explore(ExploreRequest { run_id })).await;
        let replies = asked.map_err(|_| silent()).and_then(|replies| replies).map_err(told)?;
        taken_in(replies.into_inner()).await.map_err(told)
    }
}

async fn taken_in(mut replies: Streaming<ExploreReply>) -> Result<Exploration, Status> {
    let (mut step, mut meta) = (0, None);
    let [mut parameters, mut levels, mut labels] = [(); 3].map(|()| BytesMut::new());
    let mut bytes = 0;
    while let Some(reply) =
        timeout(SILENCE_MAX, replies.message()).await.map_err(|_| silent())??
    {
        let (array, part) = match reply.part {
            Some(Part::Model(model)) => {
                (step, meta) = (model.step, Some(model.meta));
                continue;
            }
            Some(Part::Parameters(part)) => (&mut parameters, part),
            Some(Part::Levels(part)) => (&mut levels, part),
            Some(Part::Labels(part)) => (&mut labels, part),
            None => return Err(Status::invalid_argument("the coordinator sent an empty message")),
        };
        bytes += part.len();
        if bytes > BYTES_MAX {
            return Err(Status::out_of_range("the model is too large for a browser"));
        }
        array.extend_from_slice(&part);
    }
    let meta = meta.ok_or_else(|| Status::unavailable("the coordinator sent no model"))?;
    let [parameters, levels, labels] = [parameters, levels, labels].map(BytesMut::freeze);
    Ok(Exploration { step, meta, parameters, levels, labels })
}
