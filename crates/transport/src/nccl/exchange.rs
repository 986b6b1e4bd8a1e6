//! The training thread's side of a generation whose members compute on GPUs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use collective::{
    AllReduce, Contribution, DeviceExchange, DeviceMemory, Interrupted, Kind, Node, Outcome, Plan,
    Round,
};

use super::{
    communicator::{Communicator, UniqueId},
    hosted::Hosted,
    library::{Libraries, NcclError},
    on_device::{Nodes, OnDevice},
};
use crate::{Group, Grpc, grpc};

/// All-reduce between the GPUs of a generation's members.
pub struct Nccl {
    plan: Plan,
    me: usize,
    /// Carries the tallies and digests that go with the partials.
    headers: Grpc,
    aborted: Arc<AtomicBool>,
    /// What it takes to join the communicator.
    libraries: Libraries,
    device: usize,
    id: UniqueId,
    partials: Partials,
    /// The error that every call returns once a round has failed.
    broken: Option<Interrupted>,
}

/// Where a member's partials are.
enum Partials {
    /// The member has not joined.
    Nowhere,
    Hosted(Box<Hosted>),
    OnDevice(OnDevice),
}

impl Partials {
    /// Ends the communicator by `end`, if the member has joined.
    fn end(&mut self, end: impl FnOnce(Communicator) -> bool) {
        match self {
            Self::Nowhere => {}
            Self::Hosted(hosted) => hosted.end(end),
            Self::OnDevice(device) => device.end(end),
        }
    }
}

/// Ends a generation from outside its training thread.
#[derive(Clone, Debug)]
pub struct Abort {
    aborted: Arc<AtomicBool>,
    headers: grpc::Abort,
}

impl Abort {
    /// Makes the current round, or else the next one, end with [`Interrupted::Aborted`].
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        self.headers.abort();
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Nccl {
    /// A member that computes on the GPU with this index, and joins the communicator with this id when
    /// the exchange is [opened](DeviceExchange::open). `headers` connects the same members.
    ///
    /// # Panics
    /// Unless `headers` was connected with a group that has no floats.
    #[must_use]
    pub fn new(
        libraries: Libraries,
        device: usize,
        group: &Group,
        id: UniqueId,
        headers: Grpc,
    ) -> Self {
        let (plan, me) = (group.plan(), headers.me());
        let (plan, _) = plan.expect("headers were connected with the same members");
        assert_eq!(headers.hosts().plan().length(), 0, "headers alone go over streams");
        let (aborted, partials) = (Arc::default(), Partials::Nowhere);
        Self { plan, me, headers, aborted, libraries, device, id, partials, broken: None }
    }

    /// A handle that ends this generation.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort { aborted: Arc::clone(&self.aborted), headers: self.headers.abort_handle() }
    }

    fn join(&mut self, memory: Option<Arc<dyn DeviceMemory>>) -> Result<Partials, NcclError> {
        let Self { plan, me, aborted, libraries, device, id, .. } = self;
        let member = (&*plan, *me);
        Ok(match memory {
            Some(memory) => {
                Partials::OnDevice(OnDevice::join(libraries.nccl, memory, member, id, aborted)?)
            }
            None => {
                Partials::Hosted(Box::new(Hosted::join(*libraries, *device, member, id, aborted)?))
            }
        })
    }

    /// Does a part of a round, unless an earlier part has failed. An error here makes all later parts fail
    /// too.
    fn unless_broken<T>(
        &mut self,
        what: impl FnOnce(&mut Self) -> Result<T, Interrupted>,
    ) -> Result<T, Interrupted> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let result = what(self);
        if let Err(interrupted) = &result {
            self.broken = Some(interrupted.clone());
            // Now and not only at the end, because the other members' GPUs may wait for this one.
            self.partials.end(Communicator::close);
        }
        result
    }

    fn hosted(&self) -> &Hosted {
        match &self.partials {
            Partials::Hosted(hosted) => hosted,
            Partials::Nowhere | Partials::OnDevice(_) => panic!("{NOT_HERE}"),
        }
    }

    fn on_device(&self) -> &OnDevice {
        match &self.partials {
            Partials::OnDevice(device) => device,
            Partials::Nowhere | Partials::Hosted(_) => panic!("no device was opened"),
        }
    }
}

const NOT_HERE: &str = "the partials are not in the host's memory";

fn interrupted(round: Round, error: NcclError) -> Interrupted {
    match error {
        NcclError::Aborted => Interrupted::Aborted,
        error => Interrupted::Failed { round, reason: error.to_string() },
    }
}

impl AllReduce for Nccl {
    fn nodes(&self) -> &[Node] {
        self.plan.nodes(self.me)
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        let length = self.plan.length();
        let Partials::Hosted(hosted) = &mut self.partials else { panic!("{NOT_HERE}") };
        &mut hosted.partials_mut()[index * length..(index + 1) * length]
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.unless_broken(|nccl| {
            let outcome = nccl.headers.exchange(round, vec![contribution.clone()])?;
            if let (Kind::Train, Partials::Hosted(hosted)) = (round.kind, &mut nccl.partials) {
                let exchanged = hosted.exchange(&nccl.plan, &nccl.aborted);
                exchanged.map_err(|error| interrupted(round, error))?;
            }
            Ok(outcome)
        })
    }

    fn contributions(&self) -> &[Contribution] {
        self.headers.contributions()
    }

    fn sum(&self) -> &[f32] {
        self.hosted().sum()
    }

    fn device_exchange(&mut self) -> Option<&mut dyn DeviceExchange> {
        Some(self)
    }
}

impl DeviceExchange for Nccl {
    fn all_nodes(&mut self) -> Vec<Node> {
        Nodes::of(&self.plan).all
    }

    fn open(
        &mut self,
        round: Round,
        memory: Option<Arc<dyn DeviceMemory>>,
    ) -> Result<(), Interrupted> {
        self.unless_broken(|nccl| {
            let joined = nccl.join(memory);
            nccl.partials = joined.map_err(|error| interrupted(round, error))?;
            Ok(())
        })
    }

    fn begin(&mut self, round: Round) -> Result<(), Interrupted> {
        self.unless_broken(|nccl| {
            let begun = nccl.on_device().begin();
            begun.map_err(|error| interrupted(round, error))?;
            crashpoint::reach!("all-reduce.nccl.begun");
            Ok(())
        })
    }

    fn finish(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.unless_broken(|nccl| {
            let outcome = nccl.headers.exchange(round, vec![contribution.clone()])?;
            crashpoint::reach!("all-reduce.nccl.agreed");
            let finished = nccl.on_device().finish(&nccl.aborted);
            finished.map_err(|error| interrupted(round, error))?;
            crashpoint::reach!("all-reduce.nccl.done");
            Ok(outcome)
        })
    }

    fn close(&mut self) {
        self.partials.end(|communicator| communicator.leave(&self.aborted));
    }
}
