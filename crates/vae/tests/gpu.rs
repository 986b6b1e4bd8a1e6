//! A GPU computes the CPU's bits: gradients and sums. Without a GPU, the kernels run on the emulated one,
//! in three orders of threads, each in a process of its own. On a machine with a GPU,
//! `cargo test --test gpu -- --ignored` compares that one.

use std::{
    env,
    process::{Command, Output},
};

use data::{Batch, Domain, Stream, Visit};
use emulated_gpu::{FOLDER, IS_THERE};
use images::{Images, Shape};
use model::{Adam, Model, State, StepContext, Sums};
use vae::{
    Settings, Vae,
    cuda::{self, Plan, Resident, ResidentStep, Tiles},
};
use vae_options::{Architecture, Binarize, Likelihood, ModelConfig};

/// A model, and how many images each of its batches has.
#[derive(Clone, Debug)]
struct Case {
    image: [u32; 3],
    sizes: (u32, u32),
    likelihood: Likelihood,
    settings: Settings,
    tiles: Tiles,
    batches: Vec<usize>,
}

/// Of the data set.
const IMAGES: usize = 310;

const GREY: [u32; 3] = [28, 28, 1];

/// Bernoulli, one sample, grey pixels.
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

/// Default sizes; odd ones; batches that grow and shrink; chains of more chunks than a block computes at
/// once, and rows of more than one piece; all tiles; every option.
fn cases() -> Vec<Case> {
    let gaussian = Likelihood::Gaussian;
    let of = |samples| Settings { samples, ..Settings::default() };
    let dynamic = Settings { binarize: Binarize::Dynamic, ..Settings::default() };
    let warming = Settings { warmup_epochs: 2, ..Settings::default() };
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

/// The gradient of each batch, and the sums of training and of an evaluation.
fn computed(model: &mut dyn Model<Data = Images>, case: &Case) -> Vec<(Vec<u32>, [Sums; 2])> {
    let images = images(case.image, IMAGES);
    let parameters = parameters(model);
    let compute = |(step, count): (usize, &usize)| {
        let indices: Vec<u32> = (0..*count as u32).map(|i| (i * 7 + 3) % IMAGES as u32).collect();
        let noise = Stream::new(9, Domain::Noise, step as u64, 2);
        let visit = Visit::train(9, step as u64);
        let batch = Batch { data: &images, indices: &indices, visit };
        let context =
            StepContext { step: step as u64, steps_per_epoch: 3, steps: 9, random: noise };
        let mut gradient = vec![f32::NAN; parameters.len()];
        let sums = model.gradient(&parameters, &batch, &context, &mut gradient).unwrap();
        let batch = Batch { visit: Visit::test(9), ..batch };
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

/// Some steps with shards on the CPU: the state after them, and the sums of each.
fn trained(case: &Case, plan: Plan, order: &[u32], steps: &[ResidentStep]) -> (State, Vec<Sums>) {
    let mut model = Vae::with(&config(case), case.settings).unwrap();
    let images = images(case.image, IMAGES);
    let mut state = State { parameters: parameters(&model), ..State::initial(&model, 0) };
    let mut all = Vec::new();
    for ResidentStep { step, visit, positions: (start, end), .. } in steps.iter().copied() {
        let shards = (0..plan.shards).map(|shard| {
            let first = (start as usize + shard * plan.batch).min(end as usize);
            let indices = &order[first..(first + plan.batch).min(end as usize)];
            let random = Stream::new(9, Domain::Noise, step, shard as u32);
            let context = StepContext { step, steps_per_epoch: 3, steps: 9, random };
            let batch = Batch { data: &images, indices, visit };
            let mut gradient = vec![f32::NAN; state.parameters.len()];
            let sums = model.gradient(&state.parameters, &batch, &context, &mut gradient).unwrap();
            (gradient, sums)
        });
        let (gradient, sums) = added(shards.collect());
        plan.adam.apply(&mut state, &gradient, end - start);
        all.push(sums);
    }
    (state, all)
}

/// The sum along the tree of shards.
fn added(mut shards: Vec<(Vec<f32>, Sums)>) -> (Vec<f32>, Sums) {
    if shards.len() == 1 {
        return shards.pop().unwrap();
    }
    let right = shards.split_off(shards.len().next_power_of_two() / 2);
    let ((mut left, mut sums), (right, more)) = (added(shards), added(right));
    left.iter_mut().zip(right).for_each(|(a, b)| *a += b);
    sums += more;
    (left, sums)
}

/// Training that stays on the GPU, with several shards; the last step is short, and leaves shards without
/// an image.
#[test]
#[ignore = "needs a GPU"]
fn the_gpu_of_this_machine_trains_to_the_bits_of_the_cpu() {
    let dynamic = Settings { binarize: Binarize::Dynamic, ..Settings::default() };
    let sampling = Settings { samples: 2, ..Settings::default() };
    for (shards, case) in [
        (1, case((400, 20), &[64])),
        (3, Case { settings: dynamic, ..case((37, 3), &[13]) }),
        (7, Case { likelihood: Likelihood::Gaussian, ..case((24, 5), &[6]) }),
        (2, Case { settings: sampling, ..case((24, 5), &[9]) }),
    ] {
        let plan = Plan { batch: case.batches[0], shards, steps: 3, adam: Adam::new(1e-3) };
        let global = (plan.batch * shards) as u32;
        let order: Vec<u32> = (0..3 * global).map(|i| i * 7 % IMAGES as u32).collect();
        let steps = [0, 1, 2].map(|step| ResidentStep {
            step: u64::from(step),
            noise: Stream::new(9, Domain::Noise, u64::from(step), 0),
            visit: Visit::train(9, 0),
            positions: (step * global, if step < 2 { (step + 1) * global } else { 2 * global + 5 }),
            beta: 1.5,
        });
        let images = images(case.image, IMAGES);
        let model = Vae::with(&config(&case), case.settings).unwrap();
        let mut resident = Resident::new(&config(&case), case.settings, 0, &images, plan).unwrap();
        let zeros = vec![0.0; resident.len()];
        resident.write_state([&parameters(&model), &zeros, &zeros]).unwrap();
        resident.begin(&order, &steps).unwrap();
        // Nobody waits between the steps.
        (0..steps.len()).for_each(|_| resident.step().unwrap());
        let sums = resident.sums().unwrap().to_vec();
        let found = resident.read_state().unwrap();

        let (expected, expected_sums) = trained(&case, plan, &order, &steps);
        for (found, expected) in sums.iter().zip(expected_sums) {
            assert_eq!(
                found.map(f64::to_bits)[..],
                expected.terms.map(f64::to_bits)[..3],
                "{case:?}"
            );
        }
        for (found, expected) in found.iter().zip(expected.view().vectors()) {
            let others = found.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(others.count(), 0, "of {}: {shards} shards of {case:?}", found.len());
        }
    }
}

/// Runs the tests above on the emulated GPU.
fn emulated(variables: &[(&str, &str)]) -> Output {
    let mut folders = vec![FOLDER.into()];
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
    if IS_THERE {
        let output = emulated(&[("EMULATED_GPU_RACE", "layer_small")]);
        assert!(!output.status.success(), "a product without barriers gives the right bits");
    }
}
