//! Training with a model that keeps the state on its device. A single member begins a step before it
//! has read the results of the earlier steps, so that the device never waits for the host.

use std::{
    collections::VecDeque,
    ops::{Add, Range},
    time::Instant,
};

use collective::{AllReduce, Control, Digest, Kind, Node, Round, Step, Tally};
use data::{Batch, Dataset, Pass};
use model::{Finished, Isa, Model, ModelError, Resident, WholeStep, resident::AHEAD};

use crate::{Ended, Observer, StepSummary, TrainError, Trainer, device_failure, observer};

/// A step that was begun and is not finished.
struct Begun {
    /// The examples of the step. The terms are known when the step is finished.
    counted: Tally,
    wants_details: bool,
}

/// The model as the owner of the state.
pub(crate) fn resident<D: Dataset>(model: &mut dyn Model<Data = D>) -> &mut dyn Resident<Data = D> {
    model.resident().expect("the state was handed to it")
}

impl<D: Dataset> Trainer<D> {
    /// Hands the state to the model, if the model can keep it and the members do not share it. The model may
    /// have the state since an earlier generation.
    pub(crate) fn lend(&mut self, collective: &mut dyn AllReduce) -> Result<(), TrainError> {
        if collective.shared_state().is_some() {
            self.take_back()?;
        } else if !self.replica.is_on_device()
            && let Some(resident) = self.model.resident()
        {
            resident.load(self.replica.view())?;
            self.replica.lend();
        }
        Ok(())
    }

    /// Takes the state back from the model, if the model has it.
    pub(crate) fn take_back(&mut self) -> Result<(), ModelError> {
        self.fetch()?;
        self.replica.take_back();
        Ok(())
    }

    /// Copies the state from the device, unless a copy is [at hand](crate::Replica::is_at_hand).
    ///
    /// # Errors
    /// The device that has the state failed.
    pub fn fetch(&mut self) -> Result<(), ModelError> {
        if !self.replica.is_at_hand() {
            let vectors = resident(&mut *self.model).fetch()?;
            self.replica.note_copy(vectors);
        }
        Ok(())
    }

    /// The digest of the state, computed on the device where possible. The state is then not copied.
    ///
    /// # Errors
    /// The device that has the state failed.
    pub fn digest(&mut self) -> Result<Digest, ModelError> {
        let step = self.replica.step();
        if !self.replica.is_at_hand()
            && let Some(digest) = resident(&mut *self.model).digest(step)?
        {
            return Ok(digest);
        }
        self.fetch()?;
        Ok(self.replica.digest(&self.team))
    }

    /// Copies the state from the device if the observer wants it.
    pub(crate) fn fetch_if_wanted(&mut self, observer: &dyn Observer) -> Result<(), ModelError> {
        if !self.replica.is_at_hand() && observer.wants_state() {
            self.fetch()?;
        }
        Ok(())
    }

    /// Whether this member computes every step alone, on its device.
    pub(crate) fn is_alone(&self, collective: &dyn AllReduce) -> bool {
        let all = Node::root(self.settings.shards);
        self.replica.is_on_device() && *collective.nodes() == [all]
    }

    /// Trains until the generation ends.
    pub(crate) fn train_ahead(
        &mut self,
        collective: &mut dyn AllReduce,
        observer: &mut dyn Observer,
    ) -> Result<Ended, TrainError> {
        let (mut begun, mut is_pausing) = (VecDeque::with_capacity(AHEAD), false);
        while !self.has_ended() {
            let since = Instant::now();
            if !is_pausing {
                self.begin_steps(&mut begun, observer)?;
            }
            let Some(step) = begun.pop_front() else { return Ok(Ended::Paused) };
            let is_last = begun.is_empty();
            match self.finish_step(step, is_last, since, collective, observer) {
                Ok(control) => is_pausing |= control.contains(Control::PAUSE),
                Err(error) => {
                    // After a loss that is not finite, no step changes the state.
                    let are_made = !matches!(error, TrainError::NotFinite { .. });
                    self.finish_quietly(begun, are_made)?;
                    return Err(error);
                }
            }
            if is_last {
                self.end_epoch_if_due(collective, observer)?;
            }
        }
        Ok(Ended::Completed)
    }

    /// Begins steps until [`AHEAD`] steps are under way. It begins no step of the next epoch, because
    /// the state at the end of an epoch is read first, and only one step while the observer wants the
    /// state.
    fn begin_steps(
        &mut self,
        begun: &mut VecDeque<Begun>,
        observer: &dyn Observer,
    ) -> Result<(), ModelError> {
        let epoch = self.schedule.locate(self.replica.step()).epoch;
        while begun.len() < AHEAD && (begun.is_empty() || !observer.wants_state()) {
            let step = self.replica.step() + begun.len() as u64;
            if self.schedule.locate(step).epoch != epoch {
                break;
            }
            let is_last = (step + 1).is_multiple_of(self.schedule.steps_per_epoch());
            // At most one step under way has details: the observer spaces its reports.
            let is_wanted = begun.iter().any(|step| step.wants_details);
            let wants_details = !is_wanted && observer.wants_details(is_last);
            let counted = self.begin_step(step, wants_details)?;
            begun.push_back(Begun { counted, wants_details });
        }
        Ok(())
    }

