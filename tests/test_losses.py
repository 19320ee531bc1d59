from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from privface.errors import ConfigError
from privface.losses import AlignmentLoss, AttributeLoss, MatchingLoss, ReconstructionLoss, ssim


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    a = rng.random((2, 3, 16, 18))
    b = np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1)
    return torch.from_numpy(a), torch.from_numpy(b)


def test_ssim_is_scikit_image_s(pair):
    a, b = pair
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [
        structural_similarity(x, y, channel_axis=0, **options)
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    assert float(ssim(a, b)) == pytest.approx(np.mean(expected), abs=1e-9)
    assert float(ssim(a, a)) == pytest.approx(1.0)


def test_reconstruction_is_the_weighted_sum_of_its_terms(pair):
    a, b = pair
    difference = (a - b).numpy()
    expected = 0.5 * np.abs(difference).mean() + 2.0 * (difference**2).mean() + 0.25 * (1 - float(ssim(a, b)))
    assert float(ReconstructionLoss(l1=0.5, l2=2.0, ssim=0.25)(a, b)) == pytest.approx(expected)
    assert float(ReconstructionLoss(l1=1, l2=1, ssim=1)(a, a)) == pytest.approx(0.0, abs=1e-9)


def test_tone_sees_regions_and_not_detail():
    grey = torch.full((1, 3, 16, 16), 0.5)
    checks = grey + 0.1 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2 - 1)
    loss = ReconstructionLoss(l1=0.0, tone=2.0)
    assert float(loss(checks, grey)) == pytest.approx(0.0, abs=1e-6)
    assert float(loss(grey + 0.1, grey)) == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ReconstructionLoss(l1=0.0), "l1=0.0, .* one must be positive"),
        (lambda: ReconstructionLoss(l1=-1.0, l2=2.0), "l1=-1.0, .* none may be negative"),
        (lambda: ReconstructionLoss(ssim=-0.1), "ssim=-0.1, .* none may be negative"),
        (lambda: MatchingLoss(margin=-1.0), "margin=-1.0 is no cosine"),
        (lambda: MatchingLoss(margin=1.5), "margin=1.5 is no cosine"),
        (lambda: AttributeLoss("confuse"), "'confuse' does not exist. Choose one of"),  # type: ignore[arg-type]
    ],
)
def test_senseless_settings_are_refused(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


@given(angle=st.floats(0, math.pi), scale=st.floats(0.1, 10), margin=st.floats(-0.9, 1.0))
@settings(max_examples=30, deadline=None)
def test_matching_is_the_shortfall_of_the_cosine(angle, scale, margin):
    original = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    protected = scale * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    expected = max(0.0, margin - math.cos(angle))
    assert float(MatchingLoss(margin=margin)(protected, original)) == pytest.approx(expected, abs=1e-6)


def test_matching_pulls_the_protected_side_only():
    original = torch.tensor([[1.0, 0.0]], requires_grad=True)
    protected = torch.tensor([[0.0, 1.0]], requires_grad=True)
    MatchingLoss()(protected, original).backward()
    assert original.grad is None
    assert protected.grad[0, 0] < 0  # a descent step moves it towards the original


def test_uninformative_is_zero_at_a_fair_coin_and_symmetric():
    loss, genders = AttributeLoss("uninformative"), torch.tensor([0, 1])
    for z in (0.0, 1.3, -1.3):
        expected = (math.log1p(math.exp(z)) + math.log1p(math.exp(-z))) / 2 - math.log(2)
        assert float(loss(torch.tensor([z, -z]), genders)) == pytest.approx(expected, abs=1e-6)
    logits = torch.tensor([2.0, -0.5], requires_grad=True)
    loss(logits, genders).backward()
    assert torch.equal(logits.grad.sign(), logits.detach().sign())


def test_flip_wants_the_opposite_gender():
    loss, genders = AttributeLoss("flip"), torch.tensor([0, 1])
    for z in (-2.0, 0.0, 3.0):
        expected = math.log1p(math.exp(-z))
        assert float(loss(torch.tensor([z, -z]), genders)) == pytest.approx(expected, rel=1e-5)
    logits = torch.zeros(2, requires_grad=True)
    loss(logits, genders).backward()
    assert logits.grad[0] < 0 < logits.grad[1]  # descent makes the woman look male and the man female


def test_align_is_zero_for_equal_distributions_only_and_ignores_the_scale_of_features():
    loss, genders = AttributeLoss("align"), torch.tensor([0, 0, 0, 1, 1, 1])
    same = torch.tensor([1.0, 2.0, 3.0, 3.0, 1.0, 2.0])
    assert float(loss(same, genders)) == pytest.approx(0.0, abs=1e-9)
    assert float(loss(same + genders, genders)) > 0.1  # another mean
    assert float(loss(torch.where(genders == 1, 2 + 3 * (same - 2), same), genders)) > 0.1  # another spread
    features = torch.from_numpy(np.random.default_rng(2).normal(size=(6, 5))).float()
    logits = features[:, 0]
    alone, both = float(loss(logits, genders)), float(loss(logits, genders, features))
    assert both > alone
    assert float(loss(logits * 1000, genders, features * 1000)) == pytest.approx(both, rel=1e-2)


def test_align_has_finite_gradients_where_features_are_dead_or_a_gender_is_absent():
    loss = AttributeLoss("align")
    features = torch.zeros(6, 4, requires_grad=True)
    logits = torch.zeros(6, requires_grad=True)
    loss(logits, torch.tensor([0, 0, 0, 1, 1, 1]), features).backward()
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(logits.grad).all()
    alone = loss(torch.ones(4, requires_grad=True), torch.ones(4, dtype=torch.int64))
    assert float(alone.detach()) == 0.0
    alone.backward()


def _embeddings(kind: str, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (40, 12) whose genders differ in nothing, in the mean or in the spread of one direction alone."""
    rng = np.random.default_rng(seed)
    genders = np.arange(40) % 2
    rows = rng.normal(size=(40, 12))
    if kind == "mean":
        rows[:, 0] += 2.0 * genders
    elif kind == "spread":
        rows[:, 0] *= 1.0 + 2.0 * genders
    return torch.from_numpy(rows).float(), torch.from_numpy(genders)


def test_alignment_sees_means_and_spreads_and_leads_wide_rows_inwards_and_narrow_ones_outwards():
    last: dict[str, float] = {}
    for kind in ("nothing", "mean", "spread"):
        loss = AlignmentLoss(12)
        for seed in range(300):
            last[kind] = float(loss(*_embeddings(kind, seed=seed)))
    assert 0 <= last["nothing"] < 0.01
    assert min(last["mean"], last["spread"]) > 10 * last["nothing"]
    rows, genders = _embeddings("spread", seed=999)
    rows.requires_grad_()
    loss(rows, genders).backward()
    outwards = (rows.grad * rows.detach().sign())[:, 0]  # what descent takes away from |x|
    assert float(outwards[genders == 1].mean()) > 0 > float(outwards[genders == 0].mean())


def test_alignment_of_spreads_alone_is_the_formula():
    """Unit rows along four axes: the moments are known, and the average of equal batches is the batch."""
    axes = torch.eye(4).repeat(2, 1)
    genders = torch.tensor([0] * 8 + [1] * 4)
    rows = torch.cat([torch.cat([axes[:4], -axes[:4]]), torch.cat([axes[:2], -axes[:2]])])
    loss = AlignmentLoss(4, shrinkage=1e-6)
    for _ in range(200):
        value = float(loss(rows, genders))
    # covariances diag(1/4 x 4) and diag(1/2, 1/2, 0, 0): pooled diag(3/8, 3/8, 1/8, 1/8), whitened difference 2/3, 2/3, -2, -2
    assert value == pytest.approx((2 * (2 / 3) ** 2 + 2 * 2**2) / 4 / 4, rel=1e-4)


def test_alignment_says_nothing_until_it_has_seen_enough_of_both():
    loss = AlignmentLoss(12)
    rows, genders = _embeddings("mean")
    rows.requires_grad_()
    for _ in range(200):  # one gender alone
        assert float(loss(rows[genders == 1], genders[genders == 1]).detach()) == 0.0
    for _ in range(68):  # 0.99^69 is the first power below a half
        assert float(loss(rows, genders).detach()) == 0.0
    value = loss(rows, genders)
    assert float(value.detach()) > 0
    value.backward()
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_reconstruction_is_computed_in_fp32_whatever_surrounds_it(low):
    rng = torch.Generator().manual_seed(0)
    original = torch.nn.functional.avg_pool2d(torch.rand((2, 3, 64, 64), generator=rng), 5, 1, 2)
    drawn = (original + 0.01 * torch.randn(original.shape, generator=rng)).requires_grad_()
    loss = ReconstructionLoss(l1=1.0, ssim=0.2)
    loss(drawn, original).backward()
    plain = drawn.grad.clone()
    drawn.grad = None
    with torch.autocast("cpu", low):
        loss(drawn, original).backward()
    torch.testing.assert_close(drawn.grad, plain, rtol=0, atol=0)
