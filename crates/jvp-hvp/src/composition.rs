//! Every other mode of order two, made of the four rules: once, for any backend.
