//! A GPU computes the CPU's bits, for gradients and sums. Without a GPU, the kernels run on the emulated GPU,
//! in three orders of threads, each in its own process. On a machine with a GPU,
//! `cargo test --test gpu -- --ignored` tests that GPU.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use collective::{Control, Local, Node, ShardRange, Tally, plan};
use data::{Batch, Domain, Pass, Splits, Stream};
use emulated_gpu::{FOLDER, IS_THERE};
use images::{Images, Shape};
use model::{
    Adam, Isa, Model, PartialTree, State, StepContext, Sums, Team, WholeStep, digest::BLOCK,
};
use trainer::{
    Ended, EpochSummary, Ledger, Observer, Recipe, Replica, StepSummary, TrainError, Trainer,
};
use vae::{
    Settings, Vae,
    cuda::{self, Tiles},
};
use vae_options::{Architecture, Binarize, Likelihood, ModelConfig};

/// A model, and the number of images in each of its batches.
#[derive(Clone, Debug)]
struct Case {
    image: [u32; 3],
    sizes: (u32, u32),
    likelihood: Likelihood,
    settings: Settings,
    tiles: Tiles,
    batches: Vec<usize>,
}

/// The number of images in the data set.
const IMAGES: usize = 310;

const GREY: [u32; 3] = [28, 28, 1];

/// The learning rate of most runs.
const RATE: f64 = 1e-3;

/// A case with the Bernoulli likelihood, one sample and grey pixels.
fn case(sizes: (u32, u32), batches: &[usize]) -> Case {
    Case {
        image: GREY,
        sizes,
        likelihood: Likelihood::Bernoulli,
        settings: Settings::default(),
        tiles: Tiles::Auto,
        batches: batches.to_vec(),
    }
}

/// Default sizes; odd sizes; batches that grow and shrink; chains of more chunks than a block computes at
/// once; rows of more than one piece; all kinds of tiles; every option.
fn cases() -> Vec<Case> {
    let gaussian = Likelihood::Gaussian;
    let of = |samples| Settings { samples, ..Settings::default() };
    let dynamic = Settings { binarize: Binarize::Dynamic, ..Settings::default() };
    let warming = Settings { kl_warmup_epochs: 2, ..Settings::default() };
    vec![
        case((400, 20), &[64]),
        case((37, 3), &[13, 64, 5, 1]),
        case((1, 1), &[1, 2]),
        Case { settings: warming, likelihood: gaussian, ..case((129, 31), &[127, 20]) },
        Case { image: [41, 29, 1], likelihood: gaussian, ..case((24, 5), &[7]) },
        Case { image: [5, 7, 3], ..case((130, 17), &[300]) },
        Case { tiles: Tiles::Large, ..case((70, 9), &[150, 3]) },
        Case { tiles: Tiles::Large, likelihood: gaussian, ..case((24, 5), &[33]) },
        Case { settings: of(3), ..case((40, 6), &[21, 8]) },
        Case { settings: of(5), likelihood: gaussian, ..case((33, 7), &[9]) },
        Case { settings: dynamic, ..case((48, 5), &[17]) },
        Case { settings: dynamic, image: [9, 3, 1], ..case((16, 2), &[19]) },
    ]
}

fn config(case: &Case) -> ModelConfig {
    let (hidden_dim, latent_dim) = case.sizes;
    ModelConfig {
        image: case.image,
        architecture: Architecture::Dense,
        hidden_dim,
        latent_dim,
        likelihood: case.likelihood,
        beta: 1.5,
    }
}

fn images([height, width, channels]: [u32; 3], count: usize) -> Images {
    let pixel = |i: usize| if i * i % 7 < 2 { (i * 31 % 256) as u8 } else { 0 };
    let shape = Shape { height, width, channels };
    let pixels = (0..count * shape.bytes()).map(pixel).collect();
    Images::new(shape, pixels, vec![0; count]).unwrap()
}

fn parameters(model: &dyn Model<Data = Images>) -> Vec<f32> {
    let mut parameters = vec![0.0; model.layout().len()];
    model.initialise(3, &mut parameters);
    if let Some(range) = model.layout().range("log_variance") {
        parameters[range].fill(-0.7);
    }
    parameters
}

