"""The adversarial pair: networks with a leading member axis, losses, and low-discrepancy noise.

M members are M independent GANs computed as one batch; a member's numbers depend on its own random generator alone, so
M batched members equal M single ones.  Nothing here knows problems, ranks or files.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, mse_loss, softplus

SLOPE = 0.2  # of the leaky rectifiers, as in the paper


class MemberMLP(nn.Module):
    """M perceptrons side by side: (member, item, n_inputs) -> (member, item, n_outputs).

    Parameters
    ----------
    widths : sequence of int
        Numbers of units, from the inputs to the outputs.
    generators : sequence of torch.Generator
        One per member; its initial weights come from it alone (Kaiming for hidden layers, Xavier for the output).
    """

    def __init__(self, widths, generators):
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        gain = math.sqrt(2 / (1 + SLOPE**2))
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            is_output = n_out is widths[-1]
            spread = math.sqrt(2 / (n_in + n_out)) if is_output else gain / math.sqrt(n_in)
            draws = [torch.randn((n_in, n_out), generator=generator) for generator in generators]
            self.weights.append(nn.Parameter(spread * torch.stack(draws)))
            self.biases.append(nn.Parameter(torch.zeros(len(generators), 1, n_out)))

    def forward(self, items: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            items = leaky_relu(torch.baddbmm(bias, items, weight), SLOPE)
        return torch.baddbmm(self.biases[-1], items, self.weights[-1])


def discriminator_loss(loss, real: Tensor, generated: Tensor) -> Tensor:
    """Loss of the discriminator, (member, event) scores of real and generated events -> (member,)."""
    if loss == "logistic":
        return softplus(-real).mean(-1) + softplus(generated).mean(-1)
    return (real.sigmoid() - 1).square().mean(-1) + generated.sigmoid().square().mean(-1)


def generator_loss(loss, generated: Tensor, weights: Tensor) -> Tensor:
    """Adversarial loss of the generator, (member, event) scores and event weights -> (member,)."""
    if loss == "logistic":
        return (weights * softplus(-generated)).mean(-1)
    return (weights * (generated.sigmoid() - 1).square()).mean(-1)


def stratified_noise(n_events, noise_dim, generator) -> Tensor:
    """Latin-hypercube uniforms: in each column every interval [k/n, (k+1)/n) holds one number: (event, noise_dim).

    The columns are shuffled independently, so any subset of events is a random one.
    """
    cells = torch.stack([torch.randperm(n_events, generator=generator) for _ in range(noise_dim)], dim=1)
    jitter = torch.rand((n_events, noise_dim), generator=generator)
    return ((cells + jitter) / n_events).clamp_(max=1 - 2**-24)
