//! A small trained model, shared by all scenarios. Each scenario runs the program in its own folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

use checkpoint::{Directory, Metadata, TensorView};
use collective::{Control, Local};
use config::{Collective, LearningRateSchedule, Operation, RunConfig, Training};
use data::Splits;
use images::Images;
use model::{Adam, Layout, State};
use tempfile::TempDir;
use trainer::{EpochSummary, Ledger, Observer, Recipe, Replica, Settings, StepSummary, Trainer};
use vae_options::{Architecture, VaeOptions};

pub(crate) const LATENT: usize = 4;
pub(crate) const TEST_IMAGES: u32 = 300;
const TRAIN_IMAGES: u32 = 2_000;
const SHARDS: u32 = 1;
const BATCH_SIZE: u32 = 50;
const EPOCHS: u32 = 6;

/// The settings in which the small models differ.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) seed: u64,
    pub(crate) shards: u32,
    pub(crate) train_images: u32,
    pub(crate) options: VaeOptions,
}

impl Variant {
    fn training(&self) -> Training {
        Training {
            seed: self.seed,
            shards: self.shards,
            batch_size: BATCH_SIZE,
            learning_rate: 3e-3,
            learning_rate_schedule: LearningRateSchedule::Constant,
            grad_clip: None,
            train_examples: self.train_images,
            validation_examples: 0,
            test_examples: TEST_IMAGES,
            model_threads: 1,
            task: self.options.describe(images::named::mnist()).unwrap(),
        }
    }
}

/// The base model; the other models differ from it in a few settings.
pub(crate) fn plain() -> Variant {
    let options = VaeOptions { hidden_dim: 32, latent_dim: LATENT as u32, ..VaeOptions::default() };
    Variant { seed: 5, shards: SHARDS, train_images: TRAIN_IMAGES, options }
}

/// The convolutional model.
pub(crate) fn conv() -> Variant {
    let mut variant = plain();
    variant.options.architecture = Architecture::Conv;
    // An image costs ten times as much.
    variant.train_images = TRAIN_IMAGES / 10;
    variant
}

pub(crate) fn mnist() -> Splits<Images> {
    let folder = data::default_dir("mnist");
    let files = data::fetch::ensure(&folder, &images::named::mnist(), false, &|_| ())
        .expect("MNIST is there or can be fetched");
    images::splits(&files).expect("MNIST can be read")
}

/// The test losses that training reported last: all terms, in nats per image.
#[derive(Debug, Default)]
struct LastReport([f64; 3]);

impl Observer for LastReport {
    fn control(&self) -> Control {
        Control::default()
    }

    fn stepped(&mut self, _: &StepSummary<'_>, _: &Replica, _: &Ledger) {}

    fn epoch_ended(&mut self, summary: &EpochSummary, _: &Replica, _: &Ledger) {
        let [loss, reconstruction, kl, ..] = summary.test.terms;
        self.0 = [loss, reconstruction, kl].map(|sum| sum / summary.test.examples as f64);
    }
}

/// Trains a model and writes its checkpoint into the run directory. Returns the test losses of the
/// last epoch.
pub(crate) fn train(variant: &Variant, run_dir: &Path) -> [f64; 3] {
    let (options, training) = (&variant.options, variant.training());
    let mut mnist = mnist();
    vae::prepare(
        &mut mnist,
        options,
        [training.train_examples, training.test_examples],
        training.seed,
    );
    let model = vae_conv::codec(&options.model(), vae::Settings::of(options)).unwrap();
    let layout = model.layout().clone();
    let settings = Settings {
        seed: training.seed,
        shards: training.shards,
        batch_size: BATCH_SIZE,
        train_examples: u32::MAX,
        validation_examples: 0,
        test_examples: u32::MAX,
        epochs: EPOCHS,
        early_stop_epochs: 0,
        verify_every: 0,
        adam: Adam::new(training.learning_rate),
        recipe: Recipe::of(&training),
    };
    let mut trainer = Trainer::new(settings, model, Arc::new(mnist));
    let mut alone = Local::new(training.shards, layout.len()).unwrap();
    let mut report = LastReport::default();
    trainer.train(&mut alone, &mut report).unwrap();
    write(variant, &layout, trainer.replica().snapshot().state(), run_dir);
    report.0
}

/// Writes the checkpoint of a model into the run directory.
pub(crate) fn write(variant: &Variant, layout: &Layout, state: &State, run_dir: &Path) {
    let operation = Operation {
        workers: 1,
        epochs: EPOCHS,
        collective: Collective::Auto,
        verify_every: 0,
        checkpoint_every_epochs: 1,
        keep_checkpoints: 1,
        keep_best: false,
        early_stop_epochs: 0,
        checkpoint_url: None,
    };
    let config = RunConfig { training: variant.training(), operation };
    let metadata = Metadata {
        run_id: "0123456789".into(),
        step: state.step,
        configuration: serde_json::to_string(&config).unwrap(),
        ..Metadata::default()
    };
    let tensors = layout.entries().iter().map(|entry| TensorView {
        name: &entry.name,
        shape: &entry.shape,
        data: &state.parameters[entry.range.clone()],
    });
    let folder = Directory::open(run_dir.join("checkpoints"));
    folder.create().unwrap();
    folder.write(&metadata, &tensors.collect::<Vec<_>>()).unwrap();
}

/// The run directory of the model that most scenarios use. It is trained once and never written to.
pub(crate) fn run_dir() -> &'static Path {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        train(&plain(), folder.path());
        folder
    });
    run.path()
}

/// A folder to run the program in.
#[derive(Debug)]
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs the program with these arguments, separated by blanks, and no others.
    fn run(&self, arguments: &str) -> (Option<i32>, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// The program with these arguments, separated by blanks, and no others.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vae"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path());
        command
    }

    /// Runs a command on the small model; returns its output.
    pub(crate) fn vae(&self, arguments: &str) -> String {
        self.vae_of(run_dir(), arguments)
    }

    /// Runs a command on the model in a run directory.
    pub(crate) fn vae_of(&self, run_dir: &Path, arguments: &str) -> String {
        let (code, out, error) =
            self.run(&format!("{arguments} --checkpoint {}", run_dir.display()));
        assert_eq!(code, Some(0), "vae {arguments}: {error}");
        out
    }

    /// Runs a command that must fail with a one-line error and leave nothing behind; returns the line.
    #[track_caller]
    pub(crate) fn refused(&self, arguments: &str) -> String {
        let error = self.failed(arguments, 1);
        assert_eq!(error.trim().lines().count(), 1, "{error}");
        error
    }

    /// Runs a command whose arguments must be refused, with the usage; returns the error output.
    #[track_caller]
    pub(crate) fn misused(&self, arguments: &str) -> String {
        let error = self.failed(arguments, 2);
        assert!(error.contains("\n\n") && error.contains("--help"), "{error}");
        error
    }

    #[track_caller]
    fn failed(&self, arguments: &str, expected: i32) -> String {
        let before = self.files();
        let (code, _, error) = self.run(arguments);
        assert_eq!(code, Some(expected), "vae {arguments}: {error}");
        assert!(error.starts_with("error: "), "{error}");
        assert_eq!(self.files(), before, "vae {arguments} left something behind");
        error
    }

    /// All names below the folder.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path.clone());
                }
                found.push(path);
            }
        }
        found.sort();
        found
    }
}

/// Width, height and the 8-bit samples of a PNG.
pub(crate) fn png(bytes: &[u8]) -> (usize, usize, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width as usize, info.height as usize, pixels)
}
