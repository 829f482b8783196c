//! A summary as one HTML file without outside assets, readable in light and in dark.
//!
//! Pure: drawings are SVG made here.

use std::fmt::Write as _;

use super::text::{ms, trips};
use super::{ScenarioSummary, SecondSummary, Summary};
use crate::record::Phase;

/// Size of a drawing's plane in SVG units, and the room left of and under it for words.
const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 86.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 12.0;

/// Percentiles marked under the latency drawing; they stand at even distances per factor of ten of what is left above them.
const MARKS: [(f64, &str); 6] =
    [(0.0, "0 %"), (50.0, "50 %"), (90.0, "90 %"), (99.0, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %")];

/// Largest distance on the percentile axis: 99.99 %.
const NINES_MAX: f64 = 4.0;

/// The whole page.
pub(crate) fn write(summary: &Summary) -> String {
    let mut page = String::from(HEAD);
    // Writing to a String cannot fail, so the results of `write!` are dropped here and below.
    let _ = write!(page, "<h1>Load report</h1><p class=\"quiet\"><code>{}</code></p>", escape(&summary.command));
    write_tiles(&mut page, summary);
    for warning in &summary.warnings {
        let _ = write!(page, "<p class=\"warning\">{}</p>", escape(warning));
    }
    page.push_str("<h2>Time to the final reply, by percentile</h2>");
    write_latency(&mut page, &summary.scenarios);
    page.push_str("<h2>Messages per second</h2>");
    write_course(&mut page, &summary.course, "s1", |second| second.acknowledged as f64, |value| format!("{value:.0}"));
    page.push_str("<h2>Time to the final reply over the run, 99th percentile</h2>");
    write_course(
        &mut page,
        &summary.course,
        "s2",
        |second| second.p99_us as f64,
        |value| format!("{} ms", ms(value as u64)),
    );
    write_table(&mut page, summary);
    write_rest(&mut page, summary);
    page.push_str("</main></body></html>\n");
    page
}

fn write_tiles(page: &mut String, summary: &Summary) {
    let times = summary.total.phase(Phase::FinalReply);
    let at = |percentile| times.map_or_else(|| "-".to_owned(), |times| format!("{} ms", ms(times.at(percentile))));
    let tiles = [
        ("messages", summary.total.acknowledged.to_string()),
        ("per second", format!("{:.1}", summary.rate(&summary.total))),
        ("errors", summary.total.errors_total().to_string()),
        ("median", at(50.0)),
        ("99 %", at(99.0)),
        ("99.9 %", at(99.9)),
    ];
    page.push_str("<div class=\"tiles\">");
    for (name, value) in tiles {
        let _ = write!(page, "<div><b>{value}</b><span>{name}</span></div>");
    }
    page.push_str("</div>");
}

fn write_latency(page: &mut String, scenarios: &[ScenarioSummary]) {
    let curves: Vec<_> =
        scenarios.iter().filter_map(|scenario| Some((scenario, scenario.phase(Phase::FinalReply)?))).collect();
    let highest = curves.iter().map(|(_, times)| times.max_us).max().unwrap_or(0);
    let top = nice_top(highest as f64);
    begin_drawing(page, top, |value| format!("{} ms", ms(value as u64)));
    for (percentile, words) in MARKS {
        let x = percentile_x(percentile);
        let y = TOP + HEIGHT;
        let _ = write!(page, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{y}\"/>");
        let _ = write!(page, "<text class=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{words}</text>", y + 18.0);
    }
    for (index, (_, times)) in curves.iter().enumerate() {
        let points =
            times.curve.iter().map(|&(percentile, time_us)| (percentile_x(percentile), y_of(time_us as f64, top)));
        write_line(page, points, &series(index));
    }
    page.push_str("</svg>");
    page.push_str("<p class=\"legend\">");
    for (index, (scenario, _)) in curves.iter().enumerate() {
        let _ = write!(page, "<span><i class=\"{}\"></i>{}</span>", series(index), escape(&scenario.name));
    }
    page.push_str("</p>");
}

fn write_course(
    page: &mut String,
    course: &[SecondSummary],
    class: &str,
    value: impl Fn(&SecondSummary) -> f64,
    words: impl Fn(f64) -> String,
) {
    let top = nice_top(course.iter().map(&value).fold(0.0, f64::max));
    let last = course.last().map_or(1, |second| second.at_s).max(1);
    begin_drawing(page, top, words);
    for step in 0..=5 {
        let x = LEFT + WIDTH * f64::from(step) / 5.0;
        let second = last as f64 * f64::from(step) / 5.0;
        let _ =
            write!(page, "<text class=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{second:.0} s</text>", TOP + HEIGHT + 18.0);
    }
    let x = |second: &SecondSummary| LEFT + WIDTH * second.at_s as f64 / last as f64;
    write_line(page, course.iter().map(|second| (x(second), y_of(value(second), top))), class);
    page.push_str("</svg>");
}

fn begin_drawing(page: &mut String, top: f64, words: impl Fn(f64) -> String) {
    let (width, height) = (LEFT + WIDTH + 30.0, TOP + HEIGHT + BOTTOM);
    let _ = write!(page, "<svg viewBox=\"0 0 {width} {height}\" role=\"img\">");
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let y = y_of(value, top);
        let right = LEFT + WIDTH;
        let _ = write!(page, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ =
            write!(page, "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", LEFT - 6.0, y + 4.0, words(value));
    }
}

fn write_line(page: &mut String, points: impl Iterator<Item = (f64, f64)>, class: &str) {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(page, "<polyline class=\"line {class}\" points=\"{}\"/>", points.join(" "));
}

fn percentile_x(percentile: f64) -> f64 {
    let nines = -(1.0 - (percentile / 100.0).min(1.0 - 1e-9)).log10();
    LEFT + WIDTH * nines.min(NINES_MAX) / NINES_MAX
}

fn y_of(value: f64, top: f64) -> f64 {
    TOP + HEIGHT * (1.0 - value / top)
}

/// The next number of the kind 1, 2 or 5 times a power of ten.
fn nice_top(highest: f64) -> f64 {
    let power = 10_f64.powf(highest.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&top| top >= highest).unwrap_or(10.0 * power)
}

fn series(index: usize) -> String {
    format!("s{}", index % 10 + 1)
}

fn write_table(page: &mut String, summary: &Summary) {
    page.push_str(
        "<h2>Scenarios</h2><div class=\"wide\"><table><tr><th>scenario<th>messages<th>per s<th>errors<th>resumed\
         <th>p50 ms<th>p90 ms<th>p99 ms<th>p99.9 ms<th>max ms<th class=\"left\">round trips to the final reply</tr>",
    );
    for scenario in summary.scenarios.iter().chain([&summary.total]) {
        let times = scenario.phase(Phase::FinalReply);
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td>{:.1}<td>{}<td>{}",
            escape(&scenario.name),
            scenario.acknowledged,
            summary.rate(scenario),
            scenario.errors_total(),
            scenario.resumed
        );
        for percentile in [50.0, 90.0, 99.0, 99.9, 100.0] {
            let _ = write!(page, "<td>{}", times.map_or_else(|| "-".to_owned(), |times| ms(times.at(percentile))));
        }
        let _ = write!(page, "<td class=\"left\">{}</tr>", escape(&trips(scenario)));
    }
    page.push_str("</table></div>");
    write_phases(page, summary);
}

fn write_phases(page: &mut String, summary: &Summary) {
    page.push_str("<h2>Phases: median and 99th percentile in ms</h2><div class=\"wide\"><table><tr><th>scenario");
    Phase::ALL.iter().for_each(|phase| {
        let _ = write!(page, "<th>{}", phase.name());
    });
    page.push_str("</tr>");
    for scenario in &summary.scenarios {
        let _ = write!(page, "<tr><td>{}", escape(&scenario.name));
        for phase in Phase::ALL {
            let times = scenario.phase(phase);
            let words = times.map(|times| format!("{} / {}", ms(times.at(50.0)), ms(times.at(99.0))));
            let _ = write!(page, "<td>{}", words.unwrap_or_else(|| "-".to_owned()));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
}

fn write_rest(page: &mut String, summary: &Summary) {
    let errors = summary.scenarios.iter().flat_map(|scenario| {
        scenario.errors.iter().map(move |(kind, count)| format!("{}: {kind}: {count}", scenario.name))
    });
    write_list(page, "Errors", errors);
    write_list(page, "Left out", summary.left_out.iter().cloned());
    let busy: Vec<_> = summary.generator_busy.iter().map(|busy| format!("{:.0} %", busy * 100.0)).collect();
    let _ = write!(
        page,
        "<p class=\"quiet\">Generator: {:.1} s, cores busy {}; sessions began at most {} ms late (99th percentile).",
        summary.seconds,
        busy.join(", "),
        ms(summary.lateness_p99_us)
    );
    if let Some(server) = &summary.server {
        let mebibytes = server.resident_bytes_max as f64 / f64::from(1 << 20);
        let _ = write!(
            page,
            " Server: {:.2} s of processor time, {:.1} µs per message, at most {mebibytes:.1} MiB of memory.",
            server.cpu_s, server.cpu_us_per_message
        );
    }
    page.push_str("</p>");
}

fn write_list(page: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return;
    }
    let _ = write!(page, "<h2>{title}</h2><ul>");
    items.for_each(|item| {
        let _ = write!(page, "<li>{}", escape(&item));
    });
    page.push_str("</ul>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Everything up to the title. The colours of the lines are told apart by people who see few colours too (Okabe and Ito).
const HEAD: &str = r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Load report</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root{color-scheme:light dark;--back:#fcfcfb;--ink:#1b1f24;--quiet:#667079;--grid:#e3e5e8;--tile:#f1f2f4;--warn:#8a3b00}
@media (prefers-color-scheme:dark){:root{--back:#14171a;--ink:#e7eaed;--quiet:#98a2ab;--grid:#2b3137;--tile:#1e2327;--warn:#ffb27a}}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:24px 20px 60px}h1{font-size:26px;margin:0}h2{font-size:17px;margin:34px 0 8px}
.quiet,.legend{color:var(--quiet)}.warning{color:var(--warn);font-weight:600}code{font-size:13px;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(120px,1fr));gap:10px}
.tiles div{background:var(--tile);border-radius:8px;padding:12px 14px}.tiles b{display:block;font-size:21px}
.tiles span{color:var(--quiet);font-size:13px}svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--quiet)}
.end{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:var(--grid)}
.line{fill:none;stroke-width:2.2;stroke:currentColor;stroke-linejoin:round}
.legend span{margin-right:18px;white-space:nowrap}.legend i{display:inline-block;width:22px;height:3px;margin-right:6px;
vertical-align:middle;background:currentColor}
.s1{color:#0072b2}.s2{color:#d55e00}.s3{color:#009e73}.s4{color:#cc79a7}.s5{color:#e69f00}.s6{color:#56b4e9}
.s7{color:#8b6cc1}.s8{color:#7d8a00}.s9{color:#a0522d}.s10{color:#708090}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{text-align:right;padding:5px 9px;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child,.left{text-align:left}th{color:var(--quiet);font-weight:500}
</style></head><body><main>"#;

#[cfg(test)]
mod tests {
    use super::{LEFT, WIDTH, nice_top, percentile_x, write};
    use crate::report::tests::example;

    #[test]
    fn the_page_needs_nothing_from_outside_and_escapes_what_came_from_outside() {
        let page = write(&example(0.1).1);
        for outside in ["http:", "https:", "src=", "@import", "url(", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("closed &lt;early&gt;: 1") && page.contains("run &lt;target&gt;"));
        assert!(page.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn no_drawing_has_a_number_that_is_none() {
        let mut empty = example(0.1).1;
        empty.scenarios.clear();
        empty.course.clear();
        for page in [write(&example(0.1).1), write(&empty)] {
            assert!(!page.contains("NaN") && !page.contains("inf\""), "{page}");
        }
    }

    #[test]
    fn percentiles_stand_at_even_distances_per_nine() {
        let expected = [(0.0, 0.0), (90.0, 0.25), (99.0, 0.5), (99.9, 0.75), (100.0, 1.0)];
        for (percentile, share) in expected {
            assert!((percentile_x(percentile) - LEFT - WIDTH * share).abs() < 0.01, "{percentile}");
        }
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (highest, top) in [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (49.0, 50.0), (51.0, 100.0)] {
            assert!((nice_top(highest) - top).abs() < 1e-9, "{highest}");
        }
    }
}
