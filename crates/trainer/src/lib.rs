//! The training loop, on traits only: any [`model::Model`], any [`collective::AllReduce`].
//!
//! Start reading at [`Trainer::train`]: the loop fits a screen, and distribution is one line
//! of it. The trainer knows nothing of processes, sockets, files or wall clocks. It reports its
//! progress to an [`Observer`].

mod ahead;
pub mod checks;
mod evaluate;
mod gradient;
mod ledger;
mod observer;
mod recipe;
mod replica;
mod snapshot;
pub mod task;
mod together;

use std::{fmt, sync::Arc, time::Instant};

use collective::{AllReduce, Contribution, Control, Interrupted, Kind, Outcome, Round, Step};
use data::{Dataset, Domain, Schedule, Splits, Stream};
use model::{Adam, Isa, Model, ModelError, State, StepContext, Team, norm};
use thiserror::Error;

use ahead::resident;
use together::Meeting;

pub use checks::{Mistake, probe};
pub use evaluate::Evaluation;
pub use ledger::{EpochLedger, Ledger};
pub use observer::{EpochSummary, NoopObserver, Observer, StepDetails, StepSummary};
pub use recipe::Recipe;
pub use replica::Replica;
pub use snapshot::Snapshot;
pub use task::{Artifacts, Metric, Task, describe};

/// The settings of a trainer, beside the model and the data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key of every random stream.
    pub seed: u64,
    /// The number of shards of a global batch.
    pub shards: u32,
    /// Examples per shard and step.
    pub batch_size: u32,
    /// The number of training examples in use: the first ones of the set.
    pub train_examples: u32,
    /// The number of these that are held out for validation: the last ones.
    pub validation_examples: u32,
    /// The number of test examples in use: the first ones of the set.
    pub test_examples: u32,
    /// Passes over the training examples.
    pub epochs: u32,
    /// Training ends after so many epochs without a better validation loss; 0 for never.
    pub early_stop_epochs: u32,
    /// Steps between comparisons of the members' digests; 0 for never.
    pub verify_every: u32,
    /// The optimizer, with the initial learning rate.
    pub adam: Adam,
    /// The learning rate's schedule, and the bound of the gradient's norm.
    pub recipe: Recipe,
}

/// How a generation ended for this member, in agreement with all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The last step of the run is done.
    Completed,
    /// A pause was asked for, and the members stopped after the same step.
    Paused,
}

/// Why training cannot go on.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The generation broke. The state is that after the last complete step.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The device that the model computes on failed. The model must not be used any more.
    #[error("this worker's device failed")]
    Device(#[from] ModelError),
    /// The loss is not finite. The state is that before this step.
    #[error(
        "the loss of step {step} is not finite ({loss}): training has diverged; begin a new run \
         with a lower --learning-rate"
    )]
    NotFinite {
        /// Updates done before the step.
        step: Step,
        /// The loss, summed over the examples.
        loss: f64,
    },
    /// An epoch did not count every example exactly once.
    #[error(
        "epoch {epoch} counted {} examples with index sum {}, instead of {} with {}: \
         this is a bug, please report it", .found.examples, .found.index_sum, .expected.examples,
        .expected.index_sum
    )]
    Miscounted {
        /// The epoch, from 1.
        epoch: u64,
        /// The counts found.
        found: Box<EpochLedger>,
        /// The counts of a complete epoch.
        expected: Box<EpochLedger>,
    },
}

impl TrainError {
    /// Whether the same error comes again when the run is repeated.
    #[must_use]
    pub fn recurs(&self) -> bool {
        match self {
            Self::Interrupted(_) | Self::Device(_) => false,
            Self::NotFinite { .. } | Self::Miscounted { .. } => true,
        }
    }
}

