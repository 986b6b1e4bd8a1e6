"""Writes reference.safetensors: the losses, gradients and parameters of a small VAE in PyTorch.

The test `crates/vae/tests/reference.rs` compares the hand-written model with this file. To make the
file again, run `python3 make_reference.py` with torch 2.11 and safetensors.

So that the file stays small, only every SAMPLE_STRIDE-th element of a tensor with more than
SAMPLE_FROM elements is kept, and the norm of the whole gradient. The initial parameters are complete.
"""

import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

PIXELS, HIDDEN, LATENT, IMAGES, STEPS = 784, 16, 4, 6, 3
LEARNING_RATE = 1e-3
SAMPLE_FROM, SAMPLE_STRIDE = 1000, 29


class Vae(nn.Module):
    def __init__(self, likelihood):
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
        if likelihood == "gaussian":
            self.log_variance = nn.Parameter(torch.tensor([-0.5]))

    def terms(self, x, noise, beta):
        """Loss, reconstruction and KL (without beta), summed over pixels and latents,
        averaged over images."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        output = self.decoder(mean + (0.5 * log_variance).exp() * noise)
        if hasattr(self, "log_variance"):
            density = torch.distributions.Normal(output, (0.5 * self.log_variance).exp())
            reconstruction = -density.log_prob(x).sum()
        else:
            reconstruction = binary_cross_entropy_with_logits(output, x, reduction="sum")
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return torch.stack([reconstruction + beta * kl, reconstruction, kl]) / len(x)


def sampled(tensor):
    flat = tensor.detach().flatten().clone()
    return flat[::SAMPLE_STRIDE].clone() if flat.numel() > SAMPLE_FROM else flat


def make_case(case, likelihood, beta, initial, pixels, noise, out):
    model = Vae(likelihood)
    model.load_state_dict(initial, strict=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    x = pixels.float() / 255
    for step in range(STEPS):
        optimizer.zero_grad()
        terms = model.terms(x, noise[step], beta)
        terms[0].backward()
        out[f"{case}.terms.{step + 1}"] = terms.detach().double()
        if step == 0:
            for name, parameter in model.named_parameters():
                out[f"{case}.gradient.{name}"] = sampled(parameter.grad)
                out[f"{case}.gradient_norm.{name}"] = parameter.grad.double().norm().reshape(1)
        optimizer.step()
        if step in (0, STEPS - 1):
            for name, parameter in model.named_parameters():
                out[f"{case}.after_{step + 1}.{name}"] = sampled(parameter)


def main():
    torch.manual_seed(2014)
    torch.set_num_threads(1)
    initial = {name: value.clone() for name, value in Vae("gaussian").state_dict().items()}
    grey = torch.randint(1, 256, (IMAGES, PIXELS), dtype=torch.uint8)
    pixels = grey * (torch.rand(IMAGES, PIXELS) < 0.25)
    noise = torch.randn(STEPS, IMAGES, LATENT)
    out = {"pixels": pixels, "noise": noise}
    out |= {f"initial.{name}": value for name, value in initial.items()}
    for likelihood in ("bernoulli", "gaussian"):
        for beta in (1.0, 0.5):
            make_case(f"{likelihood}.{beta}", likelihood, beta, initial, pixels, noise, out)
    path = pathlib.Path(__file__).with_name("reference.safetensors")
    save_file(out, path, metadata={"torch": torch.__version__.split("+")[0]})


if __name__ == "__main__":
    main()
