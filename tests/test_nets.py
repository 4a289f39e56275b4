"""The time-conditioned networks: sizes, what reaches the output, and what bad input is told."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from ddpm_helpers import (
    BasicUNet,
    LayerNormUNet,
    SimpleUNet,
    UNet,
    VelocityNet,
    append_time,
    cosine_schedule,
    count_parameters,
    film,
    group_norm,
    linear_schedule,
    multiply_adds,
    predict_x0,
    q_sample,
    sinusoidal_embedding,
)
from ddpm_helpers.nets import ResidualBlock, SelfAttention

T = 1000


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def awake(net):
    """The net with its zero-initialised convolutions (weight and bias) made random, so that everything has a say."""
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            module.reset_parameters()
    return net.eval()


NETS = {
    "BasicUNet": BasicUNet,
    "SimpleUNet": lambda channels=1: SimpleUNet(T, channels),
    "LayerNormUNet": lambda channels=1: LayerNormUNet(T, channels),
    "UNet": lambda channels=1: awake(UNet(channels)),
}
each_net = pytest.mark.parametrize("name", NETS)


# parts


def test_sinusoidal_embedding():
    steps, dim = [1, 2, 50, 1000], 6
    waves = [[t / 10_000 ** (2 * i / dim) for i in range(dim // 2)] for t in steps]
    by_hand = [[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in waves]
    torch.testing.assert_close(sinusoidal_embedding(torch.tensor(steps), dim), torch.tensor(by_hand), rtol=0, atol=1e-4)
    assert sinusoidal_embedding(torch.tensor([3]), 4, max_period=100)[0, 1].item() == pytest.approx(math.sin(3 / 10))
    table = sinusoidal_embedding(torch.arange(1, T + 1), 100)
    assert (torch.cdist(table, table) + 10 * torch.eye(T)).min() > 0.5, "tells every step apart"


def test_append_time_and_film_by_hand():
    x, t = torch.randn(3, 2, 4, 5), torch.tensor([1, 10, 20])
    longer = append_time(x, t, 20)
    assert torch.equal(longer[:, :2], x)
    assert longer[:, 2].flatten(1).unique(dim=1).tolist() == [[pytest.approx(0.05)], [0.5], [1.0]]
    assert append_time(x.double(), t, 20).dtype == torch.float64
    scale, shift = torch.randn(2, 3, 2)
    h = film(x, scale, shift)
    for b in range(3):
        for c in range(2):
            torch.testing.assert_close(h[b, c], x[b, c] * (1 + scale[b, c]) + shift[b, c])


def test_group_norm_equals_pytorchs():
    x = 3 * torch.randn(5, 12, 3, 4) + 2
    for groups in (1, 4, 12):
        torch.testing.assert_close(group_norm(x, groups), F.group_norm(x, groups))


def test_attention_by_hand():
    attention, x = SelfAttention(16, heads=2), torch.randn(1, 16, 3, 5)
    assert torch.equal(attention(x), x), "starts at zero"
    q, k, v = awake(attention).qkv(attention.norm(x))[0].flatten(1).chunk(3)  # (16, 15) each
    heads = []
    for i in (slice(0, 8), slice(8, 16)):
        look = (q[i].T @ k[i] / 8**0.5).softmax(dim=1)  # (15, 15): row = the pixel that looks
        heads.append((look @ v[i].T).T)
    by_hand = x + attention.out(torch.cat(heads).reshape(1, 16, 3, 5))
    torch.testing.assert_close(attention(x), by_hand)


def test_the_shortcut_answers_to_its_older_name():
    for block in (ResidualBlock(8, 16, known=6), ResidualBlock(8, 8, known=6)):
        assert block.wire is block.shortcut
        assert not any("wire" in name for name in block.state_dict())


@pytest.mark.parametrize("schedule", [linear_schedule(T), cosine_schedule(T)], ids=["linear", "cosine"])
@pytest.mark.parametrize("t", [[1, 2, 300, 700, 900], [1000, 999, 990, 950, 500]])
def test_the_true_velocity_gives_the_true_noise_and_image(schedule, t):
    t, x0, noise = torch.tensor(t), 2 * torch.rand(5, 2, 4, 6) - 1, torch.randn(5, 2, 4, 6)
    signal, sigma = schedule.sqrt_alpha_bar[t].reshape(-1, 1, 1, 1), schedule.sigma[t].reshape(-1, 1, 1, 1)
    x_t = q_sample(schedule, x0, t, noise)
    eps = VelocityNet(lambda x, t: signal * noise - sigma * x0, schedule)(x_t, t)
    torch.testing.assert_close(eps, noise, rtol=0, atol=1e-6)
    # At t = T of the cosine schedule sqrt(alpha_bar) is 5e-5: rounding in eps is divided by it, and stays small.
    torch.testing.assert_close(predict_x0(schedule, x_t, t, eps), x0, rtol=0, atol=1e-2)


# sizes


def test_numbers_of_parameters_and_of_classes():
    assert count_parameters(BasicUNet()) == 309_057
    assert count_parameters(SimpleUNet(300)) == 391_297
    published = LayerNormUNet(T=1000, input_norm=True)
    assert sum(p.numel() for p in published.parameters()) == 606_852
    assert count_parameters(published) == 506_852, "the table of 1000 rows of 100 is frozen"
    assert count_parameters(LayerNormUNet(T=1000)) == 506_852 - 2 * 28 * 28, "repaired: without the norm of the image"
    assert count_parameters(UNet()) == 1_732_865
    for net, classes in ((UNet(base=8, classes=7), 7), (UNet(base=8), None), (BasicUNet(), None)):
        assert VelocityNet(net, cosine_schedule(T)).classes == classes


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (BasicUNet(), (2, 1, 28, 28)),
        (BasicUNet(channels=3), (2, 3, 32, 20)),
        (SimpleUNet(T), (2, 1, 28, 28)),
        (SimpleUNet(T, channels=3, base=16), (2, 3, 32, 10)),
        (LayerNormUNet(T), (2, 1, 28, 28)),
        (LayerNormUNet(T, channels=3, size=32), (2, 3, 32, 32)),
        (LayerNormUNet(20, size=8), (2, 1, 8, 8)),
        (LayerNormUNet(20, size=12), (2, 1, 12, 12)),
        (UNet(), (2, 1, 28, 28)),
        (UNet(channels=3, patch=2), (2, 3, 32, 40)),
        (UNet(channels=2, base=8, multipliers=(1, 2, 2, 3), attention=2), (2, 2, 8, 16)),
        (UNet(base=8, multipliers=(1,), attention=0), (2, 1, 5, 7)),
    ],
    ids=str,
)
def test_shape_is_kept(net, shape):
    assert net(torch.randn(shape), torch.tensor([1, 20])).shape == shape


def test_multiply_adds_by_hand():
    net = UNet(base=8, multipliers=(1, 2), attention=0)
    x, t = torch.randn(1, 1, 8, 12), torch.tensor([7])
    counts = multiply_adds(net, x, t)
    assert counts["stem"] == 8 * 12 * 9 * 1 * 8
    assert counts["down.1.block.shortcut"] == 4 * 6 * 8 * 16
    assert counts["time"] == 8 * 32 + 32 * 32
    pixels, channels = 4 * 6, 16
    assert counts["middle.attention"] == 4 * pixels * channels**2 + 2 * pixels**2 * channels
    pieces = ("time", "stem", "down.0", "shrink.0", "down.1", "middle", "up.0", "grow.0", "up.1", "out")
    assert counts[""] == sum(counts[name] for name in pieces)
    assert multiply_adds(net, x.expand(3, -1, -1, -1), t.expand(3))[""] == 3 * counts[""]


# what reaches the output


@each_net
def test_what_every_net_does(name):
    net, x, t = NETS[name](), torch.randn(4, 1, 28, 28), torch.tensor([1, 10, 400, T])
    torch.testing.assert_close(net(x, t)[2:3], net(x[2:3], t[2:3]), rtol=1e-4, atol=1e-5)  # apart from its neighbours
    early, late = net(x[:1], t[:1]), net(x[:1], t[3:])
    listens = (early - late).norm() > 1e-3 * early.std() * early.numel() ** 0.5
    assert listens == (name != "BasicUNet"), "the one net that ignores time"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(x, t).isfinite().all()
        assert net(x.bfloat16(), t).isfinite().all()
    assert net.double()(x.double(), t).dtype == torch.float64


@pytest.mark.parametrize("name", [*NETS, "UNet with labels"])
def test_gradient_reaches_every_parameter(name):
    net, labels = (NETS[name](3), ()) if name in NETS else (awake(UNet(3, classes=3)), (torch.arange(4),))
    out = net(torch.randn(4, 3, 28, 28), torch.tensor([1, 10, 400, T]), *labels)
    (out * torch.randn_like(out)).sum().backward()
    for name, p in net.named_parameters():
        assert not p.requires_grad or p.grad.ne(0).all(), name


@pytest.mark.parametrize("name", ["LayerNormUNet", "UNet"])
def test_every_skip_is_handed_over_and_used(name):
    net, x, t = NETS[name](), torch.randn(1, 1, 28, 28), torch.tensor([500])
    sent, arrived = [], []
    for level in net.down:
        level.register_forward_hook(lambda module, args, out: sent.append(out))
    for level in net.up:
        level.register_forward_pre_hook(lambda module, args: arrived.append(args[0]))
    with torch.no_grad():
        whole = net(x, t)

    def skip_part(h):  # LayerNormUNet puts the skip first, UNet last
        return h.chunk(2, dim=1)[0 if name == "LayerNormUNet" else 1]

    assert len(sent) == len(arrived) == 3
    for skip, h in zip(reversed(sent), arrived, strict=True):
        assert torch.equal(skip_part(h), skip)
    for level in net.up:

        def silence(module, args):
            h = args[0].detach().clone()
            skip_part(h).zero_()
            return h, *args[1:]

        handle = level.register_forward_pre_hook(silence)
        assert (net(x, t) - whole).abs().max() > 1e-3 * whole.abs().max()
        handle.remove()


def test_skips_that_are_added():
    """The two smaller nets, written down again from their layers."""
    x, t = torch.rand(2, 1, 8, 12), torch.tensor([5, T])
    net = BasicUNet()
    full = F.silu(net.down[0](x))
    half = F.silu(net.down[1](F.max_pool2d(full, 2)))
    h = F.silu(net.up[0](F.silu(net.down[2](F.max_pool2d(half, 2)))))
    h = F.silu(net.up[1](F.interpolate(h, scale_factor=2) + half))
    torch.testing.assert_close(net(x), F.silu(net.up[2](F.interpolate(h, scale_factor=2) + full)))
    assert net(-50 * x).min() > -0.2785
    net = SimpleUNet(T)
    full = F.silu(net.down(torch.cat([x, (t / T).reshape(2, 1, 1, 1).expand_as(x)], dim=1)))
    h = full + F.silu(net.grow(net.middle(F.max_pool2d(full, 2))))
    torch.testing.assert_close(net(x, t), net.out(F.silu(net.up(h))))


def test_unet_starts_at_zero_and_its_blocks_as_their_shortcuts():
    net, x, t = UNet(), torch.randn(2, 1, 28, 28), torch.tensor([1, T])
    assert net(x, t).eq(0).all()
    assert awake(net)(x, t).ne(0).all()
    block, h = ResidualBlock(8, 16, known=6), torch.randn(2, 8, 3, 5)
    assert torch.equal(block(h, torch.randn(2, 6)), block.shortcut(h))


def test_attention_lets_far_pixels_speak():
    def far_corner_moves(attention):
        net = awake(UNet(base=8, multipliers=(1,), attention=attention))
        net.middle.attention = torch.nn.Identity()
        net.down[0].block.first[0] = net.up[0].block.first[0] = net.out[0] = torch.nn.Identity()  # norms see all pixels
        net.down[0].block.norm = net.up[0].block.norm = torch.nn.Identity()
        net.middle.block.first[0] = net.middle.block.norm = torch.nn.Identity()
        x, t = torch.randn(1, 1, 24, 24), torch.tensor([1])
        changed = x.clone()
        changed[..., 0, 0] += 3
        return (net(changed, t) - net(x, t))[..., -1, -1].abs().item() > 0

    assert far_corner_moves(attention=1)
    assert not far_corner_moves(attention=0)


def test_labels_and_dropout_change_the_output():
    net, x, t = awake(UNet(base=8, classes=10, dropout=0.5)), torch.randn(1, 1, 8, 8), torch.tensor([7])
    one, two, none = (net(x, t, torch.tensor([i])) for i in (1, 2, 10))
    assert min((one - two).abs().max(), (one - none).abs().max(), (two - none).abs().max()) > 1e-3
    assert torch.equal(net(x, t, torch.tensor([1])), one), "no dropout in eval mode"
    assert not torch.equal(net.train()(x, t, torch.tensor([1])), one)


def test_the_norm_over_the_image_is_blind_to_brightness():
    """The first time MLP adds brightness, too, which the norm removes."""
    x, t = torch.randn(4, 1, 28, 28), torch.tensor([1, 10, 400, T])
    for blind in (True, False):
        net = LayerNormUNet(T, input_norm=blind)
        out = net(x, t)
        change = (net(x + 5, t) - out).norm() / out.norm()
        assert change < 1e-4 if blind else change > 1e-2
        (out * torch.randn_like(x)).sum().backward()
        first, second = (level.time[2].bias.grad.abs().max() for level in list(net.down)[:2])
        assert (first > 1e-4 * second) == (not blind)


# bad input

X, STEPS = torch.zeros(2, 1, 28, 28), torch.tensor([1, 20])
SMALL = UNet(base=8, multipliers=(1,))


@each_net
@pytest.mark.parametrize(
    ("x", "t", "error", "says"),
    [
        (torch.zeros(2, 3, 28, 28), STEPS, ValueError, r"make it with \w+\(channels=3\)"),
        (X[0], STEPS, ValueError, r"expected images \(B, 1, H, W\), got \(1, 28, 28\)"),
        (X.to(torch.uint8), STEPS, ValueError, "expected float images, got torch.uint8"),
        (X.to("meta"), STEPS, ValueError, "images are torch.float32 on meta, the net is torch.float32 on cpu"),
        (X.double(), STEPS, ValueError, "images are torch.float64 on cpu, the net is torch.float32 on cpu"),
        (X, STEPS / T, TypeError, "t must be an integer tensor, one per image, got torch.float32"),
        (X, STEPS - 1, ValueError, r"t must (lie in 1 \.\.\. 1000|be 1 or more), got 0 to 19"),
    ],
)
def test_bad_images_and_steps(name, x, t, error, says):
    if name == "BasicUNet" and x is X:
        assert NETS[name]()(x, t).shape == x.shape, "it does not look at t"
        return
    with pytest.raises(error, match=f"^{name}: .*{says}"):
        NETS[name]()(x, t)


@pytest.mark.parametrize(
    ("net", "shape", "says"),
    [
        (BasicUNet(), (30, 28), "divisible by 4, got 30x28; resize or pad to 32x28"),
        (SimpleUNet(T), (27, 28), "divisible by 2, got 27x28; resize or pad to 28x28"),
        (LayerNormUNet(T), (32, 28), r"28x28 images, got 32x28; resize them, or make it with LayerNormUNet\(size"),
        (UNet(), (29, 28), "divisible by 4, got 29x28; resize or pad to 28x28"),
        (UNet(base=8, multipliers=(1, 1, 1, 1)), (28, 28), "divisible by 8, got 28x28; resize or pad to 32x32"),
        (UNet(base=8, multipliers=(1, 1), patch=2), (28, 30), "divisible by 4, got 28x30; resize or pad to 28x32"),
    ],
)
def test_bad_size(net, shape, says):
    with pytest.raises(ValueError, match=says):
        net(torch.zeros(2, 1, *shape), STEPS)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        *(
            (lambda n=n: LayerNormUNet(T, size=n), f"size must be divisible by 4 and at least 8, got {n}")
            for n in (30, 4)
        ),
        *((lambda n=n: UNet(base=n), f"UNet: base must be divisible by 8, .* got {n}") for n in (20, 0, 32.0)),
        (lambda: SimpleUNet(0), "SimpleUNet: T must be a whole number, at least 1, got 0"),
        (lambda: LayerNormUNet(None), "LayerNormUNet: T must be a whole number, at least 1, got None"),
        (lambda: UNet(patch=0), "UNet: patch must be"),
        (lambda: UNet(multipliers=()), "UNet: levels must be"),
        (lambda: UNet(multipliers=(1, 0)), r"UNet: multipliers\[1\] must be"),
        (lambda: SimpleUNet(20)(X, STEPS + 1), "t must lie in 1 ... 20, got 2 to 21"),
        (lambda: VelocityNet(SMALL, cosine_schedule(20))(X, STEPS + 1), "VelocityNet: t must lie in 1 ... 20, got 2"),
        (
            lambda: VelocityNet(lambda x, t: x[0], cosine_schedule(20))(X, STEPS),
            r"velocity has shape \(1, 28, 28\), x has \(2, 1, 28, 28\)",
        ),
        (lambda: sinusoidal_embedding(STEPS, 7), "dim must be even and at least 2 .*, got 7"),
        (lambda: group_norm(torch.zeros(2, 12, 4, 4), 8), "8 groups do not divide 12 channels"),
        (lambda: SMALL(X.half(), STEPS), "the images are torch.float16 on cpu, the net is torch.float32 on cpu"),
        (lambda: copy.deepcopy(SMALL).double()(X, STEPS), "the images are torch.float32 .* the net is torch.float64"),
    ],
)
def test_what_makes_no_net_or_fits_none(make, says):
    with pytest.raises(ValueError, match=says):
        make()
