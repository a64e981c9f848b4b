"""The generator and discriminator networks, with a leading axis of members.

M members are M independent GANs computed as one batch.  A member's numbers depend on its own random generator alone, so
M batched members equal M single ones.  Problems, ranks and files do not belong here.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, leaky_relu

SLOPE = 0.2  # of the leaky rectifiers, as in the paper
_INTERPOLATION = torch.tensor([0.25, 0.75, 0.75, 0.25])  # kernel that doubles the side of an image and interpolates


class MemberMLP(nn.Module):
    """M perceptrons side by side: (member, item, n_inputs) -> (member, item, n_outputs).

    Parameters
    ----------
    widths : sequence of int
        Numbers of units, from the inputs to the outputs.
    randoms : list of torch.Generator
        One for each member, for its initial weights (Kaiming for hidden layers, Xavier for the output).
    output_scale : float
        Factor on the initial weights of the output layer.
    """

    def __init__(self, widths: Sequence[int], randoms: list[torch.Generator], output_scale: float = 1.0):
        super().__init__()
        shapes = list(itertools.pairwise(widths))
        spreads = [math.sqrt(2 / (1 + SLOPE**2) / n_in) for n_in, _ in shapes]
        spreads[-1] = output_scale * math.sqrt(2 / sum(shapes[-1]))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for shape, spread in zip(shapes, spreads, strict=True):
            self.weights.append(_initial_weights(shape, spread, randoms))
            self.biases.append(torch.zeros(len(randoms), 1, shape[1]))

    def forward(self, items: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            items = leaky_relu(torch.baddbmm(bias, items, weight), SLOPE, inplace=True)
        return torch.baddbmm(self.biases[-1], items, self.weights[-1])


class MemberConvolutions(nn.Module):
    """M convolutional generators of images side by side: (member, item, n_inputs) -> (member, item, row * column).

    A linear layer makes a coarse map of many channels.  Each transposed convolution doubles its sides; the last one
    leaves a single channel, whose centre is the image.  With their initial weights, the convolutions interpolate.

    Parameters
    ----------
    n_inputs : int
        Dimension of the input.
    channels : sequence of int
        Number of channels before each doubling.
    image : (int, int)
        Rows and columns of the image.
    randoms : list of torch.Generator
        One for each member, for its initial weights.
    output_scale : float
        Factor on the initial weights of the last convolution.
    """

    def __init__(
        self,
        n_inputs: int,
        channels: Sequence[int],
        image: tuple[int, int],
        randoms: list[torch.Generator],
        output_scale: float = 1.0,
    ):
        super().__init__()
        self._image, self._coarse = image, [-(-side // 2 ** len(channels)) for side in image]
        n_first, gain = channels[0] * math.prod(self._coarse), math.sqrt(2 / (1 + SLOPE**2))
        self.weights = nn.ParameterList([_initial_weights((n_inputs, n_first), gain / math.sqrt(n_inputs), randoms)])
        self.biases = nn.ParameterList([torch.zeros(len(randoms), 1, n_first)])
        kernel = _INTERPOLATION[:, None], _INTERPOLATION
        for n_in, n_out in itertools.pairwise([*channels, 1]):
            spread = gain / math.sqrt(n_in) if n_out > 1 else output_scale * math.sqrt(2 / (n_in + n_out))
            self.weights.append(_initial_weights((n_in, n_out, 1, 1), spread, randoms) * kernel[0] * kernel[1])
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

    The network's outputs w become y = origin + w @ axes, and y becomes t in [0, 1] by the sine with which MINUIT bounds
    parameters: it has no flat tails in which a generator could get stuck.  For periodic parameters t is a linear
    function of y, and the problem's `scale` takes it to the range by whole periods.  The axes are an inverse square
    root of the Fisher information, so a unit step along any of them changes the events by the same amount.  Without
    them, the directions that events determine worst would take thousands of times longer to learn than the best.

    Parameters
    ----------
    latent_dim : int
        Dimension of the input.
    widths : sequence of int
        Hidden layers of the perceptron; channels of the convolutions if `image` is given.
    n_parameters : int
        Number of the problem's parameters.
    randoms : list of torch.Generator
        One for each member, for its initial weights.
    image : (int, int) or None
        Rows and columns of the parameters, for convolutional networks.
    has_axes : bool
        If False, outputs are steps along the parameters themselves, and no matrix of all pairs of them is stored.
    is_periodic : Tensor (parameter,) of bool or None
        Which parameters are periodic; None if none is.

    Attributes
    ----------
    origin : Tensor (member, 1, parameter)
        The point y from which steps are taken; only with axes.
    axes : Tensor (member, parameter, parameter)
        The natural axes, as rows; only with axes.
    """

    origin: Tensor
    axes: Tensor

    def __init__(
        self,
        latent_dim: int,
        widths: Sequence[int],
        n_parameters: int,
        randoms: list[torch.Generator],
        image: tuple[int, int] | None = None,
        has_axes: bool = True,
        is_periodic: Tensor | None = None,
    ):
        super().__init__()
        # Members start near the middle of the ranges, spread by a tenth of them.
        if image is None:
            self.network = MemberMLP((latent_dim, *widths, n_parameters), randoms, output_scale=0.1)
        else:
            self.network = MemberConvolutions(latent_dim, widths, image, randoms, output_scale=0.1)
        self.has_axes = has_axes
        self.is_periodic = is_periodic  # no buffer, since buffers are exchanged with the weights
        if has_axes:
            n_members = len(randoms)
            self.register_buffer("origin", torch.zeros(n_members, 1, n_parameters))
            self.register_buffer("axes", torch.eye(n_parameters).repeat(n_members, 1, 1))

    def forward(self, latent: Tensor) -> Tensor:
        """(member, set, latent_dim) -> t (member, set, parameter), in [0, 1] unless the parameter is periodic."""
        steps = self.network(latent)
        return to_unit(torch.baddbmm(self.origin, steps, self.axes) if self.has_axes else steps, self.is_periodic)

    @torch.no_grad()
    def start_at(self, t: Tensor) -> None:
        """Begin around the values t (member, parameter) of periodic parameters; only with axes."""
        assert self.is_periodic is not None
        self.origin[:, 0, self.is_periodic] = from_unit(t.to(self.origin), self.is_periodic)[:, self.is_periodic]

    @torch.no_grad()
    def begin_at(self, t: Tensor) -> None:
        """Begin at exactly the values t (member, parameter), fractions of the ranges, whatever the input."""
        y, network = from_unit(t.double(), self.is_periodic), self.network
        network.weights[-1].zero_()
        if self.has_axes:
            network.biases[-1].zero_()
            self.origin[:, 0] = y.to(self.origin)
        else:
            network.biases[-1].copy_(y[:, None])

    def slopes(self, t: Tensor) -> Tensor:
        """Derivatives dt/dy at t, both (member, parameter)."""
        slopes = 0.5 * (t * (1 - t)).clamp(min=0).sqrt()
        return slopes if self.is_periodic is None else torch.where(self.is_periodic.to(t.device), 0.25, slopes)

    @torch.no_grad()
    def centre(self) -> Tensor:
        """The point y (member, parameter) that the latent origin is mapped to; the same on all ranks of a replica."""
        return torch.baddbmm(self.origin, self._centre_outputs(), self.axes)[:, 0]

    def unit_centre(self) -> Tensor:
        """The same as t (member, parameter), in [0, 1] unless the parameter is periodic."""
        return to_unit(self.centre(), self.is_periodic)

    @torch.no_grad()
    def update_axes(self, information: Tensor, damping: float, stride: Tensor | None = None) -> None:
        """Make the axes those of `information` + damping (member, parameter, parameter), keeping the centre.

        With a stride (member,), they are so many times longer.
        """
        # In double precision on the CPU, which all accelerators would have to wait for.
        centre, information = self.centre()[:, None], information.cpu().double()
        # Information that is not finite says nothing; the axes of that member stay.
        is_known = information.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        values, vectors = torch.linalg.eigh(information.where(is_known, 0.0))
        root = (vectors * (values.clamp(min=0) + damping).rsqrt()[:, None]) @ vectors.mT
        if stride is not None:
            root = stride.to(root)[:, None, None] * root
        self.axes.copy_(root.to(self.axes).where(is_known.to(self.axes.device), self.axes))
        self.origin.copy_(centre - torch.bmm(self._centre_outputs(), self.axes))

    def _centre_outputs(self):
        network = self.network
        return network(self.origin.new_zeros(len(self.origin), 1, network.weights[0].shape[1]))


