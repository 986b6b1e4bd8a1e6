//! The latent space in the plane: points with axes and a legend, and the digits that its
//! places decode to.

use picture::{Align, BLACK, CLASSES, Canvas, GREY, LIGHT, SIDE, WHITE};

/// Sides of the plot.
const PLOT: usize = 560;
const LEFT: usize = 64;
const TOP: usize = 44;
const BOTTOM: usize = 54;
const LEGEND: usize = 56;
/// Points are small where there are many.
const RADIUS: f64 = 2.2;
const OPACITY: f64 = 0.55;
/// About so many ticks on an axis.
const TICKS: f32 = 8.0;

/// Points in the plane with their labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points<'a> {
    /// `[n, 2]`.
    pub(crate) places: &'a [f32],
    pub(crate) labels: &'a [u8],
    /// The share of the variance along each axis.
    pub(crate) explained: [f64; 2],
}

/// The part of the plane that is shown: a square around a middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Frame {
    middle: [f32; 2],
    /// Half a side.
    reach: f32,
}

impl Frame {
    /// All but the outermost points, one in 500, which would leave the others little room.
    pub(crate) fn around(places: &[f32]) -> Self {
        let ends = [0, 1].map(|axis| {
            let mut values: Vec<f32> = places.iter().skip(axis).step_by(2).copied().collect();
            values.sort_by(f32::total_cmp);
            let outer = values.len() / 1000;
            match values[..] {
                [] => [-1.0, 1.0],
                _ => [values[outer], values[values.len() - 1 - outer]],
            }
        });
        let reach = ends.map(|[low, high]| 0.525 * (high - low));
        let reach = reach[0].max(reach[1]);
        let reach = if reach > 0.0 { reach } else { 1.0 };
        Self { middle: ends.map(|[low, high]| 0.5 * (low + high)), reach }
    }

    /// The places, `[n * n, 2]` row by row from the top, of a grid of `n` digits a side.
    pub(crate) fn grid(&self, n: usize) -> Vec<[f32; 2]> {
        let offset = |index: usize| self.reach * ((2 * index + 1) as f32 / n as f32 - 1.0);
        let [x, y] = self.middle;
        (0..n * n).map(|cell| [x + offset(cell % n), y - offset(cell / n)]).collect()
    }

    /// Where a place is in the plot, from 0 at the left and at the top to 1.
    fn share(&self, [x, y]: [f32; 2]) -> [f64; 2] {
        let share = |offset: f32| f64::from(0.5 + 0.5 * offset / self.reach);
        [share(x - self.middle[0]), share(self.middle[1] - y)]
    }

    /// Round numbers on an axis.
    fn ticks(&self, axis: usize) -> Vec<f32> {
        let rough = 2.0 * self.reach / TICKS;
        let power = 10.0_f32.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let (low, high) = (self.middle[axis] - self.reach, self.middle[axis] + self.reach);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        (first..=last).map(|tick| tick as f32 * step).collect()
    }
}

/// Draws the points, and beside them the digits `[n * n, 784]` of the frame's grid if given.
pub(crate) fn draw(points: &Points<'_>, frame: Frame, digits: Option<(usize, &[f32])>) -> Canvas {
    let map = LEFT + PLOT + LEGEND;
    let width = if digits.is_some() { map + LEFT + PLOT + LEFT / 2 } else { map };
    let mut canvas = Canvas::new(width, TOP + PLOT + BOTTOM, WHITE);
    axes(&mut canvas, LEFT, frame, points.explained);
    canvas.heading(LEFT, TOP / 2, Align::Left, BLACK, "Latent means, by digit");
    scatter(&mut canvas, points, frame);
    legend(&mut canvas);
    if let Some((n, digits)) = digits {
        axes(&mut canvas, map + LEFT, frame, points.explained);
        canvas.heading(map + LEFT, TOP / 2, Align::Left, BLACK, "What the plane decodes to");
        for (cell, digit) in digits.chunks_exact(SIDE * SIDE).enumerate() {
            let side = PLOT / n;
            let (x, y) = (map + LEFT + cell % n * side, TOP + cell / n * side);
            canvas.digit(x, y, side / SIDE, digit);
        }
    }
    canvas
}

