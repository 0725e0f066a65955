//! What the reader of results should know.

use super::results::{COLUMNS, Results, Row};

/// How many images or rows are named.
const NAMED: usize = 3;

/// What stands above the results of a data set of these categories; of some backbones there were no weights, with the
/// reason.
pub(super) fn notes(
    results: &Results,
    categories: &[&str],
    missing: &[(String, String)],
) -> Vec<String> {
    let mut notes = Vec::new();
    let (done, total) = results.measured;
    if done < total {
        notes.push(format!(
            "Stopped: {done} of {total} measurements are there; the same command goes on."
        ));
    }
    for (backbone, why) in missing {
        notes.push(format!(
            "The rows of {backbone} are empty, since its weights cannot be had: {why}"
        ));
    }
    if !results.unreadable.is_empty() {
        let all: Vec<&str> = results.unreadable.iter().map(|of| of.path.as_str()).collect();
        let (images, are) = if all.len() == 1 { ("image", "is") } else { ("images", "are") };
        notes.push(format!(
            "{} {images} could not be read and {are} left out: {}.",
            all.len(),
            named(&all, ", ")
        ));
    }
    notes.extend(partial_means(results, categories));
    notes
}

/// Of which rows and columns the mean is over some of the categories alone.
fn partial_means(results: &Results, categories: &[&str]) -> Vec<String> {
    // What is said → the columns, and the rows by their numbers.
    let mut all: Vec<(String, Vec<&str>, Vec<usize>)> = Vec::new();
    for column in &results.columns {
        let mut of_column: Vec<(String, Vec<usize>)> = Vec::new();
        for (i, row) in results.rows.iter().enumerate() {
            let Some(without) = left_out(row, column, categories) else { continue };
            let (n, of) = (categories.len() - without.len(), categories.len());
            let said =
                format!("the mean of {n} of {of} categories, without {}", without.join(", "));
            match of_column.iter_mut().find(|(known, _)| *known == said) {
                Some((_, rows)) => rows.push(i),
                None => of_column.push((said, vec![i])),
            }
        }
        for (said, rows) in of_column {
            match all.iter_mut().find(|(known, _, of)| *known == said && *of == rows) {
                Some((_, columns, _)) => columns.push(column),
                None => all.push((said, vec![column], rows)),
            }
        }
    }
    let shown = results.rows.iter().filter(|row| row.setting.is_some()).count();
    let text = |(said, columns, rows): (String, Vec<&str>, Vec<usize>)| {
        let labels: Vec<String> = rows.iter().map(|&i| results.rows[i].label()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let of = match rows.len() == shown {
            true => String::new(),
            false => format!(" (of {})", named(&labels, "; ")),
        };
        let is = if columns.len() == 1 { "is" } else { "are" };
        format!("{}{of} {is} {said}.", columns.join(", "))
    };
    all.into_iter().map(text).collect()
}

/// The categories that a row's mean of a column leaves out, where it is one of some others.
fn left_out<'c>(row: &Row, column: &str, categories: &[&'c str]) -> Option<Vec<&'c str>> {
    let (_, value) = COLUMNS.iter().find(|(name, _)| *name == column)?;
    let of = &row.calibrated.as_ref().or(row.paper.as_ref())?.categories;
    let lacks = |name: &&&str| of.get(**name).and_then(value).is_none();
    let without: Vec<&str> = categories.iter().filter(lacks).copied().collect();
    (!without.is_empty() && without.len() < categories.len()).then_some(without)
}

/// The first of them, and how many more there are.
fn named(all: &[&str], between: &str) -> String {
    let first = all[..all.len().min(NAMED)].join(between);
    match all.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}{between}and {more} more"),
    }
}
