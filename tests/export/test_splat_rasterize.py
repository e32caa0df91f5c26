"""The CPU rasteriser against gsplat's own torch projection and harmonics, a per-pixel loop, and finite differences."""

import math

import pytest
import torch
from gsplat.cuda import _torch_impl as oracle
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

from mvp4d_export import compiled, compositor
from mvp4d_export.device import in_parallel
from mvp4d_export.harmonics import spherical_harmonics
from mvp4d_export.projection import Projected, project
from mvp4d_export.rasterize import rasterize

ARGUMENTS = ("means", "quaternions", "scales", "opacities", "colours")


def make_scene(count, dtype=torch.float64, seed=0, views=2, width=22, height=18):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    tensors = {
        "means": uniform(count, 3) * 0.3 - 0.15,
        "quaternions": uniform(count, 4) - 0.5,
        "scales": uniform(count, 3) * 0.04 + 0.004,
        "opacities": uniform(count) * 0.98 + 0.01,
        "colours": uniform(count, 3),
    }
    viewmats = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=dtype)).repeat(views, 1, 1)
    for view in range(views):
        angle = 0.8 * view
        turn = torch.tensor(
            [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]], dtype=dtype
        )
        viewmats[view, :3, :3] = viewmats[view, :3, :3] @ turn
    viewmats[:, 2, 3] = 0.5
    K = torch.tensor([[40.0, 0, width / 2 + 0.3], [0, 42.0, height / 2 - 0.4], [0, 0, 1]], dtype=dtype)
    return tensors, viewmats, K.repeat(views, 1, 1), width, height


def composite_by_loop(means2d, conics, opacities, depths, radii, colours, background, width, height):
    """gsplat's rasterisation kernel as a loop over pixels and Gaussians, for one view."""
    image, alphas = torch.zeros(height, width, 3, dtype=means2d.dtype), torch.zeros(height, width, dtype=means2d.dtype)
    order = [g for g in depths.argsort(stable=True).tolist() if radii[g].min() > 0]
    for row in range(height):
        for column in range(width):
            through, colour = 1.0, torch.zeros(3, dtype=means2d.dtype)
            for g in order:
                dx, dy = (means2d[g] - torch.tensor([column + 0.5, row + 0.5], dtype=means2d.dtype)).tolist()
                a, b, c = conics[g].tolist()
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(0.999, float(opacities[g]) * math.exp(-sigma))
                if sigma < 0 or alpha < 1 / 255:
                    continue
                if through * (1 - alpha) <= 1e-4:
                    break
                colour += alpha * through * colours[g]
                through *= 1 - alpha
            image[row, column] = colour + through * background
            alphas[row, column] = 1 - through
    return image, alphas


def test_projection_equals_gsplats_torch_projection():
    tensors, viewmats, Ks, width, height = make_scene(200)
    tensors["means"][:20, 2] += 0.6  # some behind the camera
    ours = project(
        tensors["means"],
        tensors["quaternions"],
        tensors["scales"],
        tensors["opacities"],
        viewmats,
        Ks,
        width,
        height,
        antialiased=True,
    )
    covars, _ = _quat_scale_to_covar_preci(tensors["quaternions"], tensors["scales"], True, False)
    radii, means2d, depths, conics, compensations = _fully_fused_projection(
        tensors["means"], covars, viewmats, Ks, width, height, calc_compensations=True
    )
    seen = (radii > 0).all(-1)
    front = depths > 0.01
    assert seen.sum() > 100
    assert (~front).sum() > 5
    torch.testing.assert_close(ours.means2d[front], means2d[front])
    torch.testing.assert_close(ours.conics[front], conics[front])
    torch.testing.assert_close(ours.opacities[front], (compensations * tensors["opacities"])[front])
    # Ours also culls what is too faint to see, so it keeps a subset.
    assert not ((ours.extents[..., 0] > 0) & ~seen).any()