/// The gradient of each batch, and the sums in training and in an evaluation.
fn computed(model: &mut dyn Model<Data = Images>, case: &Case) -> Vec<(Vec<u32>, [Sums; 2])> {
    let images = images(case.image, IMAGES);
    let parameters = parameters(model);
    let compute = |(step, count): (usize, &usize)| {
        let indices: Vec<u32> = (0..*count as u32).map(|i| (i * 7 + 3) % IMAGES as u32).collect();
        let noise = Stream::new(9, Domain::Noise, step as u64, 2);
        let pass = Pass::train(9, step as u64);
        let batch = Batch { data: &images, indices: &indices, pass };
        let context =
            StepContext { step: step as u64, steps_per_epoch: 3, steps: 9, random: noise };
        let mut gradient = vec![f32::NAN; parameters.len()];
        let sums = model.gradient(&parameters, &batch, &context, &mut gradient).unwrap();
        let batch = Batch { pass: Pass::test(9), ..batch };
        let evaluated = model.evaluate(&parameters, &batch, noise).unwrap();
        (gradient.into_iter().map(f32::to_bits).collect(), [sums, evaluated])
    };
    case.batches.iter().enumerate().map(compute).collect()
}

#[test]
#[ignore = "needs a GPU"]
fn the_gpu_of_this_machine_computes_the_bits_of_the_cpu() {
    for case in cases() {
        let config = config(&case);
        let mut cpu = Vae::with(&config, case.settings).unwrap();
        let mut gpu = cuda::Vae::with_tiles(&config, case.settings, 0, case.tiles).unwrap();
        let batches = computed(&mut cpu, &case).into_iter().zip(computed(&mut gpu, &case));
        for (batch, ((expected, expected_sums), (found, sums))) in batches.enumerate() {
            let bits = |sums: [Sums; 2]| sums.map(|sums| sums.terms.map(f64::to_bits));
            assert_eq!(
                bits(sums),
                bits(expected_sums),
                "{sums:?} {expected_sums:?} {batch} {case:?}"
            );
            let others = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            let first = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(others, 0, "of {}, at {first:?}: batch {batch} of {case:?}", found.len());
        }
    }
}

/// Records the sums and the norm of every step.
#[derive(Default, PartialEq)]
struct Heard(Vec<(Tally, Option<f64>)>);

impl Observer for Heard {
    fn control(&self) -> Control {
        Control::default()
    }

    fn wants_details(&self, _is_last: bool) -> bool {
        self.0.len() % 3 != 1
    }

    fn stepped(&mut self, step: &StepSummary<'_>, _replica: &Replica, _ledger: &Ledger) {
        self.0.push((step.tally, step.details.as_ref().map(|details| details.gradient_norm)));
    }

    fn epoch_ended(&mut self, epoch: &EpochSummary, _replica: &Replica, _ledger: &Ledger) {
        self.0.push((epoch.test, None));
    }
}

/// Trains two epochs alone; returns the final state and the recorded values. With too high a rate, it
/// ends at a loss that is not finite.
fn trained(
    model: impl Model<Data = Images> + 'static,
    case: &Case,
    shards: u32,
    grad_clip: Option<f64>,
    learning_rate: f64,
) -> (State, Heard) {
    let (batch_size, mut heard) = (case.batches[0] as u32, Heard::default());
    let settings = trainer::Settings {
        seed: 9,
        shards,
        batch_size,
        // The last step of an epoch is short, and some of its shards have no image.
        train_examples: 9 * shards * batch_size + batch_size / 2,
        validation_examples: 0,
        test_examples: 11,
        epochs: 2,
        early_stop_epochs: 0,
        verify_every: 0,
        adam: Adam::new(learning_rate),
        recipe: Recipe { grad_clip, ..Recipe::PLAIN },
    };
    let length = model.layout().len();
    let count = settings.train_examples as usize;
    let data = Splits { train: images(case.image, count), test: images(case.image, 11) };
    let mut trainer = Trainer::new(settings, Box::new(model), Arc::new(data));
    match trainer.train(&mut Local::new(shards, length).unwrap(), &mut heard) {
        Ok(ended) => assert_eq!((ended, learning_rate), (Ended::Completed, RATE)),
        Err(error) => {
            assert!(
                matches!(error, TrainError::NotFinite { .. }) && learning_rate > RATE,
                "{error}"
            );
        }
    }
    (trainer.replica().view().to_state(), heard)
}

