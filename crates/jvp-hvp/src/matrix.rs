//! Which proof catches which mistake.
