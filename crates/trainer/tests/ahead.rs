//! A model keeps the state itself, and begins steps before the trainer has read the results of the earlier
//! steps. It trains to the same bits, in whichever way its generation ends.

use std::{cell::Cell, collections::VecDeque, rc::Rc, sync::Arc};

use collective::{
    AllReduce, Contribution, Control, Digest, Interrupted, Local, Node, Outcome, Round,
    STATE_VECTORS, plan,
};
use data::{Batch, Dataset, Splits, Stream};
use model::{
    Adam, Finished, Isa, Layout, Model, ModelError, Resident, State, StateView, StepContext, Sums,
    Team, WholeStep, norm::sum_of_squares, resident::AHEAD,
};
use trainer::{
    Ended, EpochSummary, Ledger, NoopObserver, Observer, Recipe, Replica, Settings, StepSummary,
    TrainError, Trainer,
};

const LEN: usize = 40;
const EXAMPLES: u32 = 101;
const SHARDS: u32 = 3;
const STEPS_PER_EPOCH: u64 = 9;
const EPOCHS: u32 = 3;

struct Numbers;

impl Dataset for Numbers {
    fn count(&self) -> u32 {
        EXAMPLES
    }
}

/// Learns a number for each parameter, with noise.
struct OnHost(Layout);

impl OnHost {
    fn new() -> Self {
        Self(Layout::new([("numbers".to_owned(), vec![LEN])]))
    }
}

impl Model for OnHost {
    type Data = Numbers;

    fn layout(&self) -> &Layout {
        &self.0
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        parameters.iter_mut().zip(1..).for_each(|(p, i)| *p = (seed as f32 + i as f32).sin());
    }

    fn set_team(&mut self, _team: Arc<Team>) {}

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Numbers>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        gradient.fill(0.0);
        let mut loss = 0.0;
        let noise = context.random.block(0)[0] as f32 * 1e-10;
        for example in batch.indices {
            for ((p, g), i) in parameters.iter().zip(&mut *gradient).zip(0..LEN as u32) {
                let error = p - ((example * 7 + i) % 11) as f32 + noise;
                *g += error;
                loss += f64::from(error * error);
            }
        }
        Ok(Sums::of([loss]))
    }

    fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Numbers>,
        random: Stream,
    ) -> Result<Sums, ModelError> {
        let mut nowhere = vec![0.0; self.0.len()];
        self.gradient(parameters, batch, &StepContext::alone(random), &mut nowhere)
    }
}

/// What the tests request from the device, and observe.
#[derive(Default)]
struct Watch {
    most_begun: Cell<usize>,
    loaded: Cell<usize>,
    fetched: Cell<usize>,
    /// The step whose loss is made infinite.
    spoiled: Cell<Option<u64>>,
    /// The step at which the device fails.
    failing: Cell<Option<u64>>,
}

/// The same model with the state on a device; this struct is the device.
struct OnDevice {
    model: OnHost,
    state: State,
    has_stopped: bool,
    finished: VecDeque<Finished>,
    watch: Rc<Watch>,
}

impl OnDevice {
    fn new(watch: &Rc<Watch>) -> Self {
        let (model, watch) = (OnHost::new(), Rc::clone(watch));
        let state = State::zeros(model.0.len());
        Self { model, state, has_stopped: false, finished: VecDeque::new(), watch }
    }

    fn node(
        &mut self,
        node: Node,
        step: &WholeStep<'_, Numbers>,
        sum: &mut [f32],
    ) -> Result<Sums, ModelError> {
        let Some((left, right)) = node.children() else {
            let (batch, context) = &step.shards[node.start as usize];
            return self.model.gradient(&self.state.parameters, batch, context, sum);
        };
        let mut term = vec![0.0; sum.len()];
        let mut sums = self.node(left, step, sum)?;
        sums += self.node(right, step, &mut term)?;
        plan::accumulate(sum, &term);
        Ok(sums)
    }
}

impl Model for OnDevice {
    type Data = Numbers;

    fn layout(&self) -> &Layout {
        &self.model.0
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        self.model.initialise(seed, parameters);
    }

    fn set_team(&mut self, _team: Arc<Team>) {}

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Numbers>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        self.model.gradient(parameters, batch, context, gradient)
    }

    fn evaluate(
        &mut self,
        _parameters: &[f32],
        _batch: &Batch<'_, Numbers>,
        _random: Stream,
    ) -> Result<Sums, ModelError> {
        panic!("the device has the parameters")
    }

    fn resident(&mut self) -> Option<&mut dyn Resident<Data = Numbers>> {
        Some(self)
    }
}