/// Training on the GPU with several shards.
#[test]
#[ignore = "needs a GPU"]
fn the_gpu_of_this_machine_trains_to_the_bits_of_the_cpu() {
    let dynamic = Settings { binarize: Binarize::Dynamic, ..Settings::default() };
    let sampling = Settings { samples: 2, ..Settings::default() };
    let gaussian = Likelihood::Gaussian;
    for (shards, grad_clip, rate, case) in [
        (1, None, RATE, case((100, 20), &[16])),
        (3, Some(9.0), RATE, Case { settings: dynamic, ..case((37, 3), &[6]) }),
        (7, None, RATE, Case { likelihood: gaussian, ..case((24, 5), &[3]) }),
        (2, None, RATE, Case { settings: sampling, ..case((24, 5), &[5]) }),
        (2, None, 30.0, case((24, 5), &[5])),
    ] {
        let config = config(&case);
        let cpu = Vae::with(&config, case.settings).unwrap();
        let (expected, expected_heard) = trained(cpu, &case, shards, grad_clip, rate);
        let gpu = cuda::Vae::new(&config, case.settings, 0).unwrap();
        let (found, heard) = trained(gpu, &case, shards, grad_clip, rate);
        assert_eq!(heard.0.len(), expected_heard.0.len(), "{case:?}");
        for (step, (found, expected)) in heard.0.iter().zip(&expected_heard.0).enumerate() {
            // The norm may be reported for other steps, because nothing waits for some of the norms.
            let norms_agree = found.1.is_none() || expected.1.is_none() || found.1 == expected.1;
            assert!(found.0 == expected.0 && norms_agree, "{step}: {found:?} {expected:?}");
        }
        assert!(heard.0.iter().any(|(_, norm)| norm.is_some()), "{case:?}");
        let clips = |(_, norm): &(Tally, Option<f64>)| norm.is_some_and(|norm| norm > 9.0);
        assert!(grad_clip.is_none() || expected_heard.0.iter().any(clips), "nothing was clipped");
        for (found, expected) in found.view().vectors().iter().zip(expected.view().vectors()) {
            let others = found.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(others.count(), 0, "of {}: {shards} shards of {case:?}", found.len());
        }
    }
}

/// A state of a model with these sizes, in which all numbers differ.
fn state_of(model: &dyn Model<Data = Images>) -> State {
    let mut state = State::zeros(model.layout().len());
    let vectors = [&mut state.parameters, &mut state.exp_avg, &mut state.exp_avg_sq];
    for (vector, scale) in vectors.into_iter().zip([1.0, -1e-3, 1e-6]) {
        vector.iter_mut().zip(1..).for_each(|(p, i)| *p = scale * (i as f32).sqrt());
    }
    State { step: 7, ..state }
}

/// Vectors of whole blocks and of partial blocks. The last block is hashed by another algorithm if it is
/// short.
#[test]
#[ignore = "needs a GPU"]
fn the_gpu_of_this_machine_hashes_a_state_as_the_cpu_does() {
    let length = |sizes| {
        let case = case(sizes, &[1]);
        Vae::with(&config(&case), case.settings).unwrap().layout().len()
    };
    let last = |sizes| length(sizes) % BLOCK;
    let short = (1..400).map(|hidden| (hidden, 3)).find(|sizes| (1..=60).contains(&last(*sizes)));
    for sizes in [(400, 20), (37, 3), (1, 1), short.expect("some hidden layer is so wide")] {
        let case = case(sizes, &[1]);
        let mut gpu = cuda::Vae::new(&config(&case), case.settings, 0).unwrap();
        let state = state_of(&gpu);
        let resident = gpu.resident().unwrap();
        resident.load(state.view()).unwrap();
        let found = resident.digest(state.step).unwrap();
        assert_eq!(found, Some(state.digest(&Team::default())), "{sizes:?}");
    }
}

