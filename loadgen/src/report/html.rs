//! A summary as one HTML file without outside assets, readable in light and in dark.
//!
//! Pure: drawings are SVG made here.

use std::fmt::Write as _;

use super::text::{ms, shares};
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
    let _ = write!(
        page,
        "<h1>Load report</h1><p class=\"quiet\">{}, {:.0} s<br><code>{}</code></p>",
        date(summary.began_unix_s),
        summary.seconds,
        escape(&summary.command)
    );
    write_tiles(&mut page, summary);
    for warning in &summary.warnings {
        let _ = write!(page, "<p class=\"warning\">{}</p>", escape(warning));
    }
    page.push_str("<h2>Time to the final reply, by percentile</h2>");
    write_latency(&mut page, &summary.scenarios);
    write_courses(&mut page, summary);
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
    begin_drawing(page, top, time_mark);
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
    write_legend(page, curves.iter().enumerate().map(|(index, (scenario, _))| (series(index), scenario.name.as_str())));
}

/// A figure of each second and how its line looks and is called.
type Course<'a> = (&'a str, &'a str, &'a dyn Fn(&SecondSummary) -> f64);

fn write_courses(page: &mut String, summary: &Summary) {
    let acknowledged: Course<'_> = ("s1", "acknowledged", &|second| second.acknowledged as f64);
    let errors: Course<'_> = ("failed", "failed", &|second| second.errors as f64);
    page.push_str("<h2>Messages per second</h2>");
    let lines = if summary.total.errors.is_empty() { vec![acknowledged] } else { vec![acknowledged, errors] };
    write_course(page, &summary.course, &lines, |value| format!("{value}"));
    page.push_str("<h2>Time to the final reply over the run</h2>");
    let lines: [Course<'_>; 2] =
        [("s1", "median", &|second| second.p50_us as f64), ("s2", "99th percentile", &|second| second.p99_us as f64)];
    write_course(page, &summary.course, &lines, time_mark);
}

fn write_course(page: &mut String, course: &[SecondSummary], lines: &[Course<'_>], words: impl Fn(f64) -> String) {
    let values = lines.iter().flat_map(|(_, _, value)| course.iter().map(value));
    let top = nice_top(values.fold(0.0, f64::max));
    let last = course.last().map_or(1, |second| second.at_s).max(1);
    let x_of = |at_s: u64| LEFT + WIDTH * at_s as f64 / last as f64;
    begin_drawing(page, top, words);
    for second in (0..=last).step_by(seconds_between_marks(last)) {
        let (x, y) = (x_of(second), TOP + HEIGHT + 18.0);
        let _ = write!(page, "<text class=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{second} s</text>");
    }
    for (class, _, value) in lines {
        write_line(page, course.iter().map(|second| (x_of(second.at_s), y_of(value(second), top))), class);
    }
    page.push_str("</svg>");
    write_legend(page, lines.iter().map(|&(class, name, _)| (class.to_owned(), name)));
}

/// Whole seconds between two marks under a drawing, so that there are at most eleven of them and no two say the same.
fn seconds_between_marks(last: u64) -> usize {
    let step =
        (0..).flat_map(|power| [1, 2, 5].map(|factor| factor * 10_u64.pow(power))).find(|step| last / step <= 10);
    step.and_then(|step| usize::try_from(step).ok()).unwrap_or(usize::MAX)
}

fn write_legend<'a>(page: &mut String, lines: impl Iterator<Item = (String, &'a str)>) {
    page.push_str("<p class=\"legend\">");
    for (class, name) in lines {
        let _ = write!(page, "<span><i class=\"{class}\"></i>{}</span>", escape(name));
    }
    page.push_str("</p>");
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
    let mut points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    if points.len() == 1 {
        // A line from a point to itself has round ends, and so is a dot; a line of one point would not be seen.
        points.push(points[0].clone());
    }
    let _ = write!(page, "<polyline class=\"line {class}\" points=\"{}\"/>", points.join(" "));
}

fn percentile_x(percentile: f64) -> f64 {
    let nines = -(1.0 - (percentile / 100.0).min(1.0 - 1e-9)).log10();
    LEFT + WIDTH * nines.min(NINES_MAX) / NINES_MAX
}

fn y_of(value: f64, top: f64) -> f64 {
    TOP + HEIGHT * (1.0 - value / top)
}

/// The next number of the kind 1, 2, 4, 6 or 8 times a power of ten: four steps up to it are round numbers too.
fn nice_top(highest: f64) -> f64 {
    let power = 10_f64.powf(highest.max(1.0).log10().floor());
    [1.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&top| top >= highest)
        .unwrap_or(10.0 * power)
}

fn series(index: usize) -> String {
    format!("s{}", index % 11 + 1)
}

