"""Measures gloo's all-reduce: torch.distributed.all_reduce, in place, on a float tensor.

One process per rank, as torchrun starts them (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the
environment). For each size, rank 0 prints one JSON object with two medians of its own time.
`median_ms`: nothing touches the tensor between two calls. `fresh_median_ms`: before each call every
rank writes the tensor and waits for the others at a barrier, as in training.
"""

import argparse
import json
import statistics
import time

import torch
import torch.distributed as dist

WARM_UP_CALLS = 10
CALLS_MIN, CALLS_MAX = 15, 3_000


def timed(tensor):
    begun = time.perf_counter()
    dist.all_reduce(tensor)
    return time.perf_counter() - begun


def fresh(tensor):
    tensor.fill_(1.0)
    dist.barrier()
    return timed(tensor)


def agree_on_count(tensor, seconds):
    """The number of calls that fit the time: rank 0's estimate, used by all ranks."""
    fits = seconds / statistics.median(fresh(tensor) for _ in range(5))
    count = torch.tensor(min(max(int(fits), CALLS_MIN), CALLS_MAX))
    dist.broadcast(count, 0)
    return int(count)


def measure(length, seconds):
    tensor = torch.ones(length)
    for _ in range(WARM_UP_CALLS):
        fresh(tensor)
    count = agree_on_count(tensor, seconds)
    tensor.zero_()  # Repeated sums of zeros stay finite.
    dist.barrier()
    as_is = statistics.median(timed(tensor) for _ in range(count))
    just_written = statistics.median(fresh(tensor) for _ in range(count))
    return {"rounds": count, "median_ms": as_is * 1e3, "fresh_median_ms": just_written * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", required=True, help="floats")
    parser.add_argument("--seconds", type=float, default=0.6, help="for each median")
    args = parser.parse_args()

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for length in args.lengths:
        found = measure(length, args.seconds)
        if dist.get_rank() == 0:
            sizes = {"transport": "gloo", "members": dist.get_world_size(), "bytes": 4 * length}
            print(json.dumps(sizes | found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
