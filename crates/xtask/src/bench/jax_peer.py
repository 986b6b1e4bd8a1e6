"""The same training in JAX, in one process: a whole step is one graph, and a scan runs many steps.

Prints one JSON object: images a second over all devices, in steady state, the last loss, and the
version of JAX. With --devices 2 the host counts as two devices that average their gradients;
otherwise one device uses all cores that the process may use.

JAX computes the gradient. Adam is written out, so that XLA fuses it. The state is donated. The data
set is on the device as bytes. The caller sets XLA_FLAGS, before JAX is imported.
"""

import argparse
import json
import os
import struct
import time
from pathlib import Path

PIXELS, HIDDEN, LATENT = 784, 400, 20
LAYERS = [
    (PIXELS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2 * LATENT),
    (LATENT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, PIXELS),
]
LEARNING_RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
STEPS_PER_CALL = 100


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=64, help="images per device and step")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure")
    return parser.parse_args()


args = arguments()
if args.devices > 1:
    devices = f" --xla_force_host_platform_device_count={args.devices}"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + devices

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def read_images(path):
    raw = path.read_bytes()
    _, count, rows, columns = struct.unpack(">4I", raw[:16])
    return np.frombuffer(raw, np.uint8, offset=16).reshape(count, rows * columns)


def initial_state():
    """Parameters as PyTorch's Linear draws them, both moments, and the number of steps."""
    random = np.random.default_rng(0)

    def uniform(bound, shape):
        return jnp.asarray(random.uniform(-bound, bound, shape), jnp.float32)

    parameters = []
    for inputs, outputs in LAYERS:
        bound = 1 / np.sqrt(inputs)
        parameters.append((uniform(bound, (inputs, outputs)), uniform(bound, (outputs,))))
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return parameters, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.float32)


def loss_of(parameters, x, noise):
    """The negative evidence lower bound, summed over pixels, averaged over images."""
    enter, inner, statistics, leave, outer, last = [
        lambda value, layer=layer: value @ layer[0] + layer[1] for layer in parameters
    ]
    mean, log_var = jnp.split(statistics(jax.nn.relu(inner(jax.nn.relu(enter(x))))), 2, axis=1)
    z = mean + noise * jnp.exp(0.5 * log_var)
    logits = last(jax.nn.relu(outer(jax.nn.relu(leave(z)))))
    softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    kl = -0.5 * jnp.sum(1 + log_var - mean**2 - jnp.exp(log_var))
    return (jnp.sum(softplus - logits * x) + kl) / len(x)


def adam(state, gradient):
    parameters, first, second, steps = state
    steps = steps + 1
    correction = jnp.sqrt(1 - BETA2**steps)
    rate, epsilon = LEARNING_RATE * correction / (1 - BETA1**steps), EPSILON * correction
    first = jax.tree.map(lambda m, g: m + (1 - BETA1) * (g - m), first, gradient)
    second = jax.tree.map(lambda v, g: v + (1 - BETA2) * (g * g - v), second, gradient)
    parameters = jax.tree.map(
        lambda p, m, v: p - rate * m / (jnp.sqrt(v) + epsilon), parameters, first, second
    )
    return parameters, first, second, steps


def many_steps(state, images, indices, key):
    """One step for each row of indices; returns the state and the last loss."""
    if args.devices > 1:
        key = jax.random.fold_in(key, jax.lax.axis_index("device"))

    def step(state, index_and_key):
        index, key = index_and_key
        x = images[index].astype(jnp.float32) * (1 / 255)
        noise = jax.random.normal(key, (len(index), LATENT))
        loss, gradient = jax.value_and_grad(loss_of)(state[0], x, noise)
        if args.devices > 1:
            loss, gradient = jax.lax.pmean((loss, gradient), "device")
        return adam(state, gradient), loss

    state, losses = jax.lax.scan(step, state, (indices, jax.random.split(key, len(indices))))
    return state, losses[-1]


def compiled(state, images):
    """The compiled function for many steps, and the state and the images on its devices."""
    if args.devices == 1:
        return jax.jit(many_steps, donate_argnums=0), state, jnp.asarray(images)
    mesh = Mesh(np.array(jax.devices()[:args.devices]), ("device",))
    everywhere, split = PartitionSpec(), PartitionSpec(None, "device")
    sharded = jax.shard_map(
        many_steps,
        mesh=mesh,
        in_specs=(everywhere, everywhere, split, everywhere),
        out_specs=(everywhere, everywhere),
        check_vma=False,
    )
    state, images = jax.device_put((state, images), NamedSharding(mesh, everywhere))
    return jax.jit(sharded, donate_argnums=0), state, images


def batches(count, size):
    """Indices of whole batches, epoch after epoch; every epoch is shuffled anew."""
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(count).astype(np.int32)
        yield from order[:count // size * size].reshape(-1, size)


def main():
    images = read_images(args.data_dir / "train-images-idx3-ubyte")
    global_batch = args.batch_size * args.devices
    indices = batches(len(images), global_batch)
    run, state, images = compiled(initial_state(), images)
    key = jax.random.key(1)
    calls_done = 0

    def timed(calls):
        nonlocal state, calls_done
        begun = time.perf_counter()
        for _ in range(calls):
            calls_done += 1
            chunk = np.stack([next(indices) for _ in range(STEPS_PER_CALL)])
            state, loss = run(state, images, chunk, jax.random.fold_in(key, calls_done))
        return float(loss), time.perf_counter() - begun

    timed(2)  # Compiles, and warms up.
    _, trial_seconds = timed(1)
    calls = max(1, round(args.seconds / trial_seconds))
    loss, seconds = timed(calls)
    images_per_second = calls * STEPS_PER_CALL * global_batch / seconds
    found = {"images_per_second": images_per_second, "seconds": seconds, "loss": loss}
    print(json.dumps(found | {"version": jax.__version__}), flush=True)


if __name__ == "__main__":
    main()