/// Trains a model, one generation after the other, on one state.
pub struct Trainer<D> {
    settings: Settings,
    model: Box<dyn Model<Data = D>>,
    team: Arc<Team>,
    data: Arc<Splits<D>>,
    schedule: Schedule,
    replica: Replica,
    ledger: Ledger,
    /// The current epoch, and the order of its examples. A model that has copied the order recognizes it by its
    /// address.
    order: Option<(u64, Arc<[u32]>)>,
    /// Gradients of right-hand nodes, by level of the shard tree.
    spare: Vec<Vec<f32>>,
    /// A clipped gradient, or a block of a gradient whose norm is reported.
    clipped: Vec<f32>,
    /// The data that goes with the partials. Its timing is that of the step before.
    contribution: Contribution,
    meeting: Meeting,
}

impl<D> fmt::Debug for Trainer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<D: Dataset> Trainer<D> {
    /// A trainer at the state before the first step.
    pub fn new(settings: Settings, model: Box<dyn Model<Data = D>>, data: Arc<Splits<D>>) -> Self {
        let Settings { seed, shards, batch_size, train_examples, validation_examples, .. } =
            settings;
        let examples = train_examples.min(data.train.count()).saturating_sub(validation_examples);
        let schedule = Schedule::new(seed, examples, shards, batch_size);
        let replica = Replica::new(State::initial(&*model, seed));
        Self {
            settings,
            model,
            team: Arc::default(),
            data,
            schedule,
            replica,
            ledger: Ledger::default(),
            order: None,
            spare: Vec::new(),
            clipped: Vec::new(),
            contribution: Contribution::default(),
            meeting: Meeting::Elsewhere,
        }
    }

    /// The state after the last complete step. A model may keep it on its device; to read the state, call
    /// [`Trainer::fetch`] first.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The examples counted so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The model.
    pub fn model(&self) -> &dyn Model<Data = D> {
        &*self.model
    }

    /// The examples.
    pub fn data(&self) -> &Splits<D> {
        &self.data
    }

    /// Replaces the state and the ledger, for example by those of a checkpoint.
    pub fn restore(&mut self, state: State, ledger: Ledger) {
        self.replica.restore(state);
        self.ledger = ledger;
    }

    /// Sets the number of threads. The results do not depend on it.
    pub fn set_threads(&mut self, threads: usize) {
        if self.team.threads() != threads.max(1) {
            self.team = Arc::new(Team::new(threads));
        }
        self.model.set_team(Arc::clone(&self.team));
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.schedule.steps_per_epoch() * u64::from(self.settings.epochs)
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.schedule.steps_per_epoch()
    }

    /// Whether the run is complete: the last step is done, or the validation loss has not become
    /// better for as many epochs as the run allows. All members agree, because they have the same
    /// state and ledger.
    pub fn has_ended(&self) -> bool {
        self.has_stopped_early() || self.replica.step() >= self.steps()
    }

    /// Whether training ends here because the validation loss has not become better.
    pub fn has_stopped_early(&self) -> bool {
        self.ledger.has_stalled(self.settings.early_stop_epochs)
    }

    /// Trains as a member of one generation, until it ends.
    ///
    /// # Errors
    /// [`TrainError`]; the state is then that after the last complete step.
    pub fn train(
        &mut self,
        collective: &mut dyn AllReduce,
        observer: &mut dyn Observer,
    ) -> Result<Ended, TrainError> {
        self.lend(collective)?;
        if self.replica.move_in(collective.shared_state())? {
            observer.memory_freed();
        }
        let ended = self.train_on(collective, observer);
        self.part(collective, ended.is_ok());
        if matches!(ended, Err(TrainError::NotFinite { .. } | TrainError::Miscounted { .. })) {
            // After such an error the device makes no step until the state is loaded again.
            self.take_back()?;
        }
        ended
    }

