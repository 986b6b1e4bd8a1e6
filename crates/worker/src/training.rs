//! The training thread: builds the model, then carries out orders, one after the other.

use std::{
    any::Any,
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Result, anyhow};
use collective::{Interrupted, Step, Tally};
use config::RunConfig;
use data::{Images, Mnist};
use membership::{Course, Failure, Phase, Standing};
use model::{Adam, State};
use protocol::wire::Transfer;
use tch::Device;
use trainer::{Ended, EpochLedger, Ledger, Recipe, TrainError, Trainer};
use transport::state::{Recipient, Snapshot};
use vae_options::VaeOptions;

use crate::{
    beginning,
    bridge::{Assignment, Event, Order, Trainee},
    device,
    reporter::{Epochs, Reporter},
    watched::Watched,
    writer::{self, Writer},
};

/// What the training thread needs to begin.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) run_id: String,
    pub(crate) config: RunConfig,
    pub(crate) options: VaeOptions,
    pub(crate) device: Device,
    /// Cut to the run's first images.
    pub(crate) data: Arc<Mnist>,
    pub(crate) run_dir: PathBuf,
    /// Whether this worker has the lowest rank, so that it leads as long as it is a member.
    pub(crate) is_first: bool,
    /// The checkpoint to begin from; from the seed if none.
    pub(crate) checkpoint: Option<PathBuf>,
}

/// The life of the training thread.
pub(crate) fn run(setup: Setup, trainee: &Trainee) {
    // After a panic nothing is used again but the way to say so.
    let worked = panic::catch_unwind(AssertUnwindSafe(|| work(&setup, trainee)));
    let event = match worked {
        Ok(Ok(())) => return,
        Ok(Err(error)) => ended_by(&error),
        Err(panic) => Event::Died(format!("the training thread panicked: {}", message(&*panic))),
    };
    trainee.events.send(event);
}

/// What follows from an error.
fn ended_by(error: &anyhow::Error) -> Event {
    let (message, cause) = (crate::told(error), error.downcast_ref::<TrainError>());
    if let Some(TrainError::Device(_)) = cause {
        return Event::Died(message);
    }
    let recurs = cause.is_some_and(TrainError::recurs);
    Event::Failed(Failure { message, state_intact: true, recurs })
}

/// What a panic says, as one line.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it did not say why").replace('\n', " ")
}

fn work(setup: &Setup, trainee: &Trainee) -> Result<()> {
    crashpoint::reach!("training.begins");
    match writer::try_folders(setup) {
        Err(error) if setup.is_first => return Err(error),
        // Another member may lead for the whole run.
        Err(error) => tracing::warn!("{}", limits::told(error.as_ref())),
        Ok(()) => {}
    }
    let (mut trainer, arithmetic) = build(setup)?;
    let mut desk = Desk { setup, writer: None, wrote_last: false, arithmetic };
    let mut epochs = Epochs::default();
    say_ready(&trainer, Course::AsTold, None, trainee);
    while let Some(order) = trainee.next_order() {
        match order {
            Order::Train(assignment) => {
                train(&mut desk, &mut trainer, &mut epochs, *assignment, trainee)?;
            }
            Order::Report(course) => say_ready(&trainer, course, None, trainee),
            Order::TakeOver(snapshot, transfer) => {
                take_over(&mut trainer, *snapshot);
                say_ready(&trainer, Course::AsTold, Some(transfer), trainee);
            }
            Order::Donate(recipient) => {
                donate(vec![recipient], trainer.state(), trainer.ledger());
            }
            Order::Persist => {
                desk.wrote_last = true;
                let writer = desk.writer(&trainer)?;
                writer.save(trainer.state(), trainer.ledger(), epochs.tests());
                writer.flush()?;
                trainee.events.send(Event::Saved(trainer.state().step));
            }
        }
    }
    desk.flush()?;
    if let (Some(writer), true) = (&desk.writer, desk.wrote_last) {
        trainee.shared.enter(Phase::Saving);
        writer.flush_store().map_err(|unstored| anyhow!("{unstored}"))?;
    }
    Ok(())
}

/// Where this worker's files are written, if it has any to write.
struct Desk<'a> {
    setup: &'a Setup,
    writer: Option<Writer>,
    /// Whether no other worker may have written a checkpoint since.
    wrote_last: bool,
    /// How all steps were computed so far, for checkpoints.
    arithmetic: BTreeSet<String>,
}

impl Desk<'_> {
    fn writer(&mut self, trainer: &Trainer<Images>) -> Result<&mut Writer> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(Writer::start(self.setup, trainer)?),
        };
        writer.arithmetic = self.arithmetic.iter().cloned().collect();
        Ok(writer)
    }

    /// Whether something could not be written; [`Self::flush`] says what.
    fn has_failed(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::has_failed)
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.as_mut().map_or(Ok(()), Writer::flush)
    }
}

