//! A chart of curves, drawn the same as PNG and as SVG.

use std::fmt::Write as _;

use anyhow::Result;
use picture::{Align, BLACK, Canvas, Colour, GREY, LIGHT, WHITE};

/// Pixels of the picture, and of the margins around the curves.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;

/// The comment in an SVG of this program, by which a later command knows that it may replace the file.
pub(super) const WRITTEN: &str = "<!-- Written by Lockstep. -->";

/// Half the side of the square that marks a point.
const MARK: f64 = 4.0;

/// Pixels between two rows of the legend.
const LEGEND_STEP: f64 = 18.0;

/// From this ratio of the largest to the smallest value on, the axis is logarithmic.
const LOG_FROM: f64 = 3.0;

/// The approximate number of ticks of an axis.
const TICKS: f64 = 6.0;

/// A curve, and the points that are marked with squares.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) label: String,
    pub(super) colour: Colour,
    pub(super) line: Vec<(f64, f64)>,
    pub(super) points: Vec<(f64, f64)>,
}

/// Curves over one axis.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x_label: String,
    pub(super) series: Vec<Series>,
}

/// Something to be drawn.
#[derive(Clone, Debug)]
enum Shape {
    Line { points: Vec<(f64, f64)>, colour: Colour },
    Square { x: f64, y: f64, colour: Colour },
    Text { x: f64, y: f64, align: Align, colour: Colour, text: String },
}

/// A range of values on an axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, may_be_log: bool) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let is_log = may_be_log && low > 0.0 && high / low >= LOG_FROM;
        let (low, high) = if low < high { (low, high) } else { (low - 0.5, high + 0.5) };
        Self { low, high, is_log }
    }

    /// The position of a value on the axis, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.is_log { value.ln() } else { value };
        (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
    }

    /// The round values at which the axis has ticks.
    fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let first = self.low.log10().floor() as i32;
            let last = self.high.log10().ceil() as i32;
            let decades = (first..=last).flat_map(|power| {
                [1.0, 1.5, 2.0, 3.0, 5.0, 7.0].map(|digit| digit * 10.0_f64.powi(power))
            });
            return decades.filter(|tick| (self.low..=self.high).contains(tick)).collect();
        }
        let rough = (self.high - self.low) / TICKS;
        let power = 10.0_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|index| index as f64 * step).collect()
    }
}

impl Chart {
    fn shapes(&self) -> Vec<Shape> {
        let all = || self.series.iter().flat_map(|s| s.line.iter().chain(&s.points));
        let x_axis = Axis::over(all().map(|(x, _)| *x), false);
        let y_axis = Axis::over(all().map(|(_, y)| *y), true);
        let x_at = |x: f64| LEFT + x_axis.place(x) * (WIDTH - LEFT - RIGHT);
        let y_at = |y: f64| HEIGHT - BOTTOM - y_axis.place(y) * (HEIGHT - TOP - BOTTOM);
        let text = |x, y, align, colour, text: String| Shape::Text { x, y, align, colour, text };
        let mut shapes = Vec::new();
        for tick in y_axis.ticks() {
            let y = y_at(tick);
            let points = vec![(LEFT, y), (WIDTH - RIGHT, y)];
            shapes.push(Shape::Line { points, colour: LIGHT });
            shapes.push(text(LEFT - 8.0, y, Align::Right, GREY, short(tick)));
        }
        for tick in x_axis.ticks() {
            let (x, bottom) = (x_at(tick), HEIGHT - BOTTOM);
            let points = vec![(x, bottom), (x, bottom + 5.0)];
            shapes.push(Shape::Line { points, colour: GREY });
            shapes.push(text(x, bottom + 16.0, Align::Centre, GREY, short(tick)));
        }
        let frame = [(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)];
        shapes.push(Shape::Line { points: frame.to_vec(), colour: GREY });
        shapes.push(text(LEFT, TOP / 2.0, Align::Left, BLACK, self.title.clone()));
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        shapes.push(text(middle, HEIGHT - 16.0, Align::Centre, GREY, self.x_label.clone()));
        for series in &self.series {
            let at = |(x, y): &(f64, f64)| (x_at(*x), y_at(*y));
            let is_shown = |(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
            let points = series.line.iter().filter(is_shown).map(at).collect();
            shapes.push(Shape::Line { points, colour: series.colour });
            shapes.extend(series.points.iter().filter(is_shown).map(at).map(|(x, y)| {
                let colour = series.colour;
                Shape::Square { x, y, colour }
            }));
        }
        for (index, series) in self.series.iter().enumerate() {
            let (x, y) = (WIDTH - RIGHT - 8.0, TOP + (index as f64 + 0.5) * LEGEND_STEP);
            shapes.push(Shape::Square { x, y, colour: series.colour });
            shapes.push(text(x - 12.0, y, Align::Right, BLACK, series.label.clone()));
        }
        shapes
    }

    /// The bytes of a PNG.
    pub(super) fn png(&self) -> Result<Vec<u8>> {
        let mut canvas = Canvas::new(WIDTH as usize, HEIGHT as usize, WHITE);
        for shape in self.shapes() {
            match shape {
                Shape::Line { points, colour } => {
                    points.windows(2).for_each(|pair| line(&mut canvas, pair, colour));
                }
                Shape::Square { x, y, colour } => {
                    let side = (2.0 * MARK) as usize;
                    canvas.fill((x - MARK) as usize, (y - MARK) as usize, side, side, colour);
                }
                Shape::Text { x, y, align, colour, text } => {
                    canvas.text(x.round() as usize, y.round() as usize, align, colour, &text);
                }
            }
        }
        Ok(canvas.png()?)
    }

    /// The text of an SVG.
    pub(super) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n{WRITTEN}\n<rect width=\"100%\" height=\"100%\" \
             fill=\"{}\"/>\n",
            hex(WHITE)
        );
        for shape in self.shapes() {
            let _infallible = match shape {
                Shape::Line { points, colour } => {
                    let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
                    let points = points.collect::<Vec<_>>().join(" ");
                    let colour = hex(colour);
                    writeln!(
                        svg,
                        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" \
                         stroke-width=\"1.5\"/>"
                    )
                }
                Shape::Square { x, y, colour } => writeln!(
                    svg,
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>",
                    x - MARK,
                    y - MARK,
                    2.0 * MARK,
                    2.0 * MARK,
                    hex(colour)
                ),
                Shape::Text { x, y, align, colour, text } => writeln!(
                    svg,
                    "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{}\" fill=\"{}\">{}</text>",
                    y + 4.0,
                    anchor(align),
                    hex(colour),
                    escaped(&text)
                ),
            };
        }
        svg + "</svg>\n"
    }
}

/// Draws a line two pixels wide.
fn line(canvas: &mut Canvas, ends: &[(f64, f64)], colour: Colour) {
    let [(x0, y0), (x1, y1)] = ends[..] else { return };
    let length = (x1 - x0).abs().max((y1 - y0).abs()).ceil().max(1.0);
    for index in 0..=length as u32 {
        let share = f64::from(index) / length;
        let (x, y) = (x0 + (x1 - x0) * share, y0 + (y1 - y0) * share);
        canvas.fill(x.round() as usize, y.round() as usize, 2, 2, colour);
    }
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn anchor(align: Align) -> &'static str {
    match align {
        Align::Left => "start",
        Align::Centre => "middle",
        Align::Right => "end",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number as the label of a tick.
fn short(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    rounded.to_string()
}