    fn train_on(
        &mut self,
        collective: &mut dyn AllReduce,
        observer: &mut dyn Observer,
    ) -> Result<Ended, TrainError> {
        // The last generation may have ended between an epoch's last step and its report.
        self.end_epoch_if_due(collective, observer)?;
        if self.is_alone(collective) {
            return self.train_ahead(collective, observer);
        }
        self.meet(collective)?;
        while !self.has_ended() {
            let begun = Instant::now();
            let position = self.schedule.locate(self.replica.step());
            crashpoint::reach!("trainer.step");
            self.contribute(collective, observer.control())?;
            let computed = begun.elapsed();
            let outcome = self.exchange(collective)?;
            let reduced = begun.elapsed();
            self.check_loss(outcome.tally.terms[0])?;
            let examples = u32::try_from(outcome.tally.examples).unwrap_or(u32::MAX);
            let is_last = (self.replica.step() + 1).is_multiple_of(self.schedule.steps_per_epoch());
            let wanted = observer.wants_details(is_last);
            let details = self.advance(collective, examples, wanted)?;
            self.ledger.add(position.epoch, &outcome.tally);
            let updated = begun.elapsed();
            self.contribution.timing =
                observer::timing(computed, reduced, updated, outcome.waiting);
            let summary = StepSummary {
                step: self.replica.step(),
                epoch: position.epoch + 1,
                tally: outcome.tally,
                contributions: collective.contributions(),
                elapsed: updated,
                details,
            };
            self.fetch_if_wanted(observer)?;
            observer.stepped(&summary, &self.replica, &self.ledger);
            self.end_epoch_if_due(collective, observer)?;
            if outcome.control.contains(Control::PAUSE) && !self.has_ended() {
                return Ok(Ended::Paused);
            }
        }
        Ok(Ended::Completed)
    }

    /// The context that the model gets for one shard of the step that follows `step` completed ones.
    pub(crate) fn context(&self, step: u64, shard: u32) -> StepContext {
        StepContext {
            step,
            steps_per_epoch: self.schedule.steps_per_epoch(),
            steps: self.steps(),
            random: Stream::new(self.settings.seed, Domain::Noise, step, shard),
        }
    }

    fn round(&self, kind: Kind) -> Round {
        Round { step: Step(self.replica.step()), kind }
    }

    /// The schedule's values in the next step, and the norm of its gradient.
    fn details(&mut self, collective: &mut dyn AllReduce, examples: u32) -> StepDetails {
        let step = self.replica.step();
        let squares = match collective.shared_state() {
            None => norm::sum_of_squares(Isa::best(), &self.team, collective.sum()),
            // In a shared state no member has the whole sum. It is added up here block by block, and
            // not kept.
            Some(shared) => {
                let length = self.model.layout().len();
                let write = |start: usize, block: &mut [f32]| shared.add_up(start, block);
                norm::sum_of_squares_by_block(Isa::best(), length, &mut self.clipped, write)
            }
        };
        let gradient_norm = squares.sqrt() / f64::from(examples.max(1));
        self.details_with(step, gradient_norm)
    }

    pub(crate) fn details_with(&self, step: u64, gradient_norm: f64) -> StepDetails {
        StepDetails {
            learning_rate: self.adam(step).learning_rate,
            factors: self.model.factors(&self.context(step, 0)),
            gradient_norm,
        }
    }

    /// Waits for the other members' partials, and for their sum if the transport computes one.
    fn exchange(&self, collective: &mut dyn AllReduce) -> Result<Outcome, Interrupted> {
        if self.meeting == Meeting::OnDevices {
            return self.exchange_together(collective);
        }
        if let Some(shared) = collective.shared_state() {
            return self.replica.gather(shared, &self.contribution);
        }
        collective.all_reduce(self.round(Kind::Train), &self.contribution)
    }

    /// Applies the mean gradient; gives the step's details if they are wanted.
    fn advance(
        &mut self,
        collective: &mut dyn AllReduce,
        examples: u32,
        wants_details: bool,
    ) -> Result<Option<StepDetails>, TrainError> {
        if self.meeting == Meeting::OnDevices {
            return Ok(self.advance_together(examples, wants_details)?);
        }
        let details = wants_details.then(|| self.details(collective, examples));
        self.update(collective, examples)?;
        Ok(details)
    }

