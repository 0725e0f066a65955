//! Metrics as a table.

use invad::detect::{Evaluated, Evaluation};
use invad::metrics::Metrics;

type Column = (&'static str, fn(&Metrics) -> Option<f64>);

/// The columns under each heading.
const COLUMNS: [(&str, &[Column]); 4] = [
    (
        "image",
        &[("AUROC", |m| m.image_auroc), ("AP", |m| m.image_ap), ("F1-max", |m| m.image_f1_max)],
    ),
    (
        "pixel",
        &[
            ("AUROC", |m| m.pixel_auroc),
            ("AP", |m| m.pixel_ap),
            ("F1-max", |m| m.pixel_f1_max),
            ("AU-PRO", |m| m.au_pro),
        ],
    ),
    ("all 7", &[("mAD", |m| m.mad)]),
    ("at the threshold", &[("false alarms", |m| m.false_alarm_rate), ("recall", |m| m.recall)]),
];

/// Both tables of an evaluation.
pub fn tables(evaluation: &Evaluation) -> String {
    let calibrated = table("calibrated scores, %", &evaluation.calibrated);
    let paper = table("paper protocol, %", &evaluation.paper);
    format!("{calibrated}\n\n{paper}")
}

fn table(title: &str, evaluated: &Evaluated) -> String {
    let rows: Vec<(&str, &Metrics)> = evaluated
        .categories
        .iter()
        .map(|(name, metrics)| (name.as_str(), metrics))
        .chain([("mean", &evaluated.mean)])
        .collect();
    let names = rows.iter().map(|(name, _)| name.chars().count());
    let width = names.max().unwrap_or(0).max(title.chars().count());

    let mut headings = format!("{title:width$}");
    let mut titles = " ".repeat(width);
    for (heading, columns) in COLUMNS {
        let under: String = columns.iter().map(|(title, _)| format!("  {title:>6}")).collect();
        let span = under.chars().count() - 2;
        headings += &format!("   {heading:<span$}");
        titles += &format!(" {under}");
    }
    let mut lines = vec![headings.trim_end().to_string(), titles];
    for (name, metrics) in rows {
        let mut line = format!("{name:width$}");
        for (_, columns) in COLUMNS {
            line += " ";
            for (title, value) in columns {
                let width = title.chars().count().max(6);
                let cell = value(metrics).map_or("-".into(), |v| format!("{v:.1}"));
                line += &format!("  {cell:>width$}");
            }
        }
        lines.push(line);
    }
    lines.join("\n")
}
