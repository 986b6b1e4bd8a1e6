"""The same training in PyTorch with torch.compile; model, loss and data are those of ddp.py.

With --alone the training is one process. Without it, processes are started as torchrun does, and the
model is compiled under DistributedDataParallel. The loss is compiled too, and Adam is PyTorch's fused
Adam. Rank 0 prints one JSON object as ddp.py does.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ddp import Vae, batches, negative_evidence_bound, read_images

WARM_UP_STEPS, TRIAL_STEPS = 20, 40


def training_step(images, parallel):
    """A function that trains one step on the images of some indices, and returns the loss."""
    model = Vae()
    if parallel:
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    forward, loss_of = torch.compile(model), torch.compile(negative_evidence_bound)

    def run(index):
        x = images[index].float().div_(255)
        logits, mean, log_var = forward(x)
        loss = loss_of(logits, x, mean, log_var)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=64, help="images per rank and step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure")
    parser.add_argument("--alone", action="store_true", help="one process")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    parallel = not args.alone
    if parallel:
        dist.init_process_group("gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if parallel else (0, 1)
    torch.manual_seed(rank)

    images = read_images(args.data_dir / "train-images-idx3-ubyte")
    indices = batches(len(images), args.batch_size, rank, world)
    step = training_step(images, parallel)

    def timed(steps):
        if parallel:
            dist.barrier()
        begun = time.perf_counter()
        for _ in range(steps):
            loss = step(next(indices))
        return time.perf_counter() - begun, loss.item()

    timed(WARM_UP_STEPS)
    trial_seconds, _ = timed(TRIAL_STEPS)
    steps = torch.tensor(max(1, round(TRIAL_STEPS * args.seconds / trial_seconds)))
    if parallel:
        dist.broadcast(steps, 0)
    seconds, loss = timed(int(steps))

    if rank == 0:
        images_per_second = int(steps) * args.batch_size * world / seconds
        found = {"images_per_second": images_per_second, "seconds": seconds, "loss": loss}
        print(json.dumps(found), flush=True)
    if parallel:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
