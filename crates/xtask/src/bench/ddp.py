"""The same training in PyTorch: DistributedDataParallel over gloo, fused Adam.

One process per rank, as torchrun starts them (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the
environment). Rank 0 prints one JSON object: images a second over all ranks, in steady state, and
the last loss. The data set is in memory as bytes, a batch is one gather, and gradients are views of
DDP's buckets: the code of a careful user, without further tricks.
"""

import argparse
import json
import struct
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

PIXELS, HIDDEN, LATENT = 784, 400, 20
WARM_UP_STEPS, TRIAL_STEPS = 20, 40


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, 2 * LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, PIXELS),
        )

    def forward(self, x):
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        return self.decoder(z), mean, log_var


def negative_evidence_bound(logits, x, mean, log_var):
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
    return (reconstruction + kl) / len(x)


def read_images(path):
    raw = bytearray(path.read_bytes())
    _, count, rows, columns = struct.unpack(">4I", raw[:16])
    return torch.frombuffer(raw, dtype=torch.uint8, offset=16).view(count, rows * columns)


def batches(count, batch_size, rank, world):
    """Indices of this rank's batches, epoch after epoch; every epoch is shuffled anew."""
    shuffle = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(count, generator=shuffle)[rank::world]
        whole = len(order) // batch_size * batch_size
        yield from order[:whole].split(batch_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=64, help="images per rank and step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)  # The noise differs by rank; DDP sends rank 0's parameters to all ranks.

    images = read_images(args.data_dir / "train-images-idx3-ubyte")
    model = DistributedDataParallel(Vae(), gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    indices = batches(len(images), args.batch_size, rank, world)

    def train(steps):
        for _ in range(steps):
            x = images[next(indices)].float().div_(255)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
                logits, mean, log_var = model(x)
            loss = negative_evidence_bound(logits.float(), x, mean.float(), log_var.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss

    def timed(steps):
        dist.barrier()
        begun = time.perf_counter()
        loss = train(steps)
        return time.perf_counter() - begun, loss.item()

    train(WARM_UP_STEPS)
    trial_seconds, _ = timed(TRIAL_STEPS)
    steps = torch.tensor(max(1, round(TRIAL_STEPS * args.seconds / trial_seconds)))
    dist.broadcast(steps, 0)  # All ranks run the number of steps that rank 0 estimated.
    seconds, loss = timed(int(steps))

    if rank == 0:
        images_per_second = int(steps) * args.batch_size * world / seconds
        found = {"images_per_second": images_per_second, "seconds": seconds, "loss": loss}
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