/// The partials of a member's nodes. Its last shards may be short or have no image.
#[test]
#[ignore = "needs a GPU"]
fn the_gpu_of_this_machine_adds_up_a_member_s_shards() {
    const BATCH: usize = 6;
    let gaussian = Likelihood::Gaussian;
    let case = Case { likelihood: gaussian, ..case((24, 5), &[BATCH]) };
    let config = config(&case);
    let images = images(case.image, IMAGES);
    let mut cpu = Vae::with(&config, case.settings).unwrap();
    let mut gpu = cuda::Vae::new(&config, case.settings, 0).unwrap();
    let parameters = parameters(&cpu);
    let state = State { parameters: parameters.clone(), ..State::zeros(parameters.len()) };
    gpu.resident().unwrap().load(state.view()).unwrap();
    for (shards, own, examples) in
        [(1, 0..1, 6), (5, 1..4, 30), (7, 2..7, 15), (7, 3..4, 40), (4, 2..4, 3), (8, 0..7, 44)]
    {
        let range = ShardRange { start: own.start, end: own.end };
        let nodes = Node::root(shards).maximal_inside(range);
        // The step is the last one of an epoch.
        let before = 11;
        let order: Arc<[u32]> =
            (0..before + examples).map(|i| (i * 7 + 3) % IMAGES as u32).collect();
        let pass = Pass::train(9, 1);
        let place = |shard: u32| (before as usize + shard as usize * BATCH).min(order.len());
        let batch =
            |shard| Batch { data: &images, indices: &order[place(shard)..place(shard + 1)], pass };
        let context = |shard| StepContext::alone(Stream::new(9, Domain::Noise, 3, shard));
        let listed: Vec<_> = own.clone().map(|shard| (batch(shard), context(shard))).collect();
        let update = Adam::new(RATE).update(Isa::best(), 1, examples);
        let step = WholeStep {
            shards: &listed,
            order: &order,
            first: place(own.start),
            update,
            grad_clip: None,
            wants_norm: false,
        };
        let partner = gpu.resident().unwrap().partner().unwrap();
        partner.meet(&PartialTree::apart(&nodes)).unwrap();
        partner.contribute(&step).unwrap();
        let sums = partner.sums().unwrap();
        for (index, node) in nodes.iter().enumerate() {
            let mut expected = vec![0.0; parameters.len()];
            let expected_sums = node_gradient(*node, &mut expected, &mut |shard, gradient| {
                cpu.gradient(&parameters, &batch(shard), &context(shard), gradient).unwrap()
            });
            let mut found = vec![f32::NAN; parameters.len()];
            partner.partial(index, &mut found).unwrap();
            let others = found.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(others.count(), 0, "of {}: {node:?} of {shards}", found.len());
            assert_eq!(sums[index], expected_sums, "{node:?} of {shards}");
        }
    }
}

/// Makes `steps` steps from the beginning of an epoch. Gives the number of bytes copied.
fn copied(gpu: &mut cuda::Vae, images: &Images, order: &Arc<[u32]>, steps: usize) -> u64 {
    const BATCH: usize = 8;
    let bytes = |gpu: &cuda::Vae| gpu.gpu().traffic().to_gpu + gpu.gpu().traffic().from_gpu;
    let before = bytes(gpu);
    for step in 0..steps {
        let (first, number) = (step * BATCH, step as u64);
        let indices = &order[first..first + BATCH];
        let batch = Batch { data: images, indices, pass: Pass::train(9, 1) };
        let context = StepContext::alone(Stream::new(9, Domain::Noise, number, 0));
        let update = Adam::new(RATE).update(Isa::best(), number + 1, BATCH as u32);
        let shards = &[(batch, context)];
        let whole = WholeStep { shards, order, first, update, grad_clip: None, wants_norm: false };
        let resident = gpu.resident().unwrap();
        resident.begin(&whole).unwrap();
        resident.finish().unwrap();
    }
    bytes(gpu) - before
}

