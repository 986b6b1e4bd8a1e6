"""The same training in PyTorch with torch.compile; model, loss and data are those of ddp.py.

With --whole-step it is one process: forward, gradient and Adam are one graph. Without, processes
are started as torchrun does, and the model is compiled under DistributedDataParallel; its loss is
compiled too, and Adam is PyTorch's fused one. Rank 0 prints one JSON object as ddp.py does.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ddp import Vae, batches, negative_evidence_bound, read_images

LEARNING_RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
WARM_UP_STEPS, TRIAL_STEPS = 20, 40


def whole_step(images):
    """A function that takes indices of images, trains one step on them, and gives the loss."""
    parameters = [value.detach() for value in Vae().parameters()]
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    steps = torch.zeros(())

    def loss_of(parameters, x):
        # The layers of Vae, as functions: this compiles faster than functional_call.
        enter, inner, statistics, leave, outer, last = [
            parameters[layer:layer + 2] for layer in range(0, len(parameters), 2)
        ]
        hidden = F.relu(F.linear(F.relu(F.linear(x, *enter)), *inner))
        mean, log_var = F.linear(hidden, *statistics).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        hidden = F.relu(F.linear(F.relu(F.linear(z, *leave)), *outer))
        return negative_evidence_bound(F.linear(hidden, *last), x, mean, log_var)

    @torch.compile(fullgraph=True)
    def step(index, parameters, first, second, steps):
        x = images[index].float() / 255
        gradient, loss = torch.func.grad_and_value(loss_of)(parameters, x)
        steps.add_(1)
        correction = torch.sqrt(1 - torch.pow(BETA2, steps))
        rate = LEARNING_RATE * correction / (1 - torch.pow(BETA1, steps))
        for p, m, v, g in zip(parameters, first, second, gradient):
            m.lerp_(g, 1 - BETA1)
            v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            p.sub_(rate * m / (v.sqrt() + EPSILON * correction))
        return loss

    @torch.no_grad()
    def run(index):
        return step(index, parameters, first, second, steps)

    return run


def data_parallel_step(images):
    """The same over all ranks, under DistributedDataParallel."""
    model = DistributedDataParallel(Vae(), gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
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
    parser.add_argument("--whole-step", action="store_true", help="one process, one graph")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    parallel = not args.whole_step
    if parallel:
        dist.init_process_group("gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if parallel else (0, 1)
    torch.manual_seed(rank)

    images = read_images(args.data_dir / "train-images-idx3-ubyte")
    indices = batches(len(images), args.batch_size, rank, world)
    step = data_parallel_step(images) if parallel else whole_step(images)

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
