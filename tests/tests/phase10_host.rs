//! Phase 10 on a machine without a device: the checks of the device's suite on the host, which they hold for, and on what
//! is wrong on purpose, which they notice.

mod phase10;
