//! The training thread: builds the model, then carries out orders, one after the other.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use collective::{Interrupted, Rank, Step};
use config::RunConfig;
use data::Mnist;
use membership::{Failure, Standing};
use model::{Adam, Layout, State};
use tch::Device;
use trainer::{EpochLedger, Ledger, Recipe, TrainError, Trainer};

use crate::{
    bridge::{Assignment, Event, Order, Trainee},
    device,
    reporter::Reporter,
    writer::Writer,
};

/// What the training thread needs to begin.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) rank: Rank,
    pub(crate) run_id: String,
    pub(crate) config: RunConfig,
    pub(crate) device: Device,
    /// Cut to the run's first images.
    pub(crate) data: Arc<Mnist>,
    pub(crate) run_dir: PathBuf,
    /// The checkpoint to begin from; from the seed if none.
    pub(crate) checkpoint: Option<PathBuf>,
}

/// The life of the training thread.
pub(crate) fn run(setup: Setup, trainee: &Trainee) {
    if let Err(error) = work(setup, trainee) {
        let failure = Failure { message: format!("{error:#}"), state_intact: true };
        trainee.events.send(Event::Failed(failure));
    }
}

fn work(setup: Setup, trainee: &Trainee) -> Result<()> {
    let mut trainer = build(&setup)?;
    let mut writer = None;
    say_ready(&trainer, None, trainee);
    while let Some(order) = trainee.next_order() {
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(Writer::start(&setup, &trainer)?),
        };
        match order {
            Order::Train(assignment) => train(&setup, &mut trainer, *assignment, writer, trainee)?,
            Order::Report(reason) => say_ready(&trainer, Some(reason), trainee),
            Order::Persist => {
                writer.save(trainer.state(), trainer.ledger());
                writer.flush()?;
                trainee.events.send(Event::Saved(trainer.state().step));
            }
        }
    }
    writer.map_or(Ok(()), |mut writer| writer.flush())
}

fn say_ready(trainer: &Trainer, interrupted: Option<String>, trainee: &Trainee) {
    let state = trainer.state();
    trainee.shared.note_step(state.step);
    let standing = Standing { step: Step(state.step), digest: state.digest() };
    trainee.events.send(Event::Ready(standing, interrupted));
}

fn train(
    setup: &Setup,
    trainer: &mut Trainer,
    mut assignment: Assignment,
    writer: &mut Writer,
    trainee: &Trainee,
) -> Result<()> {
    tch::set_num_threads(i32::try_from(assignment.threads).unwrap_or(1));
    let leads = assignment.ranks.first() == Some(&setup.rank);
    tracing::info!(
        generation = assignment.generation.0,
        members = assignment.ranks.len(),
        threads = assignment.threads,
        leads,
        "training"
    );
    let mut reporter = Reporter::new(setup, &assignment, leads.then_some(&mut *writer), trainee);
    let ended = trainer.train(&mut *assignment.collective, &mut reporter);
    reporter.flush();
    // What was written in the background is on disk before anybody hears of the end.
    writer.flush()?;
    match ended {
        Ok(_) => say_ready(trainer, None, trainee),
        Err(TrainError::Interrupted(Interrupted::Diverged(divergence))) => {
            let failure = Failure { message: divergence.to_string(), state_intact: false };
            trainee.events.send(Event::Failed(failure));
        }
        Err(TrainError::Interrupted(interrupted)) => {
            say_ready(trainer, Some(interrupted.to_string()), trainee);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn build(setup: &Setup) -> Result<Trainer> {
    let training = &setup.config.training;
    let mut model = device::model(training, setup.device)?;
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
    if let Some(path) = &setup.checkpoint {
        let (state, ledger) = load(path, setup, trainer.model().layout())
            .with_context(|| format!("cannot go on from {}", path.display()))?;
        trainer.restore(state, ledger);
    }
    Ok(trainer)
}

fn load(path: &Path, setup: &Setup, layout: &Layout) -> Result<(State, Ledger)> {
    let checkpoint::Checkpoint { metadata, tensors, .. } = checkpoint::read(path)?;
    ensure!(metadata.run_id == setup.run_id, "it belongs to run {}", metadata.run_id);
    let gather = |prefix: &str| {
        layout.gather(|name| {
            let tensor = tensors.get(&format!("{prefix}{name}"))?;
            Some((&tensor.shape[..], &tensor.data[..]))
        })
    };
    let state = State {
        step: metadata.step,
        parameters: gather("")?,
        exp_avg: gather("exp_avg.")?,
        exp_avg_sq: gather("exp_avg_sq.")?,
    };
    let epoch = |epoch: checkpoint::EpochLedger| {
        let terms = epoch.loss_terms.try_into().unwrap_or_default();
        EpochLedger { images: epoch.images, index_sum: epoch.index_sum, terms }
    };
    Ok((state, Ledger { epochs: metadata.ledger.into_iter().map(epoch).collect() }))
}