    /// Applies the mean gradient: to this member's own whole state, or to its segment of the shared
    /// state.
    fn update(&mut self, collective: &mut dyn AllReduce, examples: u32) -> Result<(), TrainError> {
        let step = self.replica.step();
        let adam = self.adam(step);
        if let Some(shared) = collective.shared_state() {
            self.replica.update_shared(shared, &adam, &self.team, examples)?;
            return Ok(());
        }
        let recipe = &self.settings.recipe;
        let sum = recipe.clipped(collective.sum(), examples, &self.team, &mut self.clipped);
        if self.replica.is_on_device() {
            let update = adam.update(Isa::best(), step + 1, examples);
            resident(&mut *self.model).update(&update, sum)?;
            self.replica.note_update();
        } else {
            self.replica.update(&adam, &self.team, sum, examples);
        }
        Ok(())
    }

    /// The optimizer in the step that follows `step` completed ones.
    pub(crate) fn adam(&self, step: u64) -> Adam {
        let Settings { recipe, adam, .. } = &self.settings;
        let rate = recipe.rate(&self.schedule, step, self.steps());
        Adam { learning_rate: adam.learning_rate * rate, ..*adam }
    }

    /// Computes this member's partials of the next step, and the contribution that goes with them.
    fn contribute(
        &mut self,
        collective: &mut dyn AllReduce,
        control: Control,
    ) -> Result<(), TrainError> {
        device_failure()?;
        let verify_every = u64::from(self.settings.verify_every);
        let verify = self.replica.step().checked_rem(verify_every) == Some(0);
        self.contribution.digest = if verify { Some(self.digest()?) } else { None };
        self.contribution.control = control;
        self.contribution.tallies.clear();
        if self.meeting != Meeting::Elsewhere {
            let tallies = self.contribute_together(collective)?;
            self.contribution.tallies.extend(tallies);
            return Ok(());
        }
        for index in 0..collective.nodes().len() {
            let node = collective.nodes()[index];
            let tally = self.node_gradient(node, collective.partial_mut(index), 0)?;
            self.contribution.tallies.push(tally);
        }
        Ok(())
    }

    fn check_loss(&self, loss: f64) -> Result<(), TrainError> {
        let step = Step(self.replica.step());
        if loss.is_finite() { Ok(()) } else { Err(TrainError::NotFinite { step, loss }) }
    }

    /// At the end of an epoch: checks the ledger, evaluates, and reports.
    fn end_epoch_if_due(
        &mut self,
        collective: &mut dyn AllReduce,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let per_epoch = self.schedule.steps_per_epoch();
        if self.replica.step() == 0 || !self.replica.step().is_multiple_of(per_epoch) {
            return Ok(());
        }
        let epoch = self.replica.step() / per_epoch;
        let train = self.ledger.epoch(epoch - 1);
        let expected = EpochLedger::complete(self.schedule.images());
        if (train.examples, train.index_sum) != (expected.examples, expected.index_sum) {
            return Err(TrainError::Miscounted {
                epoch,
                found: Box::new(train),
                expected: Box::new(expected),
            });
        }
        let validation = self.validate(collective)?;
        if let Some(loss) = validation {
            self.check_loss(loss)?;
            self.ledger.note_validation(epoch, loss);
        }
        let test = self.evaluate(collective)?;
        self.check_loss(test.terms[0])?;
        self.fetch()?;
        let summary = EpochSummary { epoch, train, test, validation };
        observer.epoch_ended(&summary, &self.replica, &self.ledger);
        Ok(())
    }
}

/// Fails when a test asks for a failure of the device.
fn device_failure() -> Result<(), ModelError> {
    if crashpoint::fails!("trainer.device") {
        return Err(ModelError::Libtorch("a failure that a test asked for".into()));
    }
    Ok(())
}
