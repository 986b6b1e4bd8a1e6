//! The training thread: builds the model, then carries out orders, one after the other.

use std::{
    any::Any,
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use anyhow::{Result, anyhow};
use collective::{Digest, Interrupted, Step};
use data::Dataset;
use membership::{Failure, Phase, Position, ReadyCause};
use model::{Adam, ModelError};
use protocol::wire::Transfer;
use trainer::{Ended, Mistake, Recipe, Task, TrainError, Trainer, checks};

use crate::{
    bridge::{Assignment, Event, Order, Ready, TrainingChannel},
    convert,
    phase_reporting::PhaseReporting,
    reporter::{Epochs, Reporter, donate},
    restore,
    setup::{RunContext, Setup},
    writer::{self, Writer},
};

/// Runs the training thread.
pub(crate) fn run<T: Task>(setup: &Setup<T>, channel: &TrainingChannel) {
    // After a panic, only the channel is used, to report it.
    let worked = panic::catch_unwind(AssertUnwindSafe(|| work(setup, channel)));
    let event = match worked {
        Ok(Ok(())) => return,
        Ok(Err(error)) => ended_by(&error),
        Err(panic) => Event::Died(format!("the training thread panicked: {}", message(&*panic))),
    };
    channel.events.send(event);
}

/// The event for an error.
fn ended_by(error: &anyhow::Error) -> Event {
    let (message, cause) = (limits::told(error.as_ref()), error.downcast_ref::<TrainError>());
    if matches!(cause, Some(TrainError::Device(_))) || is_of_gpu(error) {
        return Event::Died(message);
    }
    let recurs = cause.is_some_and(TrainError::recurs) || error.is::<Mistake>();
    Event::Failed(Failure { message, state_intact: true, recurs })
}

/// A task's error as an anyhow error. A [`ModelError`] is unboxed, so that a failed GPU can be recognised.
fn of_task(error: trainer::task::Error) -> anyhow::Error {
    match error.downcast::<ModelError>() {
        Ok(error) => anyhow::Error::new(*error),
        Err(error) => anyhow::Error::from_boxed(error),
    }
}

/// Whether a GPU has failed, also before the first step. Other workers may then go on.
fn is_of_gpu(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let of_model = matches!(cause.downcast_ref(), Some(ModelError::Gpu(_)));
        of_model || matches!(cause.downcast_ref(), Some(Mistake::Gpu(_)))
    })
}

/// The message of a panic, as one line.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it gave no reason").replace('\n', " ")
}

fn work<T: Task>(setup: &Setup<T>, channel: &TrainingChannel) -> Result<()> {
    crashpoint::reach!("training.begins");
    match writer::try_folders(&setup.context) {
        Err(error) if setup.context.is_first => return Err(error),
        // Another member may lead for the whole run.
        Err(error) => tracing::warn!("{}", limits::told(error.as_ref())),
        Ok(()) => {}
    }
    let Built { mut trainer, arithmetic, probe } = build(setup)?;
    let mut writer = CheckpointWriter { setup, thread: None, wrote_last: false, arithmetic };
    let mut epochs = Epochs::default();
    report_ready(&mut trainer, ReadyCause::AsTold, Extra::Probe(probe), channel)?;
    while let Some(order) = channel.next_order() {
        match order {
            Order::Train(assignment) => {
                train(&mut writer, &mut trainer, &mut epochs, *assignment, channel)?;
            }
            Order::Report(cause) => report_ready(&mut trainer, cause, Extra::Nothing, channel)?,
            Order::Restore(fetched, transfer) => {
                let (state, ledger) = convert::from_fetched(*fetched);
                trainer.restore(state, ledger);
                let extra = Extra::Transfer(transfer);
                report_ready(&mut trainer, ReadyCause::AsTold, extra, channel)?;
            }
            Order::Donate(recipient) => {
                trainer.fetch()?;
                donate(vec![recipient], trainer.replica(), trainer.ledger());
            }
            Order::Persist => {
                writer.wrote_last = true;
                trainer.fetch()?;
                let thread = writer.thread(&trainer)?;
                thread.save(trainer.replica(), trainer.ledger(), epochs.tests());
                thread.flush()?;
                channel.events.send(Event::Saved(trainer.replica().step()));
            }
        }
    }
    writer.flush()?;
    if let (Some(thread), true) = (&writer.thread, writer.wrote_last) {
        channel.shared.enter(Phase::Saving);
        thread.flush_store().map_err(|unstored| anyhow!("{unstored}"))?;
    }
    Ok(())
}

/// Writes this worker's files, if it has any to write.
struct CheckpointWriter<'a, T: Task> {
    setup: &'a Setup<T>,
    thread: Option<Writer>,
    /// Whether this worker was the last one to write checkpoints.
    wrote_last: bool,
    /// The fingerprints of all arithmetic used so far, for checkpoints.
    arithmetic: BTreeSet<String>,
}

impl<T: Task> CheckpointWriter<'_, T> {
    /// The writing thread, which is started at first use.
    fn thread(&mut self, trainer: &Trainer<T::Data>) -> Result<&mut Writer> {
        let writer = match &mut self.thread {
            Some(writer) => writer,
            none => none.insert(Writer::start(self.setup, trainer)?),
        };
        writer.arithmetic = self.arithmetic.iter().cloned().collect();
        Ok(writer)
    }

    /// Whether a file could not be written; [`Self::flush`] gives the error.
    fn has_failed(&self) -> bool {
        self.thread.as_ref().is_some_and(Writer::has_failed)
    }

    fn flush(&mut self) -> Result<()> {
        self.thread.as_mut().map_or(Ok(()), Writer::flush)
    }
}

