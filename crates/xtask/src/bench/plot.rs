//! A line plot as SVG: values over a few counts, each with its range. Does not know the meaning of
//! the values.

/// One line of the plot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    /// A CSS colour.
    pub(super) colour: &'static str,
    pub(super) dashed: bool,
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) x: u32,
    pub(super) y: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The texts around the lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    pub(super) title: &'a str,
    pub(super) subtitles: [&'a str; 2],
    pub(super) x: &'a str,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 74.0;
/// Space for the names of the lines, at the lines' ends.
const RIGHT: f64 = 120.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 56.0;
/// The least distance between two names.
const NAME_HEIGHT: f64 = 17.0;

/// Draws the lines; the y axis begins at 0, and the counts on the x axis have equal distances.
pub(super) fn svg(words: Words<'_>, lines: &[Line]) -> String {
    let lines: Vec<&Line> = lines.iter().filter(|line| !line.points.is_empty()).collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let mut counts: Vec<u32> = points().map(|point| point.x).collect();
    counts.sort_unstable();
    counts.dedup();
    let step = tick_step(points().map(|point| point.high).fold(0.0, f64::max));
    let top = points().map(|point| (point.high / step).ceil() * step).fold(step, f64::max);
    let axes = Axes { counts, top, step };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" \
         fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    svg += &text(LEFT, 24.0, "start", "font-size=\"17\" font-weight=\"bold\"", words.title);
    for (subtitle, y) in words.subtitles.into_iter().zip([43.0, 60.0]) {
        svg += &text(LEFT, y, "start", "fill=\"#666\"", subtitle);
    }
    svg += &axes.draw(words.x);
    let ends: Vec<f64> =
        lines.iter().map(|line| axes.y(line.points[line.points.len() - 1].y)).collect();
    for (line, name_y) in lines.iter().zip(spread(&ends)) {
        svg += &axes.draw_line(line, name_y);
    }
    svg + "</svg>\n"
}

struct Axes {
    counts: Vec<u32>,
    top: f64,
    step: f64,
}

impl Axes {
    fn x(&self, count: u32) -> f64 {
        let width = WIDTH - LEFT - RIGHT;
        let index = self.counts.iter().position(|known| *known == count).unwrap_or(0);
        LEFT + width * (index as f64 + 0.5) / self.counts.len().max(1) as f64
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top
    }

    /// Grid, ticks and the label of the x axis.
    fn draw(&self, words: &str) -> String {
        let mut svg = String::new();
        let ticks = (self.top / self.step).round() as u32;
        for tick in 0..=ticks {
            let value = f64::from(tick) * self.step;
            let y = self.y(value);
            let colour = if tick == 0 { "#222" } else { "#ddd" };
            svg +=
                &format!("<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"{colour}\"/>\n", WIDTH - RIGHT);
            svg += &text(LEFT - 8.0, y + 4.5, "end", "", &super::table::number(value));
        }
        for count in &self.counts {
            let tick = HEIGHT - BOTTOM + 20.0;
            svg += &text(self.x(*count), tick, "middle", "", &count.to_string());
        }
        let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
        svg + &text(middle, HEIGHT - 14.0, "middle", "fill=\"#666\"", words)
    }

    /// The line, its points with their ranges, and its name at its end.
    fn draw_line(&self, line: &Line, name_y: f64) -> String {
        let Line { name, colour, dashed, points } = line;
        let place = |point: &Point| format!("{:.1} {:.1}", self.x(point.x), self.y(point.y));
        let path = points.iter().map(place).collect::<Vec<_>>().join("L");
        let dashes = if *dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let mut svg = format!(
            "<path d=\"M{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\"{dashes}/>\n"
        );
        for point in points {
            let (x, y) = (self.x(point.x), self.y(point.y));
            let (low, high) = (self.y(point.low), self.y(point.high));
            svg += &format!(
                "<path d=\"M{x:.1} {low:.1}V{high:.1}\" stroke=\"{colour}\"/>\
                 <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>\n"
            );
        }
        let last = points.last().map_or(LEFT, |point| self.x(point.x));
        // A white outline keeps the grid away from the letters.
        let style =
            format!("fill=\"{colour}\" stroke=\"#fff\" stroke-width=\"4\" paint-order=\"stroke\"");
        svg + &text(last + 12.0, name_y + 4.5, "start", &style, name)
    }
}

/// A round distance between ticks, so that about five ticks fit below `highest`.
fn tick_step(highest: f64) -> f64 {
    if highest <= 0.0 {
        return 1.0;
    }
    let rough = highest / 5.0;
    let magnitude = 10_f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * magnitude >= rough);
    round.unwrap_or(10.0) * magnitude
}

/// Keeps a distance of `NAME_HEIGHT` between places: from the lowest name on, each place moves up
/// as far as necessary.
fn spread(places: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|a, b| places[*b].total_cmp(&places[*a]));
    let mut moved = places.to_vec();
    for pair in order.windows(2) {
        moved[pair[1]] = moved[pair[1]].min(moved[pair[0]] - NAME_HEIGHT);
    }
    moved
}

fn text(x: f64, y: f64, anchor: &str, style: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, points: &[(u32, f64)]) -> Line {
        let point = |&(x, y): &(u32, f64)| Point { x, y, low: y * 0.9, high: y * 1.1 };
        let points = points.iter().map(point).collect();
        Line { name: name.to_owned(), colour: "#06c", dashed: false, points }
    }

    #[test]
    fn ticks_are_round() {
        for (highest, expected) in
            [(0.0, 1.0), (9.0, 2.0), (52_000.0, 20_000.0), (24_000.0, 5_000.0), (5.0, 1.0)]
        {
            assert_eq!(tick_step(highest), expected, "{highest}");
        }
    }

    #[test]
    fn names_keep_their_distance() {
        assert_eq!(spread(&[100.0, 50.0]), [100.0, 50.0]);
        assert_eq!(spread(&[95.0, 100.0]), [100.0 - NAME_HEIGHT, 100.0]);
        assert_eq!(spread(&[]), [0.0; 0]);
    }

    #[test]
    fn every_line_is_drawn_with_its_name() {
        let words = Words { title: "a < b", subtitles: ["", ""], x: "workers" };
        let svg = svg(words, &[line("one", &[(1, 10.0), (4, 30.0)]), line("none", &[])]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(">one</text>") && !svg.contains(">none</text>"));
        assert!(svg.contains("a &lt; b"));
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn nothing_to_draw_is_drawn_without_a_number_that_is_none() {
        let svg = svg(Words { title: "", subtitles: ["", ""], x: "" }, &[]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
