//! Draws the latent space in the plane: points with axes and a legend, and the digits decoded from places of the
//! plane.

use picture::{Align, BLACK, CLASSES, Canvas, Colour, GREY, LIGHT, Tile, WHITE};

/// The side of the plot in pixels.
const PLOT: usize = 560;
const LEFT: usize = 64;
const TOP: usize = 44;
const BOTTOM: usize = 54;
/// The least and the largest width of the legend.
const LEGEND: [usize; 2] = [56, 200];
/// The height of a line of the legend in pixels.
const LINE: usize = 24;
/// The points are small, because there are many.
const RADIUS: f64 = 2.2;
const OPACITY: f64 = 0.55;
/// Radius of the mark with a digit in it.
const MARK: f64 = 13.0;
/// The approximate number of ticks on an axis.
const TICKS: f32 = 8.0;
/// The most classes whose numbers are drawn among the points; more numbers would cover the points.
const MARKS_MAX: usize = 20;
const HEADING: &str = "Latent means, by class";
/// The most characters of a tick's label.
const LABEL_MAX: usize = 7;
/// The golden ratio, as a share of a turn. Its multiples spread directions evenly.
const GOLDEN: f64 = 0.618_033_988_75;

/// Points in the plane with their labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points<'a> {
    /// The positions, `[n, 2]`.
    pub(crate) places: &'a [f32],
    pub(crate) labels: &'a [u32],
    /// The names of the classes in the order of the labels; empty for a set without labels.
    pub(crate) names: &'a [String],
    /// What the axes mean.
    pub(crate) caption: &'a str,
}

/// The content of the grid beside the points.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid<'a> {
    /// Images along each side.
    pub(crate) side: usize,
    /// `side * side` images, row by row from the top.
    pub(crate) digits: &'a [f32],
    /// The shape of one image.
    pub(crate) tile: Tile,
    pub(crate) caption: &'a str,
}

/// The part of the plane that is shown: a rectangle around a centre.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Frame {
    middle: [f32; 2],
    /// Half of each side.
    reach: [f32; 2],
    /// Whether the second axis lists the classes.
    in_rows: bool,
}

impl Frame {
    /// A square around all points except the outermost, one in 500, which would leave the other points
    /// little room.
    pub(crate) fn around(places: &[f32]) -> Self {
        let ends = [0, 1].map(|axis| ends(places.iter().skip(axis).step_by(2)));
        let reach = ends.map(|[low, high]| 0.525 * (high - low));
        let reach = reach[0].max(reach[1]);
        let reach = if reach > 0.0 { reach } else { 1.0 };
        Self {
            middle: ends.map(|[low, high]| 0.5 * (low + high)),
            reach: [reach; 2],
            in_rows: false,
        }
    }

    /// The frame for values on a line, drawn in one row per class.
    pub(crate) fn of_rows(values: &[f32], classes: usize) -> Self {
        let [low, high] = ends(values.iter());
        let reach = if high > low { 0.525 * (high - low) } else { 1.0 };
        let classes = classes.max(1) as f32;
        let (middle, half) = ((classes - 1.0) / 2.0, classes / 2.0);
        Self { middle: [0.5 * (low + high), middle], reach: [reach, half], in_rows: true }
    }

    /// The positions, `[n * n, 2]` row by row from the top, of a grid with `n` digits along each side.
    pub(crate) fn grid(&self, n: usize) -> Vec<[f32; 2]> {
        let offset = |index: usize| (2 * index + 1) as f32 / n as f32 - 1.0;
        let ([x, y], [across, up]) = (self.middle, self.reach);
        (0..n * n).map(|cell| [x + across * offset(cell % n), y - up * offset(cell / n)]).collect()
    }

    /// `n * n` values of the first axis, from low to high, for a grid with `n` digits along each side.
    pub(crate) fn line(&self, n: usize) -> Vec<f32> {
        let last = (n * n - 1).max(1) as f32;
        let share = |cell: usize| 2.0 * cell as f32 / last - 1.0;
        (0..n * n).map(|cell| self.middle[0] + self.reach[0] * share(cell)).collect()
    }

    /// The centre of the frame, and half of each side.
    pub(crate) const fn middle_and_reach(&self) -> ([f32; 2], [f32; 2]) {
        (self.middle, self.reach)
    }

