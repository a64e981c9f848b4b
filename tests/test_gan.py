"""Networks with a member axis: M batched members equal M separate networks."""

import numpy as np
import pytest
import torch

from sagips_kit import Image, Proxy, RunSpec, Settings, Trainer
from sagips_kit.events.random_bits import N_BITS, RandomBits, normal, uniform, words
from sagips_kit.problems.noise import ShiftedNet, stratified_noise
from sagips_kit.training.networks import Discriminator, Generator, MemberConvolutions, MemberMLP, to_unit


def make_randoms(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make_generator(n_members=3):
    return Generator(4, (8, 8), 5, make_randoms(*range(n_members)))


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
def test_batched_members_equal_single_ones(hidden):
    widths = (3, *hidden, 2)
    items = torch.rand(4, 10, 3)
    together = MemberMLP(widths, make_randoms(5, 6, 7, 8))(items)
    for member, seed in enumerate((5, 6, 7, 8)):
        alone = MemberMLP(widths, make_randoms(seed))(items[member : member + 1])
        torch.testing.assert_close(together[member], alone[0])


def test_a_member_is_the_perceptron_that_torch_would_build():
    network, items = MemberMLP((3, 6, 2), make_randoms(1)), torch.rand(1, 10, 3)
    with torch.no_grad():
        network.biases[0].fill_(0.1)
        hidden = torch.nn.functional.leaky_relu(items[0] @ network.weights[0][0] + 0.1, 0.2)
        torch.testing.assert_close(network(items)[0], hidden @ network.weights[1][0])


@pytest.mark.parametrize(("channels", "image"), [((5,), (4, 4)), ((6, 3), (5, 7)), ((4, 4, 2), (10, 9))])
def test_batched_images_equal_single_ones(channels, image):
    items = torch.rand(3, 6, 4)
    together = MemberConvolutions(4, channels, image, make_randoms(5, 6, 7))(items)
    assert together.shape == (3, 6, image[0] * image[1])
    for member, seed in enumerate((5, 6, 7)):
        alone = MemberConvolutions(4, channels, image, make_randoms(seed))(items[member : member + 1])
        torch.testing.assert_close(together[member], alone[0])


def test_neighbouring_pixels_of_an_initial_image_are_similar():
    """An untrained generator therefore produces smooth images."""
    items = torch.randn(1, 200, 4)
    image = MemberConvolutions(4, (16, 16), (12, 12), make_randoms(0))(items).view(200, 12, 12)
    pixels = image - image.mean(0)
    near, far = ((pixels[:, :, :-k] * pixels[:, :, k:]).mean() / pixels.square().mean() for k in (1, 6))
    assert near > 2 * far.abs()


def test_an_image_is_trained_by_convolutions():
    problem = Image(n_pixels=3, n_observed=2000)
    settings = Settings(n_members=2, n_events=64, generator="convolution", generator_widths=(8,))
    trainer = Trainer(problem, settings, problem.observed(None, np.random.default_rng(0)), n_steps=20)
    before = [weight.clone() for weight in trainer.gan.generator.parameters()]
    assert trainer.run().theta.shape == (2, 9)
    for weight, old in zip(trainer.gan.generator.parameters(), before, strict=True):
        assert (weight != old).flatten(1).any(1).all(), "every member learns in every layer"


def test_convolutions_need_an_image():
    with pytest.raises(ValueError, match="the 6 parameters of Proxy should be pixels of an image.*image = .rows, colu"):
        RunSpec(problem=Proxy(), store="a.zarr", settings=Settings(generator="convolution"))
    with pytest.raises(ValueError, match="should name channels, such as"):
        Settings(generator="convolution", generator_widths=())


@pytest.mark.parametrize("image", [None, (1, 5)])
def test_members_do_not_affect_each_other(image):
    generator = Generator(4, (8, 8), 5, make_randoms(0, 1, 2), image)
    generator(torch.rand(3, 6, 4))[1].sum().backward()
    for parameter in generator.parameters():
        assert not parameter.grad[[0, 2]].any()
    assert generator.network.weights[0].grad[1].any()


def test_initial_weights_have_their_spread():
    network = MemberMLP((100, 200, 50), make_randoms(0), output_scale=0.1)
    assert network.weights[0].std().item() == pytest.approx(np.sqrt(2 / 1.04 / 100), rel=0.03)
    assert network.weights[1].std().item() == pytest.approx(0.1 * np.sqrt(2 / 250), rel=0.03)


def test_to_unit_is_in_the_unit_interval_and_like_a_logistic_function_in_its_middle():
    y = torch.linspace(-50, 50, 1001, dtype=torch.float64)
    assert to_unit(y).min() >= 0 and to_unit(y).max() <= 1
    middle = torch.zeros((), dtype=torch.float64)
    assert to_unit(middle) == 0.5 and torch.func.grad(to_unit)(middle) == 0.25


def test_generator_starts_near_the_middle():
    t = make_generator()(0.3 * torch.randn(3, 200, 4))
    assert t.shape == (3, 200, 5)
    assert (t - 0.5).abs().max() < 0.15


def test_turned_axes_keep_the_centre_and_whiten_the_information():
    generator = make_generator()
    with torch.no_grad():
        generator.network.biases[-1].normal_()
    roots = torch.randn(3, 5, 5)
    information = roots @ roots.mT
    for _ in range(2):
        centre, t = generator.centre(), generator(torch.zeros(3, 1, 4))
        generator.update_axes(information, damping=1e-3)
        torch.testing.assert_close(generator.centre(), centre)
        torch.testing.assert_close(generator(torch.zeros(3, 1, 4)), t)
        changes = generator.axes @ (information + 1e-3 * torch.eye(5)) @ generator.axes.mT
        torch.testing.assert_close(changes, torch.eye(5).repeat(3, 1, 1), rtol=0, atol=2e-3)
        information = 2 * information


def test_axes_are_finite_without_any_information():
    generator = make_generator()
    rounded = -1e-6 * torch.eye(5).repeat(3, 1, 1)
    generator.update_axes(rounded, damping=1e-9)
    assert generator.axes.isfinite().all()


def test_the_linear_map_of_a_discriminator_starts_at_zero_and_members_differ():
    discriminator = Discriminator(2, (8,), make_randoms(0, 1))
    events = torch.rand(1, 9, 2).repeat(2, 1, 1)
    scores = discriminator(events)
    assert scores.shape == (2, 9) and not torch.equal(scores[0], scores[1])
    torch.testing.assert_close(scores, discriminator.network(events)[..., 0])
    with torch.no_grad():
        discriminator.linear[1] = torch.tensor([[2.0], [3.0]])
    expected = events[1] @ torch.tensor([2.0, 3.0])
    torch.testing.assert_close(discriminator(events)[1] - scores[1], expected)


def test_bfloat16_products_change_scores_by_their_resolution():
    events = torch.randn(2, 200, 6)
    full, short = (Discriminator(6, (32, 32), make_randoms(3, 4), precision) for precision in ("full", "bfloat16"))
    difference = (short(events) - full(events)).abs().max().item()
    assert short(events).dtype == torch.float32
    assert 0 < difference < 0.02 * full(events).abs().max().item()


@pytest.mark.parametrize(("n_events", "noise_dim"), [(1, 1), (7, 3), (1024, 2)])
def test_noise_has_one_number_in_each_interval_of_each_column(n_events, noise_dim):
    noise = stratified_noise(n_events, noise_dim, *make_randoms(0))
    assert noise.shape == (n_events, noise_dim) and noise.min() >= 0 and noise.max() < 1
    edges = torch.arange(n_events + 1, dtype=torch.float64)[:, None] / n_events
    ordered = noise.sort(dim=0).values.double()
    # A number may be rounded to the edge of its interval.
    assert (ordered >= edges[:-1] - 1e-7).all() and (ordered <= edges[1:] + 1e-7).all()


def test_columns_of_noise_are_independent_and_any_part_is_random():
    noise = stratified_noise(20_000, 2, *make_randoms(0))
    assert abs(torch.corrcoef(noise.T)[0, 1]) < 0.03
    assert noise[:2000].mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    assert noise[:2000].std(0).tolist() == pytest.approx([12**-0.5] * 2, rel=0.05)


CPU = torch.device("cpu")


def test_random_bits_are_those_of_splitmix64():
    """The first numbers of the authors' reference program for the seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    whole = RandomBits([1234567, 5], 4, CPU)(torch.tensor(0))
    assert [number % 2**64 for number in whole[0].tolist()] == expected
    turns = RandomBits([1234567], 2, CPU)(torch.arange(2)[:, None, None])
    assert torch.equal(turns.flatten(), whole[0]) and not torch.equal(whole[0], whole[1])


def test_uniform_and_normal_numbers_have_their_moments():
    bits = words(RandomBits(range(3), 100_000, CPU)(torch.tensor(7)))
    u, x = uniform(bits), normal(bits)
    assert u.min() > 0 and u.max() < 1 and x.isfinite().all()
    torch.testing.assert_close(u.mean(1), torch.full((3,), 0.5), rtol=0, atol=0.005)
    torch.testing.assert_close(x.mean(1), torch.zeros(3), rtol=0, atol=0.015)
    torch.testing.assert_close(x.std(1), torch.ones(3), rtol=0, atol=0.015)
    assert torch.corrcoef(u).fill_diagonal_(0).abs().max() < 0.015
    ends = torch.tensor([0, 2**N_BITS - 1])
    assert uniform(ends)[0] > 0 and uniform(ends)[1] < 1 and normal(ends).isfinite().all()


def test_a_shifted_net_has_one_point_in_each_interval_of_each_column_and_set():
    net = ShiftedNet(4, 64, 3, N_BITS, CPU)
    shift = words(RandomBits([1, 2], 3, CPU)(torch.tensor(0))).to(torch.int32)
    noise = net(shift)
    assert noise.shape == (2, 4, 64, 3) and noise.min() > 0 and noise.max() < 1
    assert not torch.equal(noise[0], noise[1])
    for points in noise.flatten(0, 1):
        cells = (64 * points).long().sort(0).values
        assert torch.equal(cells, torch.arange(64)[:, None].expand(64, 3))
    # Shifts are random, so each point is uniform.
    many = torch.stack(
        [net(words(RandomBits([9], 3, CPU)(torch.tensor(k))).to(torch.int32))[0, 0, 0] for k in range(2000)]
    )
    torch.testing.assert_close(many.mean(0), torch.full((3,), 0.5), rtol=0, atol=0.03)
