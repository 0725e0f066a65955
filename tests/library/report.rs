//! The report as text; `browser.rs` opens it.

use std::collections::HashSet;

use invad::data::{Sample, Split};
use invad::report::{Images, Report};

use crate::support::report::*;

fn count(html: &str, what: &str) -> usize {
    html.matches(what).count()
}

/// The values of an attribute.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    html.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// The page without pictures.
fn text(html: &str) -> String {
    let parts = html.split(";base64,");
    parts.map(|part| part.split_once('"').map_or(part, |(_, rest)| rest)).collect()
}

#[test]
fn strings_are_shown_as_text() {
    let html = report().html();
    for harm in ["<script", "<img", "onerror=\"", "<b>", HOSTILE] {
        assert!(!html.contains(harm), "{harm}");
    }
    // Title, heading, fact, warning, and in each list of categories.
    let escaped = "&lt;script&gt;alert('1')&lt;/script&gt;&lt;img src=x onerror=&quot;alert(2)&quot;&gt;&amp;amp; &quot;é";
    assert!(count(&html, escaped) > 20, "{}", count(&html, escaped));
    assert!(html.contains("&lt;b&gt;.png"));
}

#[test]
fn nothing_is_loaded() {
    let html = report().html();
    let foreign =
        ["http:", "https:", "url(", "@import", "<link", "<img", "<iframe", "<script", "srcset"];
    for foreign in foreign {
        assert!(!html.contains(foreign), "{foreign}");
    }
    let ids: Vec<&str> = values(&html, "id");
    let known: HashSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), known.len(), "ids are unique");
    for link in values(&html, "href") {
        match link.strip_prefix('#') {
            Some(target) => assert!(known.contains(target), "#{target}"),
            None => assert!(link.starts_with("data:image/"), "{link:.40}"),
        }
    }
    assert!(html.contains("default-src 'none'; img-src data:;"));
}

#[test]
fn every_image_has_an_entry() {
    let html = report().html();
    let all = CATEGORIES.len() * 2 * EACH as usize;
    assert_eq!(count(&html, "<article "), all);
    assert_eq!(count(&html, "href=\"data:image/jpeg;base64,"), all);
    assert_eq!(count(&html, "href=\"data:image/png;base64,"), all);
    // Scores of good images are -1 to 4.5, of defects 2.5 to 17.5; the threshold is 4.
    for (class, each) in [("good right", 5), ("good wrong", 1), ("bad right", 5), ("bad wrong", 1)]
    {
        let class = format!("class=\"card {class}\"");
        assert_eq!(count(&html, &class), each * CATEGORIES.len(), "{class}");
    }
    assert_eq!(count(&html, "class=\"truth\""), CATEGORIES.len() * EACH as usize);
    for says in
        ["<html lang=\"en\">", "name=\"viewport\"", "Warning: ", "15 of 18", "3 of 18", "PaDiM"]
    {
        assert!(html.contains(says), "{says}");
    }
}

/// Pictures of large images are scaled; of many, only some are kept.
#[test]
fn the_page_stays_small() {
    let made = report();
    let mut images = Images::default();
    for i in 0..600 {
        let defect = (i % 2 == 0).then(|| "dent".to_string());
        let test = Sample { defect, ..Sample::good(format!("{i}.png"), Split::Test) };
        images.add(image("bolt", &test, f64::from(i) / 100.0, (800, 600)));
    }
    let html = Report { images, ..made }.html();
    assert!(html.len() < 25_000_000, "{}", html.len());
    assert_eq!(count(&html, "<article "), 600);
    let shown = count(&html, "data:image/jpeg");
    assert!((100..600).contains(&shown), "{shown}");
    assert!(html.contains(&format!("Pictures of {} images", 600 - shown)));
    // All wrong verdicts are among them: defects below the threshold of 4, good images from there
    // on.
    let cards: Vec<&str> = html.split("<article ").skip(1).collect();
    let wrong: Vec<_> = cards
        .iter()
        .filter(|c| {
            c.starts_with("class=\"card bad wrong") || c.starts_with("class=\"card good wrong")
        })
        .collect();
    assert_eq!(wrong.len(), 300);
    let without = wrong.iter().filter(|c| !c.contains("data:image/jpeg")).count();
    assert!(without == 0 || shown == 600 - without - 300, "{without} of 300 wrong ones, {shown}");
}

#[test]
fn without_defects_or_anything() {
    let made = report();
    let mut images = Images::default();
    let test = Sample::good("0.png", Split::Test);
    images.add(image("bolt", &test, 1.0, (30, 20)));
    let html =
        Report { images, baselines: None, training: Vec::new(), warnings: Vec::new(), ..made }
            .html();
    assert_eq!(count(&html, "<article "), 1);
    for absent in ["NaN", "inf", "ROC curve", "Warning"] {
        assert!(!text(&html).contains(absent), "{absent}");
    }
    let empty = Report { images: Images::default(), ..report() }.html();
    assert_eq!(count(&empty, "<article "), 0);
    assert!(!text(&empty).contains("NaN"));
}
