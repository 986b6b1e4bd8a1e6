//! `vae traverse`: one strip a latent dimension, the most used first.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::builder::RangedU64ValueParser;
use picture::{Align, BLACK, Canvas, GREY, SIDE, WHITE};

use crate::{
    args::Source,
    output::Output,
    pick::{Pick, unlabelled},
};

const STEPS_MAX: u64 = 200;
const ZOOM: usize = 2;
const CELL: usize = SIDE * ZOOM;
/// Room for the dimensions' names, left of their strips.
const NAMES: usize = 140;
const HEAD: usize = 24;
const GAP: usize = 6;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The digit to begin with: a digit (its first test image), test:INDEX, or a PNG file
    #[arg(long, value_name = "WHAT", default_value = "3")]
    from: Pick,
    /// Digits a strip
    #[arg(long, default_value_t = 11, value_name = "N",
          value_parser = RangedU64ValueParser::<usize>::new().range(2..=STEPS_MAX))]
    steps: usize,
    /// The value that the dimension takes at either end of its strip
    #[arg(long, default_value_t = 3.0, value_name = "VALUE")]
    range: f32,
    /// The picture, a PNG file
    #[arg(long, default_value = "traversal.png", value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, from, steps, range, output } = options;
    ensure!(range.is_finite() && *range > 0.0, "--range must be a positive number, not {range}");
    let output = Output::new(output)?;
    let mut trained = source.trained()?;
    let test = source.mnist(&trained)?.test;
    let start = trained.encode(&unlabelled(from.pixels(&test)?)?).mean;
    let divergence = trained.encode(&test).divergence_by_dimension();
    let mut order: Vec<usize> = (0..trained.dim()).collect();
    order.sort_by(|a, b| divergence[*b].total_cmp(&divergence[*a]));

    let width = NAMES + steps * CELL + GAP;
    let mut canvas = Canvas::new(width, HEAD + order.len() * (CELL + GAP), WHITE);
    canvas.text(NAMES - GAP, HEAD / 2, Align::Right, GREY, "dimension    KL");
    let value = |step: usize| range * (2.0 * step as f32 / (steps - 1) as f32 - 1.0);
    for step in (0..*steps).step_by(steps.div_ceil(2).saturating_sub(1).max(1)) {
        let x = NAMES + step * CELL + CELL / 2;
        canvas.text(x, HEAD / 2, Align::Centre, GREY, &format!("{:.1}", value(step)));
    }
    for (row, dimension) in order.iter().enumerate() {
        let mut z = start.repeat(*steps);
        for (step, z) in z.chunks_exact_mut(trained.dim()).enumerate() {
            z[*dimension] = value(step);
        }
        let y = HEAD + row * (CELL + GAP);
        let name = format!("{dimension:2}  {:6.2}", divergence[*dimension]);
        canvas.text(NAMES - GAP, y + CELL / 2, Align::Right, BLACK, &name);
        canvas.digits(NAMES, y, ZOOM, *steps, &trained.decode(&z));
    }
    output.write(&canvas.png()?, &format!("{} dimensions, the most used first", order.len()))
}
