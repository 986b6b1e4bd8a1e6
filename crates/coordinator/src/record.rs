//! What a run has done so far: the numbers behind the metrics, the summary and the lines that
//! people read.

use anyhow::Result;
use collective::{Digest, Generation};
use protocol::wire::{EpochReport, Losses, RankSeconds, Report, StatusReply};
use serde::Serialize;
use serde_json::json;

use crate::{console::Progress, launch::Launch, run_dir::RunDir};

/// Ranks that a line of the metrics tells of at the most.
const RANKS_TOLD: usize = 64;

/// The numbers of a run.
#[derive(Debug)]
pub(crate) struct Record {
    run_id: String,
    workers: u32,
    shards: u32,
    epochs: u32,
    steps_per_epoch: u64,
    /// Updates that the state has seen, as far as was reported.
    step: u64,
    /// Images of each epoch that was completed, as counted by the all-reduce.
    images_counted: Vec<u64>,
    /// As last reported.
    epoch: u64,
    loss: f64,
    images_per_second: f64,
    /// Epochs that were reported before this run was resumed.
    epochs_before: u64,
    test: Losses,
    images: u64,
    seconds: f64,
    epoch_images: u64,
    epoch_seconds: f64,
}

/// What `summary.json` holds.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    run_id: String,
    steps: u64,
    epochs: u32,
    workers: u32,
    shards: u32,
    /// Nats per image, z sampled, whole test set.
    test_loss: f64,
    test_reconstruction: f64,
    test_kl: f64,
    train_images_per_second: f64,
    digest: String,
    generations: u64,
    /// By epoch, as added up by the all-reduce.
    images_counted: Vec<u64>,
}

impl Record {
    pub(crate) fn new(launch: &Launch) -> Self {
        let config = launch.config();
        let steps_per_epoch = launch.steps_per_epoch();
        let before = launch.checkpoint().map(|(_, metadata)| metadata);
        let step = before.map_or(0, |metadata| metadata.step);
        let counted = before.map(|m| m.ledger.iter().map(|epoch| epoch.images).collect());
        Self {
            run_id: launch.info.run_id.clone(),
            workers: config.operation.workers,
            shards: config.training.shards,
            epochs: config.operation.epochs,
            steps_per_epoch,
            step,
            images_counted: counted.unwrap_or_default(),
            epoch: step / steps_per_epoch + 1,
            loss: 0.0,
            images_per_second: 0.0,
            epochs_before: step / steps_per_epoch,
            test: Losses::default(),
            images: 0,
            seconds: 0.0,
            epoch_images: 0,
            epoch_seconds: 0.0,
        }
    }

    /// Steps of the whole run.
    pub(crate) fn steps(&self) -> u64 {
        self.steps_per_epoch * u64::from(self.epochs)
    }

    /// Updates done, as far as was reported.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Fills in what is known of the training.
    pub(crate) fn describe(&self, status: &mut StatusReply) {
        (status.step, status.steps) = (self.step, self.steps());
        (status.epoch, status.epochs) = (self.epoch.min(self.epochs.into()), self.epochs);
        (status.images_per_second, status.loss) = (self.images_per_second, self.loss);
        status.workers = self.workers;
    }

    /// Takes in a leader's report: what to show, and the line for the metrics.
    pub(crate) fn report(&mut self, report: &Report) -> (Progress, serde_json::Value) {
        self.step = report.step;
        self.images += report.images;
        self.seconds += report.seconds;
        self.epoch_images += report.images;
        self.epoch_seconds += report.seconds;
        let losses = report.losses.unwrap_or_default();
        let images_per_second = rate(report.images, report.seconds);
        (self.epoch, self.loss, self.images_per_second) =
            (report.epoch, losses.loss, images_per_second);
        let rank = |rank: &RankSeconds| {
            json!({
                "rank": rank.rank,
                "compute_seconds": rank.compute,
                "all_reduce_seconds": rank.all_reduce,
                "waiting_seconds": rank.waiting,
            })
        };
        let line = json!({
            "kind": "steps",
            "step": report.step,
            "epoch": report.epoch,
            "generation": report.generation,
            "loss": losses.loss,
            "reconstruction": losses.reconstruction,
            "kl": losses.kl,
            "images": report.images,
            "images_per_second": images_per_second,
            "ranks": slowest(&report.ranks).map(rank).collect::<Vec<_>>(),
        });
        let progress = Progress {
            epoch: report.epoch,
            epochs: self.epochs,
            step: report.step,
            steps: self.steps(),
            loss: losses.loss,
            images_per_second,
        };
        (progress, line)
    }

