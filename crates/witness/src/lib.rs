//! Reality held against the trail: what processes hold, seen in `/proc`, beside what records say.

#![forbid(unsafe_code)]
