"""The published recipe (arXiv 2407.00051), reimplemented with its networks, losses, learning rates and batches.

Each rank trains one GAN on a random half of the data; the generators share their gradients around a ring.  This is a
plain loop that uses only the kit's exchange, and serves as a reference.
"""

import itertools

import numpy as np
import torch
from torch import nn

from sagips_kit import FlatGradient, Ring

N_SETS, N_EVENTS = 1024, 100
GENERATOR_RATE, DISCRIMINATOR_RATE, BETAS = 1e-5, 1e-4, (0.5, 0.999)
_WIDTH, _DEPTH, _SLOPE = 128, 4, 0.2
_NORM_UNIT = 1e-3  # unit of the relative deviations of the norms in the proxy's constraints


def perceptron(n_in, n_out):
    """A perceptron: hidden layers initialised after Kaiming, the last one after Xavier, all biases normal."""
    widths = [n_in] + _DEPTH * [_WIDTH]
    layers = []
    for one, other in itertools.pairwise(widths):
        layers += [nn.Linear(one, other), nn.LeakyReLU(_SLOPE)]
        nn.init.kaiming_normal_(layers[-2].weight, _SLOPE)
    layers.append(nn.Linear(_WIDTH, n_out))
    nn.init.xavier_normal_(layers[-1].weight)
    for layer in layers[::2]:
        nn.init.normal_(layer.bias)
    return nn.Sequential(*layers)


def train(problem, events, world, n_steps, seed):
    """Train for `n_steps` steps, and return the mean of the generator's output, (parameter,).  Collective."""
    n_parameters = len(problem.parameters)
    torch.manual_seed(seed)
    generator = perceptron(n_parameters, n_parameters)
    torch.manual_seed(1000 * seed + world.rank + 1)
    discriminator = perceptron(len(problem.observables), 1)
    optimisers = [
        torch.optim.Adam(generator.parameters(), GENERATOR_RATE, BETAS),
        torch.optim.Adam(discriminator.parameters(), DISCRIMINATOR_RATE, BETAS),
    ]
    half = np.random.default_rng([seed, world.rank]).permutation(len(events))[: len(events) // 2]
    data = torch.tensor(events[half], dtype=torch.float32)
    flat = FlatGradient(generator.parameters())
    with Ring().open(world, flat.buffer) as channel:
        for step in range(n_steps):
            theta, generated = generate(problem, generator)
            real = data[torch.randint(len(data), (N_SETS * N_EVENTS,))]
            update_discriminator(discriminator, optimisers[1], real, generated.detach())
            loss = (discriminator(generated).sigmoid() - 1).square().mean() + norm_loss(problem, theta)
            optimisers[0].zero_grad()
            loss.backward(inputs=list(generator.parameters()))
            channel.mix_(flat.pack(), step)
            flat.unpack()
            optimisers[0].step()
    with torch.no_grad():
        return generate(problem, generator)[0].mean(0).double().numpy()


def generate(problem, generator):
    """Draw parameter sets (set, parameter) and all their events (event, observable)."""
    latent = torch.randn(N_SETS, len(problem.parameters))
    theta = problem.scale(generator(latent).sigmoid())
    noise = torch.rand(N_SETS, N_EVENTS, problem.noise_dim)
    return theta, torch.vmap(problem.simulate)(theta, noise).flatten(0, 1)


def update_discriminator(discriminator, optimiser, real, generated):
    loss = (discriminator(real).sigmoid() - 1).square().mean() + discriminator(generated).sigmoid().square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def norm_loss(problem, theta):
    """Mean square of the relative deviations of the two norms."""
    residuals = torch.vmap(lambda one: problem.constraints(one, None))(theta)
    return (_NORM_UNIT * residuals).square().mean()
