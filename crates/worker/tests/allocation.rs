//! After the first steps of training a step allocates no memory, neither with a single member nor over
//! shared memory. Freed and newly mapped pages would cost a step much time.
//!
//! This test has its own process, because the count is that of the whole process.

#![allow(unsafe_code, reason = "an allocator is unsafe to write; this one only counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    error::Error,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use collective::{AllReduce, Control, Generation, Local, Rank, ShardRange, Share};
use data::Splits;
use images::{Images, PIXELS, Shape};
use model::{Adam, Model as _};
use trainer::{EpochSummary, Ledger, Observer, Recipe, Replica, Settings, StepSummary, Trainer};
use transport::{Group, Peer, shm};
use vae::Vae;
use vae_options::{Architecture, Binarize, Likelihood, ModelConfig, Precision};

/// Counts the allocations of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(place, layout) }
    }
}

const SHARDS: u32 = 4;
const BATCH: u32 = 16;
const STEPS: u64 = 20;
const IMAGES: usize = STEPS as usize * (SHARDS * BATCH) as usize;

/// Steps until all lasting memory has been allocated.
const WARM_UP: u64 = 3;

/// Counts the allocations between two steps of one epoch.
#[derive(Default)]
struct Watch {
    at_begin: u64,
    found: Option<u64>,
}

impl Observer for Watch {
    fn control(&self) -> Control {
        Control::default()
    }

    fn stepped(&mut self, step: &StepSummary<'_>, _replica: &Replica, _ledger: &Ledger) {
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        if step.step == WARM_UP {
            self.at_begin = allocations;
        }
        // The members differ by at most one step, so none has reached the end of the epoch.
        if step.step == STEPS - 2 {
            self.found = Some(allocations - self.at_begin);
        }
    }

    fn epoch_ended(&mut self, _epoch: &EpochSummary, _replica: &Replica, _ledger: &Ledger) {}
}

#[test]
fn a_step_allocates_nothing() -> Result<(), Box<dyn Error>> {
    let plain = vae::Settings::default();
    let bf16 = vae::Settings { precision: Precision::Bf16, ..plain };
    let drawn = vae::Settings { binarize: Binarize::Dynamic, ..plain };
    let weighted = vae::Settings { samples: 3, ..plain };
    for settings in [plain, bf16, drawn, weighted] {
        for threads in [1, 2] {
            let mut trainer = trainer(settings, threads)?;
            let length = trainer.model().layout().len();
            let found = train(&mut trainer, &mut Local::new(SHARDS, length)?);
            assert_eq!(found, Some(0), "alone, {settings:?}, {threads} threads");
        }
        for found in over_shared_memory(settings)? {
            assert_eq!(found, Some(0), "over shared memory, {settings:?}");
        }
    }
    Ok(())
}

/// The allocations that each of two members has seen.
fn over_shared_memory(settings: vae::Settings) -> Result<Vec<Option<u64>>, Box<dyn Error>> {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let peer = |(rank, start): (u32, u32)| Peer {
        share: Share { rank: Rank(rank), shards: ShardRange { start, end: start + SHARDS / 2 } },
        address: nowhere.into(),
        secret: [0; secure::SECRET_BYTES].into(),
        memory_domain: Some(1),
    };
    let group = Group {
        run_id: "allocation".into(),
        shares_state: true,
        generation: Generation(1),
        shards: SHARDS,
        length: trainer(settings, 1)?.model().layout().len(),
        rank: Rank(0),
        peers: [(0, 0), (1, SHARDS / 2)].map(peer).to_vec(),
    };
    let (leader, rendezvous) = shm::Segment::create(&group)?;
    let other = shm::Segment::open(&Group { rank: Rank(1), ..group }, &rendezvous)?;
    let segments = [leader, other];
    Ok(thread::scope(|scope| {
        let member = |segment: shm::Segment| {
            let mut trainer = trainer(settings, 1).ok()?;
            train(&mut trainer, &mut segment.into_all_reduce().ok()?)
        };
        let threads = segments.map(|segment| scope.spawn(move || member(segment)));
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    }))
}

fn train(trainer: &mut Trainer<Images>, collective: &mut dyn AllReduce) -> Option<u64> {
    let mut watch = Watch::default();
    trainer.train(collective, &mut watch).ok()?;
    watch.found
}

fn trainer(of_vae: vae::Settings, threads: usize) -> Result<Trainer<Images>, Box<dyn Error>> {
    let images = |count: usize| {
        let pixels = (0..count * PIXELS).map(|i| (i * i % 253) as u8).collect();
        Images::new(Shape::grey(28, 28), pixels, vec![0; count])
    };
    let data = Arc::new(Splits { train: images(IMAGES)?, test: images(10)? });
    let config = ModelConfig {
        image: vae_options::MNIST_IMAGE,
        architecture: Architecture::Dense,
        hidden_dim: 64,
        latent_dim: 4,
        likelihood: Likelihood::Bernoulli,
        beta: 1.0,
    };
    let mut model = Vae::with(&config, of_vae)?;
    model.reserve(BATCH as usize)?;
    let settings = Settings {
        seed: 0,
        shards: SHARDS,
        batch_size: BATCH,
        train_examples: u32::MAX,
        validation_examples: 0,
        test_examples: u32::MAX,
        epochs: 1,
        early_stop_epochs: 0,
        // A step with a digest allocates nothing either.
        verify_every: 2,
        adam: Adam::new(1e-3),
        recipe: Recipe::PLAIN,
    };
    let mut trainer = Trainer::new(settings, Box::new(model), data);
    trainer.set_threads(threads);
    Ok(trainer)
}