    fn begin_step(&mut self, step: u64, wants_norm: bool) -> Result<Tally, ModelError> {
        device_failure()?;
        let counted = self.with_step(step, 0..self.settings.shards, |resident, whole| {
            resident.begin(&WholeStep { wants_norm, ..*whole })
        })?;
        Ok(counted.into_iter().fold(Tally::default(), Add::add))
    }

    /// Begins a step for these shards. Gives the tally of each shard, with its terms still zero.
    pub(crate) fn with_step(
        &mut self,
        step: u64,
        shards: Range<u32>,
        begin: impl FnOnce(&mut dyn Resident<Data = D>, &WholeStep<'_, D>) -> Result<(), ModelError>,
    ) -> Result<Vec<Tally>, ModelError> {
        let position = self.schedule.locate(step);
        let order = self.order_of(position.epoch);
        let examples = self.schedule.images_in(position.step);
        let update = self.adam(step).update(Isa::best(), step + 1, examples);
        let contexts: Vec<_> = shards.clone().map(|shard| self.context(step, shard)).collect();
        let Self { settings, schedule, data, model, .. } = self;
        let first = schedule.positions(position.step, shards.start).start;
        let pass = Pass::train(settings.seed, position.epoch);
        let batch = |shard| {
            let indices = &order[schedule.positions(position.step, shard)];
            Batch { data: &data.train, indices, pass }
        };
        let shards: Vec<_> = shards.map(batch).zip(contexts).collect();
        let counted = |(batch, _): &(Batch<'_, D>, _)| Tally {
            examples: batch.len() as u64,
            index_sum: batch.index_sum(),
            ..Tally::default()
        };
        let grad_clip = settings.recipe.grad_clip;
        let (shards, order) = (&shards[..], &order);
        let whole = WholeStep { shards, order, first, update, grad_clip, wants_norm: false };
        begin(resident(&mut **model), &whole)?;
        Ok(shards.iter().map(counted).collect())
    }

    /// Waits for a step and reports it. `is_last` means that no other step is under way.
    fn finish_step(
        &mut self,
        begun: Begun,
        is_last: bool,
        since: Instant,
        collective: &mut dyn AllReduce,
        observer: &mut dyn Observer,
    ) -> Result<Control, TrainError> {
        let step = self.replica.step();
        let finished = resident(&mut *self.model).finish()?;
        self.check_loss(finished.sums.terms[0])?;
        let tally = Tally { terms: finished.sums.terms, ..begun.counted };
        self.count(tally);
        // With one member no bytes travel. The call reports the step, and tells whether the
        // generation has ended.
        let contribution = &mut self.contribution;
        contribution.tallies.clear();
        contribution.tallies.push(tally);
        (contribution.control, contribution.digest) = (observer.control(), None);
        let round = Round { step: Step(step), kind: Kind::Train };
        let outcome = collective.all_reduce(round, contribution)?;
        let elapsed = since.elapsed();
        self.contribution.timing = observer::timing(elapsed, elapsed, elapsed, outcome.waiting);
        if is_last {
            self.fetch_if_wanted(observer)?;
        }
        let norm = finished.norm.map(|norm| norm / tally.examples.max(1) as f64);
        let details = norm.map(|norm| self.details_with(step, norm));
        let summary = StepSummary {
            step: step + 1,
            epoch: self.schedule.locate(step).epoch + 1,
            tally,
            contributions: collective.contributions(),
            elapsed,
            details,
        };
        observer.stepped(&summary, &self.replica, &self.ledger);
        Ok(outcome.control)
    }

    /// Counts a step that the model has done.
    fn count(&mut self, tally: Tally) {
        let epoch = self.schedule.locate(self.replica.step()).epoch;
        self.replica.note_update();
        self.ledger.add(epoch, &tally);
    }

    /// Waits for the steps that are still under way when training ends, and counts those that
    /// changed the state.
    fn finish_quietly(
        &mut self,
        begun: VecDeque<Begun>,
        mut are_made: bool,
    ) -> Result<(), ModelError> {
        for step in begun {
            let Finished { sums, .. } = resident(&mut *self.model).finish()?;
            are_made &= sums.terms[0].is_finite();
            if are_made {
                self.count(Tally { terms: sums.terms, ..step.counted });
            }
        }
        Ok(())
    }
}