impl Resident for OnDevice {
    type Data = Numbers;

    fn load(&mut self, state: StateView<'_>) -> Result<(), ModelError> {
        assert!(self.finished.is_empty(), "steps are under way");
        self.watch.loaded.set(self.watch.loaded.get() + 1);
        (self.state, self.has_stopped) = (state.to_state(), false);
        Ok(())
    }

    fn fetch(&mut self) -> Result<[Vec<f32>; STATE_VECTORS], ModelError> {
        assert!(self.finished.is_empty(), "steps are under way");
        self.watch.fetched.set(self.watch.fetched.get() + 1);
        let State { parameters, exp_avg, exp_avg_sq, .. } = self.state.clone();
        Ok([parameters, exp_avg, exp_avg_sq])
    }

    fn digest(&mut self, step: u64) -> Result<Option<Digest>, ModelError> {
        assert!(self.finished.is_empty(), "steps are under way");
        let state = State { step, ..self.state.clone() };
        Ok(Some(state.digest(&Team::default())))
    }

    fn gradient(
        &mut self,
        batch: &Batch<'_, Numbers>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        self.model.gradient(&self.state.parameters, batch, context, gradient)
    }

    fn evaluate(&mut self, batch: &Batch<'_, Numbers>, random: Stream) -> Result<Sums, ModelError> {
        self.model.evaluate(&self.state.parameters, batch, random)
    }

    fn update(&mut self, update: &model::Update, sum: &[f32]) -> Result<(), ModelError> {
        let State { step, parameters, exp_avg, exp_avg_sq } = &mut self.state;
        update.apply([parameters, exp_avg, exp_avg_sq], sum);
        *step += 1;
        Ok(())
    }

    fn begin(&mut self, step: &WholeStep<'_, Numbers>) -> Result<(), ModelError> {
        let at = step.shards[0].1.step;
        if self.watch.failing.get() == Some(at) {
            return Err(ModelError::Libtorch("it fell off".into()));
        }
        // A device that keeps the order finds the shards' examples there, also those of a short step.
        let indices: Vec<u32> =
            step.shards.iter().flat_map(|(batch, _)| batch.indices).copied().collect();
        assert_eq!(step.order[step.positions()], indices, "step {at}");
        let mut sum = vec![0.0; self.state.parameters.len()];
        let mut sums = self.node(Node::root(SHARDS), step, &mut sum)?;
        if self.watch.spoiled.get() == Some(at) {
            sums.terms[0] = f64::INFINITY;
        }
        self.has_stopped |= !sums.terms[0].is_finite();
        let norm = sum_of_squares(Isa::best(), &Team::default(), &sum).sqrt();
        if !self.has_stopped {
            self.update(&step.update, &sum)?;
        }
        self.finished.push_back(Finished { sums, norm: step.wants_norm.then_some(norm) });
        self.watch.most_begun.set(self.watch.most_begun.get().max(self.finished.len()));
        Ok(())
    }

    fn finish(&mut self) -> Result<Finished, ModelError> {
        Ok(self.finished.pop_front().expect("a step was begun"))
    }
}

/// The all-reduce of a single member, which aborts at a step.
struct Ending {
    local: Local,
    at: Option<u64>,
}

impl AllReduce for Ending {
    fn nodes(&self) -> &[Node] {
        self.local.nodes()
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        self.local.partial_mut(index)
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        if self.at == Some(round.step.0) {
            return Err(Interrupted::Aborted);
        }
        self.local.all_reduce(round, contribution)
    }

    fn contributions(&self) -> &[Contribution] {
        self.local.contributions()
    }

    fn sum(&self) -> &[f32] {
        self.local.sum()
    }
}

fn collective(length: usize, at: Option<u64>) -> Ending {
    Ending { local: Local::new(SHARDS, length).unwrap(), at }
}

fn trainer(model: impl Model<Data = Numbers> + 'static) -> Trainer<Numbers> {
    let settings = Settings {
        seed: 5,
        shards: SHARDS,
        batch_size: 4,
        train_examples: EXAMPLES,
        validation_examples: 0,
        test_examples: 20,
        epochs: EPOCHS,
        early_stop_epochs: 0,
        verify_every: 2,
        adam: Adam::new(0.01),
        recipe: Recipe::PLAIN,
    };
    Trainer::new(settings, Box::new(model), Arc::new(Splits { train: Numbers, test: Numbers }))
}