    /// Takes in the end of an epoch: the line for people and the one for the metrics, unless
    /// the epoch was reported before.
    pub(crate) fn epoch_report(
        &mut self,
        report: &EpochReport,
    ) -> Option<(String, serde_json::Value)> {
        let (train, test) = (report.train.unwrap_or_default(), report.test.unwrap_or_default());
        self.test = test;
        self.images_counted.clone_from(&report.images_by_epoch);
        if report.epoch <= self.epochs_before {
            return None;
        }
        self.epochs_before = report.epoch;
        let images_per_second = rate(self.epoch_images, self.epoch_seconds);
        (self.epoch_images, self.epoch_seconds) = (0, 0.0);
        let text = format!(
            "Epoch {}/{}  loss {:.2}  reconstruction {:.2}  KL {:.2}  test loss {:.2}  \
             {images_per_second:.0} images/s",
            report.epoch, self.epochs, train.loss, train.reconstruction, train.kl, test.loss
        );
        let line = json!({
            "kind": "epoch",
            "step": report.step,
            "epoch": report.epoch,
            "generation": report.generation,
            "loss": train.loss,
            "reconstruction": train.reconstruction,
            "kl": train.kl,
            "test_loss": test.loss,
            "test_reconstruction": test.reconstruction,
            "test_kl": test.kl,
            "images_per_second": images_per_second,
            "images_counted": report.images_by_epoch.last(),
            "index_sum": report.index_sum,
        });
        Some((text, line))
    }

    pub(crate) fn summary(&self, digest: Digest, generations: Generation) -> Summary {
        Summary {
            run_id: self.run_id.clone(),
            steps: self.steps(),
            epochs: self.epochs,
            workers: self.workers,
            shards: self.shards,
            test_loss: self.test.loss,
            test_reconstruction: self.test.reconstruction,
            test_kl: self.test.kl,
            train_images_per_second: rate(self.images, self.seconds),
            digest: digest.to_string(),
            generations: generations.0,
            images_counted: self.images_counted.clone(),
        }
    }

    /// What a person reads at the end of a run.
    pub(crate) fn closing_words(&self, run_dir: &RunDir) -> Result<String> {
        let newest = run_dir.checkpoints().list()?.pop().map(|(_, path)| path);
        let mut words = format!(
            "Done: {} steps, test loss {:.2} nats per image, {:.0} images/s",
            self.steps(),
            self.test.loss,
            rate(self.images, self.seconds)
        );
        if let Some(checkpoint) = newest {
            words += &format!("\nCheckpoint: {}", checkpoint.display());
        }
        let samples = run_dir.samples_path(u64::from(self.epochs));
        if samples.exists() {
            words += &format!("\nPicture:    {}", samples.display());
        }
        Ok(words)
    }
}

fn rate(images: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { images as f64 / seconds } else { 0.0 }
}

/// The ranks that a line has room for, in order: those that computed longest, for which the
/// others waited.
fn slowest(ranks: &[RankSeconds]) -> impl Iterator<Item = &RankSeconds> {
    let mut told: Vec<&RankSeconds> = ranks.iter().collect();
    told.sort_by(|one, other| other.compute.total_cmp(&one.compute));
    told.truncate(RANKS_TOLD);
    told.sort_by_key(|rank| rank.rank);
    told.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_ranks_the_slowest_are_told_of() {
        let seconds =
            |rank| RankSeconds { rank, compute: f64::from(rank % 10), ..Default::default() };
        let ranks: Vec<RankSeconds> = (0..640).map(seconds).collect();
        let told: Vec<u32> = slowest(&ranks).map(|rank| rank.rank).collect();
        assert_eq!(told, (0..64).map(|ten| ten * 10 + 9).collect::<Vec<_>>());
        assert_eq!(slowest(&ranks[..3]).count(), 3);
    }
}
