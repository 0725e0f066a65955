//! How well scores and maps agree with labels and masks.