fn say_ready(
    trainer: &Trainer<Images>,
    course: Course,
    transfer: Option<Transfer>,
    trainee: &Trainee,
) {
    let state = trainer.state();
    trainee.shared.note_step(state.step);
    trainee.shared.enter(Phase::Idle);
    let standing = Standing { step: Step(state.step), digest: state.digest() };
    trainee.events.send(Event::Ready(standing, course, transfer));
}

fn train(
    desk: &mut Desk<'_>,
    trainer: &mut Trainer<Images>,
    epochs: &mut Epochs,
    assignment: Assignment,
    trainee: &Trainee,
) -> Result<()> {
    let Assignment { generation, collective, rank, ranks, threads, arithmetic } = assignment;
    desk.arithmetic.extend(arithmetic);
    trainer.set_threads(threads as usize);
    let leads = ranks.first() == Some(&rank);
    let (number, members) = (generation.0, ranks.len());
    let span = tracing::info_span!("generation", generation = number, rank = rank.0, members);
    let _generation = span.entered();
    tracing::info!(
        rank = rank.0,
        generation = generation.0,
        members = ranks.len(),
        step = trainer.state().step,
        threads,
        leads,
        "training"
    );
    trainee.shared.enter(Phase::Computing);
    let mut collective = Watched { collective, shared: Arc::clone(&trainee.shared) };
    let config = desk.setup.config.clone();
    desk.wrote_last = leads;
    let writer = if leads { Some(desk.writer(trainer)?) } else { None };
    let mut reporter = Reporter::new(&config, generation, ranks, writer, epochs, trainee);
    let ended = trainer.train(&mut collective, &mut reporter);
    reporter.flush();
    match ended {
        Ok(ended) => {
            // What was written in the background is on disk before anybody hears of the run's
            // end. In a pause the others would wait for the disk: it is written on meanwhile.
            if ended == Ended::Completed || desk.has_failed() {
                trainee.shared.enter(Phase::Saving);
                desk.flush()?;
            }
            say_ready(trainer, Course::AsTold, None, trainee);
        }
        Err(TrainError::Interrupted(Interrupted::Diverged(divergence))) => {
            let message = divergence.to_string();
            let failure = Failure { message, state_intact: false, recurs: false };
            trainee.events.send(Event::Failed(failure));
        }
        Err(TrainError::Interrupted(interrupted)) => {
            say_ready(trainer, Course::Interrupted(interrupted.to_string()), None, trainee);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn take_over(trainer: &mut Trainer<Images>, snapshot: Snapshot) {
    let Snapshot { step, epochs, vectors } = snapshot;
    let [parameters, exp_avg, exp_avg_sq] = vectors.map(Arc::unwrap_or_clone);
    let epoch = |Tally { examples, index_sum, terms }| EpochLedger { examples, index_sum, terms };
    let ledger = Ledger { epochs: epochs.into_iter().map(epoch).collect() };
    trainer.restore(State { step, parameters, exp_avg, exp_avg_sq }, ledger);
}

/// Gives the state to other workers.
pub(crate) fn donate(recipients: Vec<Recipient>, state: &State, ledger: &Ledger) {
    let tally = |epoch: &EpochLedger| {
        let EpochLedger { examples, index_sum, terms } = *epoch;
        Tally { examples, index_sum, terms }
    };
    let State { step, parameters, exp_avg, exp_avg_sq } = state;
    let snapshot = Arc::new(Snapshot {
        step: *step,
        epochs: ledger.epochs.iter().map(tally).collect(),
        vectors: [parameters, exp_avg, exp_avg_sq].map(|vector| Arc::new(vector.clone())),
    });
    for recipient in recipients {
        let _gone = recipient.send(Arc::clone(&snapshot));
    }
}

/// The trainer, and how the state was computed that it begins with.
fn build(setup: &Setup) -> Result<(Trainer<Images>, BTreeSet<String>)> {
    let training = &setup.config.training;
    let mut model = device::model(&setup.options, setup.device)?;
    model.reserve(training.batch_size as usize)?;
    let settings = trainer::Settings {
        seed: training.seed,
        shards: training.shards,
        batch_size: training.batch_size,
        epochs: setup.config.operation.epochs,
        verify_every: setup.config.operation.verify_every,
        adam: Adam::new(training.learning_rate),
        recipe: Recipe::of(training),
    };
    let mut trainer = Trainer::new(settings, model, Arc::clone(&setup.data));
    let mut computed = BTreeSet::new();
    if let Some(beginning) = beginning::find(setup, trainer.model().layout())? {
        trainer.restore(beginning.state, beginning.ledger);
        computed.extend(beginning.arithmetic);
    }
    trainer.warm_up()?;
    Ok((trainer, computed))
}
