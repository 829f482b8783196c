//! The generator as a process, against the real server and against its own sink.
//!
//! Nothing here waits for a span of time: what is waited for is a line that a process writes, or its end, each with a bound
//! after which the test has failed. The server runs on ports that the system chooses, in a directory that goes away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "a test says why it proves nothing")]

mod auditing;
mod ladder;
mod load;
mod process;
mod refusals;
mod reports;
mod sink;
