//! All-reduce between GPUs: NCCL moves the floats from one GPU's memory to another's.
//!
//! What every member brings beside its partials travels over gRPC streams, which also tell that
//! a member is gone. Members that keep the state on their GPUs (`on_device.rs`) send each other all of their
//! partials, and every GPU adds them up along the tree in the kernel that updates the state. It does so
//! only when all headers of the round agree and NCCL has passed everything.
//!
//! Others have their partials in the host's memory (`hosted.rs`). In a round of kind `Train` each of them
//!
//! 1. copies its partials to its GPU, out of memory that the GPU reads by itself (pinned),
//! 2. sends every other member its segment of them, and takes in those of its own,
//! 3. adds these up along the tree, on the CPU, as over every transport,
//! 4. sends its segment of the sum to all others, and copies the whole sum back.
//!
//! So the order of addition, and with it every bit, is that of the other transports: NCCL's own
//! reductions, whose order depends on how many members there are, are not used.
//!
//! Members that agree on the end of a generation destroy NCCL's communicator together. After a loss or an
//! error a member aborts the communicator, which ends the transfers that are under way.
//!
//! NCCL opens ports of its own, and what passes between hosts is neither encrypted nor
//! authenticated; who may use it is decided elsewhere.
//!
//! Start reading at [`Nccl`]; [`Libraries`] are opened at run time, nothing is linked with them.

mod communicator;
mod exchange;
mod gpu;
mod hosted;
mod library;
mod on_device;

pub use communicator::UniqueId;
pub use exchange::{Abort, Nccl};
pub use library::{Libraries, NcclError};
