"""The adversarial pair: networks with a leading member axis, and noise of low discrepancy.

M members are M independent GANs computed as one batch; a member's numbers depend on its own random generator alone, so
M batched members equal M single ones.  Nothing here knows problems, ranks or files.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, leaky_relu

SLOPE = 0.2  # of the leaky rectifiers, as in the paper
_HALFWAY = torch.tensor([0.25, 0.75, 0.75, 0.25])  # a transposed convolution that interpolates, doubling a side


class MemberMLP(nn.Module):
    """M perceptrons side by side: (member, item, n_inputs) -> (member, item, n_outputs).

    Parameters
    ----------
    widths : sequence of int
        Numbers of units, from the inputs to the outputs.
    randoms : sequence of torch.Generator
        One per member; its initial weights come from it alone (Kaiming for hidden layers, Xavier for the output).
    output_scale : float
        Factor on the output layer's initial weights.
    """

    def __init__(self, widths, randoms, output_scale=1.0):
        super().__init__()
        shapes = list(itertools.pairwise(widths))
        spreads = [math.sqrt(2 / (1 + SLOPE**2) / n_in) for n_in, _ in shapes]
        spreads[-1] = output_scale * math.sqrt(2 / sum(shapes[-1]))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for shape, spread in zip(shapes, spreads, strict=True):
            self.weights.append(_drawn(shape, spread, randoms))
            self.biases.append(torch.zeros(len(randoms), 1, shape[1]))

    def forward(self, items: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            items = leaky_relu(torch.baddbmm(bias, items, weight), SLOPE, inplace=True)
        return torch.baddbmm(self.biases[-1], items, self.weights[-1])


class MemberImages(nn.Module):
    """M convolutional generators of images side by side: (member, item, n_inputs) -> (member, item, row * column).

    A layer makes a coarse map of many channels; transposed convolutions double its sides, one after the other, and the
    last one leaves a single channel, whose middle is the image.  They begin as interpolations.

    Parameters
    ----------
    n_inputs : int
    channels : sequence of int
        Of the map before each doubling.
    image : (int, int)
        Rows and columns.
    randoms : sequence of torch.Generator
        One per member.
    output_scale : float
        Factor on the last convolution's initial weights.
    """

    def __init__(self, n_inputs, channels, image, randoms, output_scale=1.0):
        super().__init__()
        self._image, self._coarse = image, [-(-side // 2 ** len(channels)) for side in image]
        n_first, gain = channels[0] * math.prod(self._coarse), math.sqrt(2 / (1 + SLOPE**2))
        self.weights = nn.ParameterList([_drawn((n_inputs, n_first), gain / math.sqrt(n_inputs), randoms)])
        self.biases = nn.ParameterList([torch.zeros(len(randoms), 1, n_first)])
        for n_in, n_out in itertools.pairwise([*channels, 1]):
            spread = gain / math.sqrt(n_in) if n_out > 1 else output_scale * math.sqrt(2 / (n_in + n_out))
            self.weights.append(_drawn((n_in, n_out, 1, 1), spread, randoms) * _HALFWAY[:, None] * _HALFWAY)
            self.biases.append(torch.zeros(len(randoms), n_out))

    def forward(self, items: Tensor) -> Tensor:
        n_members, n_items, _ = items.shape
        maps = torch.baddbmm(self.biases[0], items, self.weights[0])
        # Convolutions have no axis for members, but groups of channels.
        maps = maps.transpose(0, 1).reshape(n_items, -1, *self._coarse)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            maps = leaky_relu(maps, SLOPE)
            maps = conv_transpose2d(maps, weight.flatten(0, 1), bias.flatten(), stride=2, padding=1, groups=n_members)
        for axis, side in zip((2, 3), self._image, strict=True):
            maps = maps.narrow(axis, (maps.shape[axis] - side) // 2, side)
        return maps.flatten(2).transpose(0, 1)


class Generator(nn.Module):
    """Networks whose outputs are steps along the natural axes of the parameters.

    The perceptron's outputs w become y = origin + w @ axes, and y becomes t in [0, 1] through the sine that MINUIT uses
    for bounded parameters: it has no flat tails in which a generator could get lost.  With the axes set to an inverse
    root of the Fisher information, a unit step along any of them changes the events by the same amount; without that,
    the directions that events determine worst would take thousands of times longer than the best.

    Parameters
    ----------
    latent_dim, n_parameters : int
    widths : sequence of int
        Hidden layers; channels of the maps, if `image` is given.
    randoms : sequence of torch.Generator
        One per member.
    image : (int, int) or None
        Rows and columns of the parameters, for networks of convolutions.
    has_axes : bool
        Without, outputs are steps along the parameters themselves, and there is no matrix of all pairs of them.
    """

    def __init__(self, latent_dim, widths, n_parameters, randoms, image=None, has_axes=True):
        super().__init__()
        # Members start near the middle of the ranges, spread by a tenth of them.
        if image is None:
            self.network = MemberMLP((latent_dim, *widths, n_parameters), randoms, output_scale=0.1)
        else:
            self.network = MemberImages(latent_dim, widths, image, randoms, output_scale=0.1)
        n_members = len(randoms)
        self.register_buffer("origin", torch.zeros(n_members, 1, n_parameters) if has_axes else None)
        self.register_buffer("axes", torch.eye(n_parameters).repeat(n_members, 1, 1) if has_axes else None)

    def forward(self, latent: Tensor) -> Tensor:
        """(member, set, latent_dim) -> t (member, set, parameter) in [0, 1]."""
        steps = self.network(latent)
        return to_unit(steps if self.axes is None else torch.baddbmm(self.origin, steps, self.axes))

    @torch.no_grad()
    def centre(self):
        """The point y (member, parameter) that the latent origin is mapped to; the same on ranks of one replica."""
        return torch.baddbmm(self.origin, self._centre_outputs(), self.axes)[:, 0]

    @torch.no_grad()
    def turn_axes(self, information: Tensor, damping: float):
        """Make the axes those of `information` + damping (member, parameter, parameter), keeping the centre."""
        centre = self.centre()[:, None]
        # Where the information is not finite, nothing is known: the axes stay.
        is_known = information.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        values, vectors = torch.linalg.eigh(information.double().where(is_known, 0.0))
        root = (vectors * (values.clamp(min=0) + damping).rsqrt()[:, None]) @ vectors.mT
        self.axes.copy_(root.to(self.axes).where(is_known, self.axes))
        self.origin.copy_(centre - torch.bmm(self._centre_outputs(), self.axes))

    def _centre_outputs(self):
        network = self.network
        return network(self.origin.new_zeros(len(self.origin), 1, network.weights[0].shape[1]))


def _drawn(shape, spread, randoms):
    """Initial weights of all members, (member, *shape)."""
    return spread * torch.stack([torch.randn(shape, generator=random) for random in randoms])


def to_unit(y: Tensor) -> Tensor:
    """Unbounded y -> t in [0, 1], t = 1/2 at y = 0 with slope 1/4, as a logistic function has."""
    return 0.5 + 0.5 * torch.sin(0.5 * y)


class Discriminator(nn.Module):
    """Scores of events: a perceptron beside a linear map, both of whitened features.

    Near the solution the best score is the log-ratio of two almost equal densities, a nearly linear function of good
    features; the linear map finds that within few steps and the perceptron adds the rest.

    Parameters
    ----------
    n_features : int
    widths : sequence of int
        Hidden layers of the perceptron.
    randoms : sequence of torch.Generator
        One per member.
    precision : {"full", "bfloat16"}
        Of the perceptron's products; weights, the linear map and all sums over events stay in float32.

    Attributes
    ----------
    spread : Tensor (member,)
        Mean square of the scores of the events that were generated last; infinite before there are any.
    """

    def __init__(self, n_features, widths, randoms, precision="full"):
        super().__init__()
        self.network = MemberMLP((n_features, *widths, 1), randoms)
        self.linear = nn.Parameter(torch.zeros(len(randoms), n_features, 1))
        self.register_buffer("spread", torch.full((len(randoms),), math.inf))
        self.n_widest = max((n_features, *widths))
        self._is_short = precision == "bfloat16"

    def forward(self, whitened: Tensor) -> Tensor:
        """(member, event, feature) -> (member, event)."""
        with torch.autocast(whitened.device.type, torch.bfloat16, enabled=self._is_short):
            nonlinear = self.network(whitened)
        return (nonlinear.float() + torch.bmm(whitened, self.linear))[..., 0]
