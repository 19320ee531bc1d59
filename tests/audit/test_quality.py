from __future__ import annotations

import numpy as np
import pytest

from privface.audit.quality import psnr, ssim
from privface.errors import AuditError


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al.'s definition, window by window."""
    a, b = (x @ np.array([0.299, 0.587, 0.114]) for x in (a, b))
    offset = np.arange(-5, 6)
    line = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for y in range(5, a.shape[0] - 5):
        for x in range(5, a.shape[1] - 5):
            p, q = a[y - 5 : y + 6, x - 5 : x + 6], b[y - 5 : y + 6, x - 5 : x + 6]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append(((2 * mp * mq + c1) * (2 * cov + c2)) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


A, B = np.random.default_rng(0).integers(0, 256, (2, 3, 18, 15, 3)).astype(np.uint8)


def test_ssim_equals_the_definition():
    a, b = A, ((A.astype(int) * 3 + B) // 4).astype(np.uint8)
    np.testing.assert_allclose(ssim(a, b), [slow_ssim(x, y) for x, y in zip(a, b, strict=True)], atol=1e-9)


def test_psnr_closed_form_and_unchanged_images():
    a = np.full((1, 12, 12, 3), 100, np.uint8)
    np.testing.assert_allclose(ssim(a, a), 1.0)
    assert np.isposinf(psnr(a, a)).all()
    assert psnr(a, a + 10)[0] == pytest.approx(20 * np.log10(25.5))
    assert psnr(a, a * 0 + 255)[0] == pytest.approx(20 * np.log10(255 / 155))


@pytest.mark.parametrize(
    ("figure", "a", "b", "message"),
    [
        (psnr, A, B[:, :-1], "differ in shape"),
        (psnr, A.astype(np.float32), B, "uint8"),
        (ssim, A[:, :8], B[:, :8], "11 x 11"),
    ],
)
def test_bad_input_is_refused(figure, a, b, message):
    with pytest.raises(AuditError, match=message):
        figure(a, b)
