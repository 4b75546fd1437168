//! A backend whose backward is a black box.

/// A backend with its higher rules taken away: forward and backward are right, the rest is refused.
#[derive(Clone, Copy, Debug)]
pub struct Opaque<B> {
    _inner: B,
}