    /// The position of a point in the plot, from 0 (left, top) to 1.
    fn share(&self, [x, y]: [f32; 2]) -> [f64; 2] {
        let share = |offset: f32, reach: f32| f64::from(0.5 + 0.5 * offset / reach);
        [share(x - self.middle[0], self.reach[0]), share(self.middle[1] - y, self.reach[1])]
    }

    /// Round numbers on an axis, and the number of decimals that distinguishes them.
    fn ticks(&self, axis: usize) -> (Vec<f32>, usize) {
        let reach = self.reach[axis];
        let rough = 2.0 * reach / TICKS;
        let exponent = rough.log10().floor();
        let power = 10.0_f32.powf(exponent);
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let (low, high) = (self.middle[axis] - reach, self.middle[axis] + reach);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        ((first..=last).map(|tick| tick as f32 * step).collect(), decimals)
    }
}

/// The least and the greatest of some values, without the outermost ones.
fn ends<'a>(values: impl Iterator<Item = &'a f32>) -> [f32; 2] {
    let mut values: Vec<f32> = values.copied().collect();
    values.sort_by(f32::total_cmp);
    let outer = values.len() / 1000;
    match values[..] {
        [] => [-1.0, 1.0],
        _ => [values[outer], values[values.len() - 1 - outer]],
    }
}

/// Draws the points, and a grid of digits beside them if one is given.
pub(crate) fn draw(points: &Points<'_>, frame: Frame, grid: Option<Grid<'_>>) -> Canvas {
    let map = LEFT + PLOT + legend_width(points.names);
    let width = if grid.is_some() { map + LEFT + PLOT + LEFT / 2 } else { map };
    let mut canvas = Canvas::new(width, TOP + PLOT + BOTTOM, WHITE);
    axes(&mut canvas, LEFT, frame);
    foot(&mut canvas, LEFT, points.caption);
    canvas.heading(
        LEFT,
        TOP / 2,
        Align::Left,
        BLACK,
        if points.names.is_empty() { "Latent means" } else { HEADING },
    );
    scatter(&mut canvas, points, frame);
    legend(&mut canvas, points.names);
    if let Some(Grid { side, digits, tile, caption }) = grid {
        if !frame.in_rows {
            axes(&mut canvas, map + LEFT, frame);
        }
        foot(&mut canvas, map + LEFT, caption);
        canvas.heading(map + LEFT, TOP / 2, Align::Left, BLACK, "What it decodes to");
        for (cell, digit) in digits.chunks_exact(tile.numbers()).enumerate() {
            let zoomed = PLOT / side;
            let (x, y) = (map + LEFT + cell % side * zoomed, TOP + cell / side * zoomed);
            let (digit, tile) = fitted(digit, tile, zoomed);
            canvas.image(x, y, tile.zoom(zoomed), tile, &digit);
        }
    }
    canvas
}

fn axes(canvas: &mut Canvas, left: usize, frame: Frame) {
    let place = |share: f64| (share * (PLOT - 1) as f64).round() as usize;
    let (ticks, decimals) = frame.ticks(0);
    for tick in ticks {
        let x = left + place(frame.share([tick, 0.0])[0]);
        canvas.fill(x, TOP, 1, PLOT, LIGHT);
        canvas.text(x, TOP + PLOT + 12, Align::Centre, GREY, &label(tick, decimals));
    }
    if frame.in_rows {
        return;
    }
    let (ticks, decimals) = frame.ticks(1);
    for tick in ticks {
        let y = TOP + place(frame.share([0.0, tick])[1]);
        canvas.fill(left, y, PLOT, 1, LIGHT);
        canvas.text(left - 6, y, Align::Right, GREY, &label(tick, decimals));
    }
}

fn foot(canvas: &mut Canvas, left: usize, caption: &str) {
    canvas.text(left + PLOT / 2, TOP + PLOT + 36, Align::Centre, GREY, caption);
}

/// A number as text that is short enough for an axis.
fn label(tick: f32, decimals: usize) -> String {
    // Avoids a minus sign before zero.
    let tick = if tick == 0.0 { 0.0 } else { tick };
    let plain = format!("{tick:.decimals$}");
    if plain.len() <= LABEL_MAX { plain } else { format!("{tick:.1e}") }
}