/// In each step a line goes to the GPU and three sums come back, for any batch size. In each epoch its order
/// goes to the GPU too.
#[test]
#[ignore = "needs a GPU"]
fn the_gpu_of_this_machine_copies_the_order_once_an_epoch() {
    const STEP_BYTES: u64 = 96 + 24;
    const ORDER_BYTES: u64 = 4 * IMAGES as u64;
    let case = case((24, 5), &[8]);
    let images = images(case.image, IMAGES);
    let mut gpu = cuda::Vae::new(&config(&case), case.settings, 0).unwrap();
    let state = State::initial(&gpu, 3);
    gpu.resident().unwrap().load(state.view()).unwrap();
    let orders: [Arc<[u32]>; 2] =
        [1, 7].map(|first| (0..IMAGES as u32).map(|i| (i * 7 + first) % IMAGES as u32).collect());
    // The first step records the graphs for all others.
    copied(&mut gpu, &images, &orders[0], 1);
    assert_eq!(copied(&mut gpu, &images, &orders[0], 20), 20 * STEP_BYTES);
    assert_eq!(copied(&mut gpu, &images, &orders[1], 20), 20 * STEP_BYTES + ORDER_BYTES);
    assert_eq!(copied(&mut gpu, &images, &orders[1], 30), 30 * STEP_BYTES);
}

/// The sum of the gradients of the shards below a node, along the tree.
fn node_gradient(
    node: Node,
    sum: &mut [f32],
    gradient: &mut dyn FnMut(u32, &mut [f32]) -> Sums,
) -> Sums {
    let Some((left, right)) = node.children() else { return gradient(node.start, sum) };
    let mut term = vec![0.0; sum.len()];
    let mut sums = node_gradient(left, sum, gradient);
    sums += node_gradient(right, &mut term, gradient);
    plan::accumulate(sum, &term);
    sums
}

/// Runs the tests above on the emulated GPU.
fn emulated(variables: &[(&str, &str)]) -> Output {
    emulated_in(&[FOLDER.into()], variables)
}

/// The same with the libraries of these folders; the last folder is searched first.
fn emulated_in(libraries: &[PathBuf], variables: &[(&str, &str)]) -> Output {
    let mut folders: Vec<PathBuf> = libraries.iter().rev().cloned().collect();
    folders.extend(env::var_os("LD_LIBRARY_PATH").iter().flat_map(env::split_paths));
    Command::new(env::current_exe().unwrap())
        .args(["--ignored", "the_gpu_of_this_machine"])
        .env("LD_LIBRARY_PATH", env::join_paths(folders).unwrap())
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn the_emulated_gpu_computes_the_bits_of_the_cpu_in_every_order_of_threads() {
    for order in ["up", "down", "random"] {
        if IS_THERE {
            let output = emulated(&[("EMULATED_GPU_ORDER", order)]);
            assert!(
                output.status.success(),
                "{order}: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
    }
}

#[test]
fn a_race_in_a_kernel_is_found() {
    for kernel in ["layer_small", "hashes"] {
        if IS_THERE {
            let output = emulated(&[("EMULATED_GPU_RACE", kernel)]);
            assert!(!output.status.success(), "{kernel} gives the right bits without its barriers");
        }
    }
}

/// AddressSanitizer checks the bounds of the GPU's memory, if the compiler has it.
#[test]
fn kernels_touch_no_memory_that_is_not_theirs() {
    if !IS_THERE {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sanitized-gpu");
    fs::create_dir_all(&folder).unwrap();
    let Some(sanitizer) = emulated_gpu::sanitized(&folder).unwrap() else { return };
    // Memory that is held until the process ends is no leak, and fibers have their own stacks.
    let options = "detect_leaks=0:detect_stack_use_after_return=0";
    let run = |overrun: &str| {
        let preload = sanitizer.to_str().unwrap();
        emulated_in(
            &[FOLDER.into(), folder.clone()],
            &[
                ("LD_PRELOAD", preload),
                ("ASAN_OPTIONS", options),
                ("EMULATED_GPU_OVERRUN", overrun),
            ],
        )
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let clean = run("");
    assert!(clean.status.success(), "{}", said(&clean));
    let planted = run("advance");
    let is_found = said(&planted).contains("heap-buffer-overflow");
    assert!(!planted.status.success() && is_found, "{}", said(&planted));
}