@pytest.mark.parametrize("seed, count", [(0, 60), (1, 300)])
def test_composite_equals_a_per_pixel_loop(seed, count):
    tensors, viewmats, Ks, width, height = make_scene(count, seed=seed)
    background = torch.tensor([0.2, 0.9, 0.4], dtype=torch.float64)
    ours = rasterize(**tensors, viewmats=viewmats, Ks=Ks, width=width, height=height, background=background)
    covars, _ = _quat_scale_to_covar_preci(tensors["quaternions"], tensors["scales"], True, False)
    radii, means2d, depths, conics, _ = _fully_fused_projection(tensors["means"], covars, viewmats, Ks, width, height)
    for view in range(2):
        image, alpha = composite_by_loop(
            means2d[view],
            conics[view],
            tensors["opacities"],
            depths[view],
            radii[view],
            tensors["colours"],
            background,
            width,
            height,
        )
        torch.testing.assert_close(ours.rgb[view], image, rtol=0, atol=1e-9)
        torch.testing.assert_close(ours.alpha[view], alpha, rtol=0, atol=1e-9)
    if count == 300:
        assert ours.alpha.max() > 0.999  # the early stop took part


def test_float32_agrees_with_float64():
    tensors, viewmats, Ks, width, height = make_scene(300, width=64, height=48)
    exact = rasterize(**tensors, viewmats=viewmats, Ks=Ks, width=width, height=height)
    single = rasterize(
        **{k: v.float() for k, v in tensors.items()},
        viewmats=viewmats.float(),
        Ks=Ks.float(),
        width=width,
        height=height,
    )
    # A contribution at the 1/255 threshold may fall on either side.
    assert (exact.rgb - single.rgb).abs().max() < 5e-3
    assert (exact.rgb - single.rgb).abs().mean() < 1e-5


def test_what_rounding_left_without_a_covariance_is_drawn_alike_in_both_precisions():
    """Exponents then rise above 0 without bounds: alpha is what it is clamped to."""
    results = []
    for dtype in (torch.float32, torch.float64):
        means, opacities, colours = (
            torch.tensor(values, dtype=dtype, requires_grad=True)
            for values in ([[[10.4, 5.3], [12.1, 6.2]]], [[0.5, 0.6]], [[[0.2, 0.3, 0.4], [0.9, 0.8, 0.7]]])
        )
        conics = torch.tensor([[(40, 200, 40), (0.5, 0.1, 0.5)]], dtype=dtype)
        extents = torch.full((1, 2, 2), 3.0, dtype=dtype)
        projected = Projected(means, conics, opacities, torch.tensor([[1.0, 2]], dtype=dtype), extents)
        rgb, alpha, _ = compositor.composite(projected, colours, torch.ones(1, 3, dtype=dtype), 21, 12)
        gradients = torch.autograd.grad(rgb.square().sum() + alpha.sum(), [means, opacities, colours])
        results.append([value.detach().double() for value in (rgb, alpha, *gradients)])
    for single, exact in zip(*results):
        torch.testing.assert_close(single, exact, rtol=1e-4, atol=1e-4)


def test_what_reaches_beyond_all_integers_ends():
    """Its rows begin in the picture and end at 1e19, which 64 bits do not hold."""
    conic, opacity = torch.tensor([[[1e-38, 0, 1e-38]]]).double(), torch.tensor([[0.5]]).double()
    means = torch.tensor([[[4, 9.3e18]]]).double()
    projected = Projected(means, conic, opacity, opacity, torch.full((1, 1, 2), 9.3e18).double() - 2048)
    assert (projected.means2d - projected.extents)[0, 0, 1] == 2048
    rgb, *_ = compositor.composite(projected, torch.ones(1, 1, 3).double(), torch.zeros(1, 3).double(), 4, 6000)
    assert rgb.isfinite().all()


def test_gradcheck():
    tensors, viewmats, Ks, width, height = make_scene(12, width=10, height=9, seed=3)
    inputs = [tensors[name].requires_grad_() for name in ARGUMENTS]
    background = torch.full((3,), 0.7, dtype=torch.float64, requires_grad=True)

    def render(*values):
        *values, behind = values
        result = rasterize(*values, viewmats, Ks, width, height, behind, antialiased=True)
        return result.rgb, result.alpha

    assert torch.autograd.gradcheck(render, [*inputs, background], eps=1e-7, atol=1e-5, rtol=1e-4)


