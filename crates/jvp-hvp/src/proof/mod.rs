//! Proofs of derivatives that can fail, for anybody's function.