fn axes(canvas: &mut Canvas, left: usize, frame: Frame, explained: [f64; 2]) {
    let place = |share: f64| (share * (PLOT - 1) as f64).round() as usize;
    for tick in frame.ticks(0) {
        let x = left + place(frame.share([tick, 0.0])[0]);
        canvas.fill(x, TOP, 1, PLOT, LIGHT);
        canvas.text(x, TOP + PLOT + 12, Align::Centre, GREY, &label(tick));
    }
    for tick in frame.ticks(1) {
        let y = TOP + place(frame.share([0.0, tick])[1]);
        canvas.fill(left, y, PLOT, 1, LIGHT);
        canvas.text(left - 6, y, Align::Right, GREY, &label(tick));
    }
    let [across, up] = explained.map(|share| 100.0 * share);
    let text = format!(
        "across: 1st principal component, {across:.0} % of the variance; up: 2nd, {up:.0} %"
    );
    canvas.text(left + PLOT / 2, TOP + PLOT + 36, Align::Centre, GREY, &text);
}

fn label(tick: f32) -> String {
    // No minus before a zero.
    format!("{:.1}", if tick == 0.0 { 0.0 } else { tick }).trim_end_matches(".0").to_owned()
}

fn scatter(canvas: &mut Canvas, points: &Points<'_>, frame: Frame) {
    let on_canvas = |place: [f32; 2]| {
        let [x, y] = frame.share(place);
        (x, y, LEFT as f64 + x * PLOT as f64, TOP as f64 + y * PLOT as f64)
    };
    let (places, _) = points.places.as_chunks::<2>();
    let mut sums = [[0.0_f32; 3]; 10];
    for (place, class) in places.iter().zip(points.labels) {
        let class = usize::from(*class) % 10;
        let (x_share, y_share, x, y) = on_canvas(*place);
        if (0.0..=1.0).contains(&x_share) && (0.0..=1.0).contains(&y_share) {
            canvas.disc(x, y, RADIUS, CLASSES[class], OPACITY);
        }
        for (sum, value) in sums[class].iter_mut().zip([place[0], place[1], 1.0]) {
            *sum += value;
        }
    }
    // The digit itself at the middle of its points: colours alone would ask for a good memory.
    for (class, [x, y, count]) in sums.into_iter().enumerate().filter(|(_, sum)| sum[2] > 0.0) {
        let (.., x, y) = on_canvas([x / count, y / count]);
        canvas.disc(x, y, 13.0, CLASSES[class], 1.0);
        canvas.disc(x, y, 10.5, WHITE, 1.0);
        canvas.heading(x as usize, y as usize, Align::Centre, BLACK, &class.to_string());
    }
}

fn legend(canvas: &mut Canvas) {
    const LINE: usize = 24;
    for (class, colour) in CLASSES.into_iter().enumerate() {
        let (x, y) = (LEFT + PLOT + 18, TOP + 12 + class * LINE);
        canvas.disc(x as f64, y as f64, 6.0, colour, 1.0);
        canvas.text(x + 14, y, Align::Left, BLACK, &class.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_holds_the_points_and_its_grid_fills_it() {
        let places: Vec<f32> = (0..100).flat_map(|i| [i as f32 / 10.0, 3.0]).collect();
        let frame = Frame::around(&places);
        for [x, y] in [[0.0, 3.0], [9.9, 3.0]] {
            assert!(frame.share([x, y]).iter().all(|share| (0.0..=1.0).contains(share)));
        }
        let grid = frame.grid(2);
        let half = frame.reach / 2.0;
        let [x, y] = frame.middle;
        assert_eq!(
            grid,
            [
                [x - half, y + half],
                [x + half, y + half],
                [x - half, y - half],
                [x + half, y - half]
            ]
        );
        let ticks = frame.ticks(0);
        assert!(ticks.contains(&0.0) && ticks.contains(&4.0), "{ticks:?}");
    }

    #[test]
    fn no_points_and_equal_points_have_a_frame() {
        for places in [&[][..], &[2.0, 2.0, 2.0, 2.0]] {
            assert!(Frame::around(places).reach > 0.0);
        }
    }

    #[test]
    fn labels_are_short() {
        assert_eq!([-2.0, -0.0, 0.5].map(label), ["-2", "0", "0.5"]);
    }
}