def test_gradient_stops_where_light_does():
    """What lies behind a saturated pixel gets no gradient; however deep the stack."""
    tensors, viewmats, Ks, width, height = make_scene(150, views=1)
    tensors["means"][:, :2] *= 0.02
    tensors["opacities"][:] = 0.95
    tensors["scales"][:] = 0.2
    tensors["colours"].requires_grad_()
    result = rasterize(**tensors, viewmats=viewmats, Ks=Ks, width=width, height=height)
    result.rgb.sum().backward()
    depth_order = (-tensors["means"][:, 2]).argsort()
    sizes = tensors["colours"].grad.abs().sum(1)[depth_order]
    assert sizes[:5].min() > 0
    assert sizes[100:].max() == 0


def test_views_in_threads_equal_views_one_by_one():
    """Three views share two threads; so they do where a thread of the pool asks for them: the same bits as alone."""
    tensors, viewmats, Ks, width, height = make_scene(200, dtype=torch.float32, views=3)
    colours = tensors.pop("colours").expand(3, -1, -1)
    projected = project(*tensors.values(), viewmats, Ks, width, height)
    attributes = {
        field: value.detach().requires_grad_(value.is_floating_point()) for field, value in vars(projected).items()
    }

    def render(views):
        seen = Projected(**{field: value[views] for field, value in attributes.items()})
        result = compositor.composite(seen, colours[views], torch.zeros(len(views), 3), width, height)
        return torch.cat((result[0], result[1][..., None]), -1)

    def gradient(picture):
        return torch.autograd.grad(picture.square().sum(), [attributes["means2d"], attributes["conics"]])

    single = torch.cat([render([view]) for view in range(3)])
    expected = gradient(single)
    for together in (render([0, 1, 2]), *in_parallel(render, [[0, 1, 2]] * 4)):
        assert torch.equal(together, single)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradient(together), expected))


def test_kernels_are_compiled_where_no_folder_can_keep_them(monkeypatch):
    options = []

    def njit(**given):
        options.append(given)
        if given.get("cache"):
            raise RuntimeError("no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert compiled.compiled(math.sqrt) is math.sqrt
    assert [given["nogil"] for given in options] == [True, True]


def test_harmonics_equal_gsplats():
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    coefficients = torch.randn(50, 16, 3, generator=generator, dtype=torch.float64)
    for degree in range(4):
        expected = oracle._spherical_harmonics(degree, directions, coefficients)
        basis = spherical_harmonics(degree, directions)
        ours = torch.einsum("nk,nkc->nc", basis, coefficients[:, : basis.shape[-1]])
        torch.testing.assert_close(ours, expected)


def test_nothing_in_view_gives_the_background():
    tensors, viewmats, Ks, width, height = make_scene(10)
    tensors["means"][:, 2] += 5.0
    tensors["means"].requires_grad_()
    result = rasterize(
        **tensors, viewmats=viewmats, Ks=Ks, width=width, height=height, background=torch.ones(3, dtype=torch.float64)
    )
    assert (result.rgb == 1).all()
    assert (result.alpha == 0).all()
    result.rgb.sum().backward()
    assert (tensors["means"].grad == 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("packed, antialiased", [(False, False), (True, True)])
def test_agrees_with_gsplat_on_cuda(packed, antialiased):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: gsplat's kernels cannot run")
    tensors, viewmats, Ks, _, _ = make_scene(2000, dtype=torch.float32, width=64, height=64)
    tensors["scales"] *= 0.3
    results = {}
    for device in ("cpu", "cuda"):
        values = {name: value.detach().clone().to(device).requires_grad_() for name, value in tensors.items()}
        result = rasterize(
            **values,
            viewmats=viewmats.to(device),
            Ks=Ks.to(device),
            width=64,
            height=64,
            background=torch.ones(3, device=device),
            packed=packed,
            antialiased=antialiased,
        )
        (result.rgb.square().sum() + result.alpha.sum()).backward()
        results[device] = [result.rgb.cpu(), result.alpha.cpu()] + [values[name].grad.cpu() for name in ARGUMENTS]
    for ours, theirs in zip(*results.values()):
        assert (ours - theirs).abs().mean() <= 1e-3 * max(1.0, float(theirs.abs().max()))
    assert (results["cpu"][0] - results["cuda"][0]).abs().max() < 5e-3