/// What an observer is told, without the times.
#[derive(Debug, PartialEq)]
enum Heard {
    Step(u64, u64, collective::Tally),
    Epoch(u64, collective::Tally, State),
}

/// Notes every report, and requests a pause or the state at some steps.
#[derive(Default)]
struct Listening {
    heard: Vec<Heard>,
    norms: Vec<(u64, f64)>,
    pause_at: Option<u64>,
    wanted_from: Option<u64>,
    given: Option<State>,
}

impl Listening {
    fn last(&self) -> u64 {
        let steps = self.heard.iter().map(|heard| match heard {
            Heard::Step(step, ..) => *step,
            Heard::Epoch(..) => 0,
        });
        steps.max().unwrap_or(0)
    }
}

impl Observer for Listening {
    fn control(&self) -> Control {
        if self.pause_at == Some(self.last()) { Control::PAUSE } else { Control::default() }
    }

    fn wants_details(&self, is_last: bool) -> bool {
        is_last || self.last().is_multiple_of(5)
    }

    fn wants_state(&self) -> bool {
        self.given.is_none() && self.wanted_from.is_some_and(|step| step <= self.last())
    }

    fn stepped(&mut self, step: &StepSummary<'_>, replica: &Replica, _ledger: &Ledger) {
        assert_eq!((replica.step(), step.contributions.len()), (step.step, 1));
        if self.wants_state() && replica.is_at_hand() {
            self.given = Some(replica.view().to_state());
        }
        self.heard.push(Heard::Step(step.step, step.epoch, step.tally));
        let norm = step.details.as_ref().map(|details| (step.step, details.gradient_norm));
        self.norms.extend(norm);
    }

    fn epoch_ended(&mut self, epoch: &EpochSummary, replica: &Replica, _ledger: &Ledger) {
        let heard = Heard::Epoch(epoch.epoch, epoch.test, replica.view().to_state());
        // A generation that begins at the end of an epoch reports it once more.
        if self.heard.last() != Some(&heard) {
            self.heard.push(heard);
        }
    }
}

/// The whole run on the host, with its reports.
fn reference() -> (Trainer<Numbers>, Listening) {
    let (mut trainer, mut listening) = (trainer(OnHost::new()), Listening::default());
    let length = OnHost::new().0.len();
    let ended = trainer.train(&mut collective(length, None), &mut listening).unwrap();
    assert_eq!(ended, Ended::Completed);
    assert_eq!(trainer.steps(), u64::from(EPOCHS) * STEPS_PER_EPOCH);
    (trainer, listening)
}

/// The run on the host, stopped after `step` steps.
fn host_at(step: u64) -> Trainer<Numbers> {
    let mut host = trainer(OnHost::new());
    let mut until = Listening { pause_at: Some(step - 1), ..Listening::default() };
    host.train(&mut collective(OnHost::new().0.len(), None), &mut until).unwrap();
    host
}

/// Trains on the device until the run is complete, without a request for a pause.
fn complete(device: &mut Trainer<Numbers>, listening: &mut Listening) {
    let length = OnHost::new().0.len();
    listening.pause_at = None;
    let ended = device.train(&mut collective(length, None), listening).unwrap();
    assert_eq!(ended, Ended::Completed);
}

fn assert_same(device: &Trainer<Numbers>, heard: &Listening) {
    let (host, expected) = reference();
    assert!(device.replica().view() == host.replica().view(), "the states differ");
    assert_eq!(device.ledger(), host.ledger());
    assert!(heard.heard == expected.heard, "something else was heard");
    let known = |(step, norm): &(u64, f64)| {
        let at = expected.norms.iter().find(|(other, _)| other == step);
        at.is_none_or(|(_, expected)| expected == norm)
    };
    assert!(!heard.norms.is_empty() && heard.norms.iter().all(known), "{:?}", heard.norms);
}

#[test]
fn a_run_has_the_same_bits_and_is_heard_step_by_step() {
    let watch = Rc::<Watch>::default();
    let (mut device, mut listening) = (trainer(OnDevice::new(&watch)), Listening::default());
    complete(&mut device, &mut listening);
    assert_same(&device, &listening);
    assert_eq!(watch.most_begun.get(), AHEAD);
    assert_eq!(watch.fetched.get(), EPOCHS as usize, "once an epoch");
}

