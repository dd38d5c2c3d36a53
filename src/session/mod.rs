//! A client's session: the value, the protocol it follows, the thread that drives it, and the list of
//! those that live.
//!
//! Knows nothing of upgrades or of what the console says.

pub mod accept;
mod acceptor;
mod attend;
mod authenticate;
pub mod bed;
mod borrow;
mod cancel;
mod client_gone;
pub mod client_settings;
pub mod console;
pub mod console_login;
mod crowd;
pub mod driver;
pub mod encryption;
pub mod ending;
mod first_packet;
pub mod guest;
pub mod house;
pub mod lend;
mod limits;
pub mod lobby;
pub mod login;
mod login_permit;
pub mod new_connection;
pub mod orders;
mod pace;
mod parking;
pub mod refusal;
pub mod registry;
mod rejections;
pub mod relay;
mod rests;
mod serve;
#[allow(
    clippy::module_inception,
    reason = "the file is the value: one session"
)]
pub mod session;
mod settle;
mod transfer;
mod turns;
pub mod unfinished;