fn write_table(page: &mut String, summary: &Summary) {
    page.push_str(
        "<h2>Scenarios</h2><div class=\"wide\"><table><tr><th>scenario<th>messages<th>per s<th>errors<th>resumed\
         <th>early data<th>rejected<th>fast open<th>p50 ms<th>p90 ms<th>p99 ms<th>p99.9 ms<th>max ms<th>round trips<th>MAIL in packet</tr>",
    );
    for scenario in summary.scenarios.iter().chain([&summary.total]) {
        let times = scenario.phase(Phase::FinalReply);
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td>{:.1}<td>{}<td>{}<td>{}<td>{}<td>{}",
            escape(&scenario.name),
            scenario.acknowledged,
            summary.rate(scenario),
            scenario.errors_total(),
            scenario.resumed,
            scenario.early_data_accepted,
            scenario.early_data_rejected,
            scenario.opened_fast
        );
        for percentile in [50.0, 90.0, 99.0, 99.9, 100.0] {
            let _ = write!(page, "<td>{}", times.map_or_else(|| "-".to_owned(), |times| ms(times.at(percentile))));
        }
        // Of different scenarios together the shares are those of the mix, and so many that they widen the table.
        let trips = |counts| if scenario.name == summary.total.name { String::new() } else { shares(counts) };
        let _ = write!(page, "<td>{}<td>{}</tr>", trips(&scenario.round_trips), trips(&scenario.mail_packets));
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

/// A time in microseconds beside a scale, with no more digits than it needs.
fn time_mark(time_us: f64) -> String {
    match time_us {
        _ if time_us <= 0.0 => "0".to_owned(),
        _ if time_us < 1e3 => format!("{time_us} µs"),
        _ if time_us < 1e6 => format!("{} ms", time_us / 1e3),
        _ => format!("{} s", time_us / 1e6),
    }
}

/// Seconds since 1970 as a date and time of UTC (days of the Gregorian calendar are counted from 1 March of the year 0, so
/// that the leap day is a year's last).
fn date(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next_year;
    format!("{year}-{month:02}-{day_of_month:02} {:02}:{:02} UTC", second / 3_600, second / 60 % 60)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Everything up to the title. The colours of the lines are told apart by people who see few colours too (Okabe and Ito).
const HEAD: &str = r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Load report</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root{color-scheme:light dark;--back:#fcfcfb;--ink:#1b1f24;--quiet:#667079;--grid:#e3e5e8;--tile:#f1f2f4;--warn:#8a3b00;
--failed:#c0182b;--c1:#0072b2;--c2:#d55e00;--c3:#009e73;--c4:#b35a8c;--c5:#c28500;--c6:#2f9bd8;--c7:#7655b5;--c8:#6d7900;--c9:#a0522d;--c10:#607080;--c11:#222}
@media (prefers-color-scheme:dark){:root{--back:#14171a;--ink:#e7eaed;--quiet:#98a2ab;--grid:#2b3137;--tile:#1e2327;--warn:#ffb27a;
--failed:#ff6b78;--c1:#4aa8e8;--c2:#ff8a3d;--c3:#2fd0a2;--c4:#e79bc4;--c5:#ffc247;--c6:#8fd3ff;--c7:#b79bf0;--c8:#bccb3c;--c9:#d9956c;--c10:#a3b2c2;--c11:#eee}}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:24px 20px 60px}h1{font-size:26px;margin:0}h2{font-size:17px;margin:34px 0 8px}
.quiet,.legend{color:var(--quiet)}.warning{color:var(--warn);font-weight:600}code{font-size:13px;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(120px,1fr));gap:10px}
.tiles div{background:var(--tile);border-radius:8px;padding:12px 14px}.tiles b{display:block;font-size:21px}
.tiles span{color:var(--quiet);font-size:13px}svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--quiet)}
.end{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:var(--grid)}
.line{fill:none;stroke-width:2.2;stroke:currentColor;stroke-linejoin:round;stroke-linecap:round}
.legend span{margin-right:18px;white-space:nowrap}.legend i{display:inline-block;width:22px;height:3px;margin-right:6px;
vertical-align:middle;background:currentColor}
.s1{color:var(--c1)}.s2{color:var(--c2)}.s3{color:var(--c3)}.s4{color:var(--c4)}.s5{color:var(--c5)}.s6{color:var(--c6)}
.s7{color:var(--c7)}.s8{color:var(--c8)}.s9{color:var(--c9)}.s10{color:var(--c10)}.s11{color:var(--c11)}.failed{color:var(--failed)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{text-align:right;padding:5px 9px;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--quiet);font-weight:500}
</style></head><body><main>"#;

#[cfg(test)]
mod tests {
    use super::{LEFT, WIDTH, date, nice_top, percentile_x, seconds_between_marks, time_mark, write};
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
    fn marks_of_time_are_whole_seconds_and_no_crowd() {
        for (last, step) in [(1, 1), (10, 1), (11, 2), (59, 10), (60, 10), (600, 100)] {
            assert_eq!(seconds_between_marks(last), step, "{last}");
        }
    }

    #[test]
    fn marks_of_a_scale_have_no_more_digits_than_they_need() {
        let marks = [0.0, 250.0, 2_500.0, 500e3, 1.5e6].map(time_mark);
        assert_eq!(marks, ["0", "250 µs", "2.5 ms", "500 ms", "1.5 s"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_798_761_600), "2027-01-01 00:00 UTC");
    }

    #[test]
    fn a_run_of_one_second_and_a_run_with_errors_are_drawn() {
        let mut summary = example(0.1).1;
        summary.course.truncate(1);
        let page = write(&summary);
        assert!(page.contains("failed</span>"), "{page}");
        let lines = page.split("<polyline ").skip(1).map(|line| line.split('"').nth(3).unwrap_or_default());
        assert!(lines.clone().count() > 3 && lines.clone().all(|points| points.contains(' ')), "{page}");
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (highest, top) in [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (49.0, 60.0), (81.0, 100.0)] {
            assert!((nice_top(highest) - top).abs() < 1e-9, "{highest}");
        }
    }
}
