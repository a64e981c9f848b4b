"""Many gradients as one buffer, and back."""

import pytest
import torch

from sagips_kit import FlatGradient


def make_parameters(*shapes, dtype=torch.float32):
    """Leaf tensors whose gradients differ for each tensor and element."""
    parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for k, parameter in enumerate(parameters):
        parameter.grad = (1000.0 * (k + 1) + torch.arange(parameter.numel(), dtype=dtype)).view(parameter.shape)
    return parameters


def test_rows_of_the_buffer_are_members():
    parameters = make_parameters((2, 3, 4), (2, 1, 4), (2, 5))
    buffer = FlatGradient(parameters, n_members=2).pack()
    assert buffer.shape == (2, 21) and buffer.is_contiguous()
    for member in range(2):
        torch.testing.assert_close(buffer[member], torch.cat([p.grad[member].flatten() for p in parameters]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_members", [None, 1, 3])
def test_round_trip(n_members, dtype):
    n = n_members or 7
    parameters = make_parameters((n, 3, 4), (n,), (n, 5), dtype=dtype)
    expected = [2 * parameter.grad for parameter in parameters]
    flat = FlatGradient(parameters, n_members)
    flat.pack().mul_(2)
    flat.unpack()
    assert flat.buffer.dtype == dtype
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_ordinary_module_needs_no_member_axis():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    network(torch.ones(5, 3)).sum().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert torch.equal(FlatGradient(network.parameters()).pack()[0], expected)


def test_missing_gradient_counts_as_zero_and_gets_the_mean():
    there, missing = make_parameters((2, 2), (2, 3))
    missing.grad = None
    flat = FlatGradient([there, missing], n_members=2)
    flat.buffer.fill_(5.0)
    assert not flat.pack()[:, 2:].any()
    flat.buffer[:, 2:] = 7.0
    flat.unpack()
    assert torch.equal(missing.grad, torch.full((2, 3), 7.0))
    flat.buffer.zero_()
    assert missing.grad.all(), "the gradient must not be the buffer's memory"


def test_the_buffer_stays_where_it_is():
    flat = FlatGradient(make_parameters((2, 3)), n_members=2)
    address = flat.buffer.data_ptr()
    assert flat.pack().data_ptr() == flat.pack().data_ptr() == address


def test_nothing_to_flatten_is_an_error():
    with pytest.raises(ValueError, match=r"got no parameters. Pass tensors, for instance generator.parameters\(\)"):
        FlatGradient([])


@pytest.mark.parametrize("shape", [(4, 6), ()])
def test_wrong_number_of_members_is_an_error(shape):
    with pytest.raises(ValueError, match="whose first axis is not 3 members long. .* pass n_members=None"):
        FlatGradient(make_parameters((3, 2), shape), n_members=3)