fn scatter(canvas: &mut Canvas, points: &Points<'_>, frame: Frame) {
    let on_canvas = |place: [f32; 2]| {
        let [x, y] = frame.share(place);
        (x, y, LEFT as f64 + x * PLOT as f64, TOP as f64 + y * PLOT as f64)
    };
    let (places, _) = points.places.as_chunks::<2>();
    let mut sums = vec![[0.0_f32; 3]; points.names.len().max(1)];
    for (place, class) in places.iter().zip(points.labels) {
        let class = *class as usize;
        let (x_share, y_share, x, y) = on_canvas(*place);
        if (0.0..=1.0).contains(&x_share) && (0.0..=1.0).contains(&y_share) {
            canvas.disc(x, y, RADIUS, colour(class), OPACITY);
        }
        for (sum, value) in sums[class].iter_mut().zip([place[0], place[1], 1.0]) {
            *sum += value;
        }
    }
    if points.names.is_empty() || points.names.len() > MARKS_MAX {
        return;
    }
    // The number of the class is drawn near the centre of its points, because colours alone are hard to remember.
    let present = sums.into_iter().enumerate().filter(|(_, sum)| sum[2] > 0.0);
    let (classes, middles): (Vec<usize>, Vec<[f64; 2]>) = present
        .map(|(class, [x, y, count])| {
            let (.., x, y) = on_canvas([x / count, y / count]);
            (class, [x, y])
        })
        .unzip();
    for (class, [x, y]) in classes.into_iter().zip(apart(middles)) {
        canvas.disc(x, y, MARK, colour(class), 1.0);
        canvas.disc(x, y, MARK - 2.5, WHITE, 1.0);
        canvas.heading(x as usize, y as usize, Align::Centre, BLACK, &class.to_string());
    }
}

/// Moves the marks a little, so that no mark covers another and all stay in the plot.
fn apart(mut places: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    const ROUNDS: usize = 500;
    let distance = 2.0 * MARK + 1.0;
    for _ in 0..ROUNDS {
        let mut moved = false;
        for second in 1..places.len() {
            for first in 0..second {
                let [dx, dy] = [0, 1].map(|axis| places[second][axis] - places[first][axis]);
                let length = dx.hypot(dy);
                // Marks at the same position are moved apart in a direction that depends on their number.
                let turn = second as f64 * std::f64::consts::TAU * GOLDEN;
                let direction = if length > 1e-9 {
                    [dx / length, dy / length]
                } else {
                    [turn.cos(), turn.sin()]
                };
                let overlap = distance - length;
                if overlap > 0.01 {
                    moved = true;
                    for axis in [0, 1] {
                        places[second][axis] += 0.5 * overlap * direction[axis];
                        places[first][axis] -= 0.5 * overlap * direction[axis];
                    }
                }
            }
        }
        for [x, y] in &mut places {
            let inside = |origin: usize| origin as f64 + MARK..=(origin + PLOT) as f64 - MARK;
            *x = x.clamp(*inside(LEFT).start(), *inside(LEFT).end());
            *y = y.clamp(*inside(TOP).start(), *inside(TOP).end());
        }
        if !moved {
            break;
        }
    }
    places
}

/// The colour of a class. Colours repeat if a set has more classes than there are colours.
const fn colour(class: usize) -> Colour {
    CLASSES[class % CLASSES.len()]
}

/// The text in the legend for a class: its number, and its name if that differs.
fn entry(class: usize, name: &str) -> String {
    let number = class.to_string();
    if number == name { number } else { format!("{number} {name}") }
}

fn legend_width(names: &[String]) -> usize {
    let [least, most] = LEGEND;
    let entries = names.iter().enumerate().take(PLOT / LINE);
    let widest = entries.map(|(class, name)| Canvas::text_width(&entry(class, name))).max();
    (widest.unwrap_or(0) + 49).clamp(least, most)
}

/// Draws the legend with as many classes as fit.
fn legend(canvas: &mut Canvas, names: &[String]) {
    for (class, name) in names.iter().enumerate().take(PLOT / LINE) {
        let (x, y) = (LEFT + PLOT + 18, TOP + 12 + class * LINE);
        canvas.disc(x as f64, y as f64, 6.0, colour(class), 1.0);
        canvas.text(x + 14, y, Align::Left, BLACK, &entry(class, name));
    }
}

