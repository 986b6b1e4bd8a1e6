"""PyTorch trains the same model on one device, as requested by lines on standard input.

modes
  eager     separate kernels, fused Adam
  compiled  model and loss by torch.compile(mode="reduce-overhead"), fused Adam
  graph     the whole step, fused capturable Adam included, in one CUDA graph

A line is "BATCH SECONDS". The answer is one line of JSON: images a second in steady state, and the last
loss. The first answer for a batch size takes longer, because of compilation. Indices are drawn and images
are gathered on the device. A CPU only serves to test this script: no graph is captured there, and no code
is compiled to machine code.
"""

import argparse
import json
import struct
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

PIXELS, HIDDEN, LATENT = 784, 400, 20
# For a GPU; on a CPU both numbers are STEPS_ON_CPU.
WARM_UP_STEPS, TRIAL_STEPS = 20, 40
STEPS_ON_CPU = 3


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
        """The negative evidence lower bound, a mean over the images."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        return (reconstruction + kl) / len(x)


class Training:
    """A model, and steps of one batch size; `step` trains on the images at the cursor."""

    def __init__(self, images, batch, mode):
        self.images, self.batch, device = images, batch, images.device
        self.order = torch.empty(len(images), dtype=torch.int64, device=device)
        self.cursor = torch.zeros((), dtype=torch.int64, device=device)
        self.offsets = torch.arange(batch, device=device)
        self.position = len(images)
        self.on_gpu = device.type == "cuda"
        self.model = Vae().to(device)
        captured = mode == "graph" and self.on_gpu
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=1e-3, fused=True, capturable=captured)
        self.loss_of = self.model
        if mode == "compiled":
            how = {"mode": "reduce-overhead"} if self.on_gpu else {"backend": "eager"}
            self.loss_of = torch.compile(self.model, dynamic=False, **how)
        self.loss = None
        self.step = self.capture() if captured else self.plain

    def plain(self):
        torch.compiler.cudagraph_mark_step_begin()  # The loss of the previous step is not needed.
        index = self.order[self.cursor + self.offsets]
        self.cursor += self.batch
        x = self.images[index].float().div_(255)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = self.loss_of(x)
        self.loss.backward()
        self.optimizer.step()

    def capture(self):
        """The step as one graph, recorded after a few warm-up steps on a separate stream."""
        self.shuffle()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.plain()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.plain()
        self.position = len(self.images)
        return graph.replay

    def shuffle(self):
        self.order.copy_(torch.randperm(len(self.images), device=self.images.device))
        self.cursor.zero_()
        self.position = 0

    def timed(self, steps):
        if self.on_gpu:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(steps):
            if self.position + self.batch > len(self.images):
                self.shuffle()
            self.step()
            self.position += self.batch
        loss = self.loss.item()
        return time.perf_counter() - begun, loss


def read_images(path):
    raw = bytearray(path.read_bytes())
    _, count, rows, columns = struct.unpack(">4I", raw[:16])
    return torch.frombuffer(raw, dtype=torch.uint8, offset=16).view(count, rows * columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--mode", choices=["eager", "compiled", "graph"], required=True)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()

    torch.manual_seed(0)
    on_gpu = args.device == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)
    warm_up, trial_steps = (WARM_UP_STEPS, TRIAL_STEPS) if on_gpu else (STEPS_ON_CPU, STEPS_ON_CPU)
    images = read_images(args.data_dir / "train-images-idx3-ubyte").to(args.device)
    trainings = {}
    for line in sys.stdin:
        words = line.split()
        batch, seconds = int(words[0]), float(words[1])
        if batch not in trainings:
            trainings[batch] = Training(images, batch, args.mode)
            trainings[batch].timed(warm_up)
        training = trainings[batch]
        trial, _ = training.timed(trial_steps)
        steps = max(1, round(trial_steps * seconds / trial))
        took, loss = training.timed(steps)
        found = {"images_per_second": steps * batch / took, "seconds": took, "loss": loss}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