/// Additional data of some reports of the state.
enum Extra {
    Nothing,
    /// With the first report: the digest of the probe.
    Probe(Digest),
    /// After a transfer: the size and the time of the transfer.
    Transfer(Transfer),
}

fn report_ready<D: Dataset>(
    trainer: &mut Trainer<D>,
    cause: ReadyCause,
    extra: Extra,
    channel: &TrainingChannel,
) -> Result<(), ModelError> {
    let step = trainer.replica().step();
    channel.shared.note_step(step);
    channel.shared.enter(Phase::Idle);
    let position = Position { step: Step(step), digest: trainer.digest()? };
    let (probe, transfer) = match extra {
        Extra::Nothing => (None, None),
        Extra::Probe(probe) => (Some(probe), None),
        Extra::Transfer(transfer) => (None, Some(transfer)),
    };
    let is_last = trainer.has_stopped_early();
    channel.events.send(Event::Ready(Ready { position, cause, transfer, probe, is_last }));
    Ok(())
}

fn train<T: Task>(
    writer: &mut CheckpointWriter<'_, T>,
    trainer: &mut Trainer<T::Data>,
    epochs: &mut Epochs,
    assignment: Assignment,
    channel: &TrainingChannel,
) -> Result<()> {
    let Assignment { generation, collective, rank, ranks, threads, arithmetic } = assignment;
    writer.arithmetic.extend(arithmetic);
    trainer.set_threads(threads as usize);
    let leads = ranks.first() == Some(&rank);
    let (number, members) = (generation.0, ranks.len());
    let span = tracing::info_span!("generation", generation = number, rank = rank.0, members);
    let _generation = span.entered();
    tracing::info!(
        rank = rank.0,
        generation = generation.0,
        members = ranks.len(),
        step = trainer.replica().step(),
        threads,
        leads,
        "training"
    );
    channel.shared.enter(Phase::Computing);
    let mut collective = PhaseReporting { collective, shared: Arc::clone(&channel.shared) };
    let config = &writer.setup.context.config;
    writer.wrote_last = leads;
    let thread = if leads { Some(writer.thread(trainer)?) } else { None };
    let mut reporter = Reporter::new(config, generation, ranks, thread, epochs, channel);
    let ended = trainer.train(&mut collective, &mut reporter);
    reporter.flush();
    match ended {
        Ok(ended) => {
            // Before the end of the run is reported, all files are on disk. In a pause the others would
            // wait for the disk, so writing goes on in the background.
            if ended == Ended::Completed || writer.has_failed() {
                channel.shared.enter(Phase::Saving);
                writer.flush()?;
            }
            report_ready(trainer, ReadyCause::AsTold, Extra::Nothing, channel)?;
        }
        Err(TrainError::Interrupted(Interrupted::Diverged(divergence))) => {
            let message = divergence.to_string();
            let failure = Failure { message, state_intact: false, recurs: false };
            channel.events.send(Event::Failed(failure));
        }
        Err(TrainError::Interrupted(interrupted)) => {
            let cause = ReadyCause::Interrupted(interrupted.to_string());
            report_ready(trainer, cause, Extra::Nothing, channel)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The results of [`build`].
struct Built<T: Task> {
    trainer: Trainer<T::Data>,
    /// The fingerprints of the arithmetic with which the trainer's first state was computed.
    arithmetic: BTreeSet<String>,
    /// The digest of this program's probe.
    probe: Digest,
}

/// Makes the trainer, after the checks of the task.
fn build<T: Task>(setup: &Setup<T>) -> Result<Built<T>> {
    let Setup { context: RunContext { config, device, .. }, options, data } = setup;
    let training = &config.training;
    let mut model = T::model(options, *device).map_err(of_task)?;
    model.fix_threads(training.model_threads);
    // One thread: the checks are short, and several threads of libtorch would wait for each other.
    model.set_team(Arc::default());
    checks::data(data, &training.task.dataset)?;
    checks::model(&mut *model, data, T::METRICS, training.seed)?;
    let probe = checks::probe(&mut *model, &data.train, training.seed)?;
    model.reserve(training.batch_size as usize)?;
    let settings = trainer::Settings {
        seed: training.seed,
        shards: training.shards,
        batch_size: training.batch_size,
        train_examples: training.train_examples,
        validation_examples: training.validation_examples,
        test_examples: training.test_examples,
        epochs: config.operation.epochs,
        early_stop_epochs: config.operation.early_stop_epochs,
        verify_every: config.operation.verify_every,
        adam: Adam::new(training.learning_rate),
        recipe: Recipe::of(training),
    };
    let mut trainer = Trainer::new(settings, model, Arc::clone(data));
    let mut arithmetic = BTreeSet::new();
    if let Some(restored) = restore::newest(&setup.context, trainer.model().layout())? {
        trainer.restore(restored.state, restored.ledger);
        arithmetic.extend(restored.arithmetic);
    }
    trainer.warm_up()?;
    Ok(Built { trainer, arithmetic, probe })
}