/// The image, or every `step`-th pixel of it, so that it fits a cell.
fn fitted(image: &[f32], tile: Tile, cell: usize) -> (Vec<f32>, Tile) {
    let step = tile.height.max(tile.width).div_ceil(cell.max(1)).max(1);
    let rows = image.chunks_exact(tile.width * tile.channels).step_by(step);
    let pixel = |row: &[f32]| -> Vec<f32> {
        row.chunks_exact(tile.channels).step_by(step).flatten().copied().collect()
    };
    let (height, width) = (tile.height.div_ceil(step), tile.width.div_ceil(step));
    (rows.flat_map(pixel).collect(), Tile { height, width, channels: tile.channels })
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
        let half = frame.reach[0] / 2.0;
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
        let (ticks, _) = frame.ticks(0);
        assert!(ticks.contains(&0.0) && ticks.contains(&4.0), "{ticks:?}");
    }

    #[test]
    fn values_on_a_line_have_a_row_for_each_class() {
        let frame = Frame::of_rows(&[-2.0, 0.5, 2.0], 10);
        for digit in 0..10 {
            let [x, y] = frame.share([0.0, digit as f32]);
            assert!((x - 0.5).abs() < 1e-6 && (y - (9.5 - f64::from(digit)) / 10.0).abs() < 1e-6);
        }
        let line = frame.line(20);
        assert_eq!(line.len(), 400);
        assert!(line.windows(2).all(|pair| pair[0] < pair[1]));
        assert!((line[0] + 2.1).abs() < 1e-5 && (line[399] - 2.1).abs() < 1e-5);
    }

    #[test]
    fn no_points_and_equal_points_have_a_frame() {
        for places in [&[][..], &[2.0, 2.0, 2.0, 2.0]] {
            assert!(Frame::around(places).reach[0] > 0.0);
            assert!(Frame::of_rows(places, 0).reach[0] > 0.0);
        }
    }

    #[test]
    fn labels_are_short_and_differ() {
        assert_eq!([-2.0, -0.0, 0.5].map(|tick| label(tick, 1)), ["-2.0", "0.0", "0.5"]);
        for reach in [1e-4_f32, 0.03, 2.0, 70.0, 1e7] {
            let frame = Frame::around(&[0.0, 0.0, reach, 0.0]);
            let (ticks, decimals) = frame.ticks(0);
            let labels: Vec<String> = ticks.iter().map(|tick| label(*tick, decimals)).collect();
            let mut distinct = labels.clone();
            distinct.dedup();
            assert!(labels.len() >= 4 && distinct == labels, "{labels:?}");
            let room = PLOT / labels.len();
            assert!(labels.iter().all(|label| Canvas::text_width(label) < room), "{labels:?}");
        }
    }

    #[test]
    fn large_images_are_thinned_to_their_cell() {
        let tile = Tile { height: 3, width: 4, channels: 3 };
        let image: Vec<f32> = (0..36).map(|value| value as f32).collect();
        let (fitted, small) = fitted(&image, tile, 2);
        assert_eq!(small, Tile { height: 2, width: 2, channels: 3 });
        assert_eq!(fitted, [0., 1., 2., 6., 7., 8., 24., 25., 26., 30., 31., 32.]);
        assert_eq!((entry(3, "3"), entry(3, "cat")), ("3".into(), "3 cat".into()));
    }

    #[test]
    fn no_mark_covers_another() {
        let corner = [LEFT as f64, TOP as f64];
        let row: Vec<[f64; 2]> = (0..10).map(|i| [200.0 + f64::from(i), 100.0]).collect();
        for places in [vec![corner; 10], vec![[300.0, 300.0]; 10], row] {
            let placed = apart(places);
            for (index, a) in placed.iter().enumerate() {
                assert!(a[0] >= LEFT as f64 + MARK && a[1] >= TOP as f64 + MARK, "{placed:?}");
                for b in &placed[..index] {
                    assert!((a[0] - b[0]).hypot(a[1] - b[1]) >= 2.0 * MARK, "{placed:?}");
                }
            }
        }
        // Marks that do not touch are not moved.
        let far = vec![[100.0, 100.0], [200.0, 150.0]];
        assert_eq!(apart(far.clone()), far);
    }
}
