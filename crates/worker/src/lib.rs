//! Computes gradients: vae-worker