/// The digest that a worker reports between generations is computed on the device.
#[test]
fn between_generations_the_state_stays_on_the_device() {
    let watch = Rc::<Watch>::default();
    let (mut device, mut listening) = (trainer(OnDevice::new(&watch)), Listening::default());
    // The steps under way end before the epoch does. The end of the epoch would fetch the state.
    listening.pause_at = Some(0);
    let length = OnHost::new().0.len();
    device.train(&mut collective(length, None), &mut listening).unwrap();
    let mut host = host_at(device.replica().step());
    assert_eq!(device.digest().unwrap(), host.digest().unwrap());
    assert_eq!(watch.fetched.get(), 0);
    complete(&mut device, &mut listening);
    assert_same(&device, &listening);
    assert_eq!(watch.loaded.get(), 1);
}

#[test]
fn a_pause_takes_effect_within_the_steps_that_are_under_way() {
    let length = OnHost::new().0.len();
    for at in 0..STEPS_PER_EPOCH {
        let (mut device, mut listening) =
            (trainer(OnDevice::new(&Rc::default())), Listening::default());
        listening.pause_at = Some(at);
        let ended = device.train(&mut collective(length, None), &mut listening).unwrap();
        assert_eq!(ended, Ended::Paused);
        let step = device.replica().step();
        assert!((at + 1..=at + AHEAD as u64).contains(&step), "{step} after {at}");
        assert_eq!(listening.last(), step, "every step is heard");
        complete(&mut device, &mut listening);
        assert_same(&device, &listening);
    }
}

#[test]
fn who_asks_for_the_state_gets_it_whole() {
    for wanted in [0, 3, 8, 13] {
        let (mut device, mut listening) =
            (trainer(OnDevice::new(&Rc::default())), Listening::default());
        listening.wanted_from = Some(wanted);
        complete(&mut device, &mut listening);
        let given = listening.given.take().expect("it was given");
        assert!((wanted..=wanted + AHEAD as u64).contains(&given.step), "{}", given.step);
        let host = host_at(given.step);
        assert!(host.replica().view() == given.view(), "the states differ");
        listening.wanted_from = None;
        assert_same(&device, &listening);
    }
}

#[test]
fn steps_that_were_made_are_counted_when_the_generation_ends_before_them() {
    let length = OnHost::new().0.len();
    for at in [0, 4, 8, 17] {
        let mut device = trainer(OnDevice::new(&Rc::default()));
        let error = device.train(&mut collective(length, Some(at)), &mut NoopObserver).unwrap_err();
        assert!(matches!(error, TrainError::Interrupted(Interrupted::Aborted)), "{error}");
        let step = device.replica().step();
        assert!(step > at && step.div_ceil(STEPS_PER_EPOCH) == (at + 1).div_ceil(STEPS_PER_EPOCH));
        device.fetch().unwrap();
        assert_eq!(device.replica().view().step, step);
        let ended = device.train(&mut collective(length, None), &mut NoopObserver).unwrap();
        assert_eq!(ended, Ended::Completed);
        let (host, _) = reference();
        assert!(device.replica().view() == host.replica().view(), "the states differ");
        assert_eq!(device.ledger(), host.ledger());
    }
}

#[test]
fn a_loss_that_is_not_finite_leaves_the_state_before_its_step() {
    let length = OnHost::new().0.len();
    let watch = Rc::<Watch>::default();
    watch.spoiled.set(Some(12));
    let mut device = trainer(OnDevice::new(&watch));
    let error = device.train(&mut collective(length, None), &mut NoopObserver).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step, .. } if step.0 == 12), "{error}");
    let host = host_at(12);
    assert!(device.replica().view() == host.replica().view(), "the states differ");
    assert_eq!(device.ledger(), host.ledger());
}

#[test]
fn a_device_that_fails_is_an_error() {
    let length = OnHost::new().0.len();
    let watch = Rc::<Watch>::default();
    watch.failing.set(Some(10));
    let mut device = trainer(OnDevice::new(&watch));
    let error = device.train(&mut collective(length, None), &mut NoopObserver).unwrap_err();
    assert!(matches!(error, TrainError::Device(_)), "{error}");
}
