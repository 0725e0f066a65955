//! Data sets on disk and images.