def _initial_weights(shape, spread, randoms):
    """Normal weights of all members, Tensor (member, *shape)."""
    return spread * torch.stack([torch.randn(shape, generator=random) for random in randoms])


def to_unit(y: Tensor, is_periodic: Tensor | None = None) -> Tensor:
    """Unbounded y -> t in [0, 1], unbounded if periodic; t = 1/2 at y = 0 with slope 1/4, like a logistic function."""
    t = 0.5 + 0.5 * torch.sin(0.5 * y)
    return t if is_periodic is None else torch.where(is_periodic.to(y.device), 0.5 + 0.25 * y, t)


def from_unit(t: Tensor, is_periodic: Tensor | None = None) -> Tensor:
    """The y nearest to 0 that `to_unit` maps to t."""
    y = 2 * torch.asin((2 * t - 1).clamp(-1, 1))
    return y if is_periodic is None else torch.where(is_periodic.to(t.device), 4 * (t - 0.5), y)


class Discriminator(nn.Module):
    """Scores of events: the sum of a perceptron and a linear map, both of whitened features.

    Near the solution the best score is the logarithm of the ratio of two almost equal densities, which is a nearly
    linear function of good features.  The linear map learns that within few steps, and the perceptron adds the rest.

    Parameters
    ----------
    n_features : int
        Number of features of an event.
    widths : sequence of int
        Hidden layers of the perceptron.
    randoms : list of torch.Generator
        One for each member, for its initial weights.
    precision : {"full", "bfloat16"}
        Floating-point precision of the perceptron's matrix products.  Weights, the linear map and all sums over events
        are float32 in any case.

    Attributes
    ----------
    spread : Tensor (member,)
        Mean square of the scores of the last generated events; infinite before the first.
    n_widest : int
        Width of the widest layer.
    """

    spread: Tensor

    def __init__(self, n_features: int, widths: Sequence[int], randoms: list[torch.Generator], precision: str = "full"):
        super().__init__()
        self.network = MemberMLP((n_features, *widths, 1), randoms)
        self.linear = nn.Parameter(torch.zeros(len(randoms), n_features, 1))
        self.register_buffer("spread", torch.full((len(randoms),), math.inf))
        self.n_widest = max((n_features, *widths))
        self._is_short = precision == "bfloat16"

    def forward(self, whitened: Tensor) -> Tensor:
        """Scores of whitened features: (member, event, feature) -> (member, event)."""
        if self._is_short:
            with torch.autocast(whitened.device.type, torch.bfloat16):
                nonlinear = self.network(whitened)
        else:
            nonlinear = self.network(whitened)
        return torch.baddbmm(nonlinear.to(whitened.dtype), whitened, self.linear).squeeze(-1)
