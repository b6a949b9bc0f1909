"""Filling in and denoising with learned stencils beside scikit-image's own methods: PSNR, no clock.

    pip install PyWavelets && python benchmarks/rebuild_vs_skimage.py

64 stencils of 11x11 are learned from scikit-image's photograph `camera` (as `preimage learn` does). The pictures are 256x256 parts of
`camera`, from which they were learned, and of `coins`, which they never saw. scikit-image's denoisers have their strength chosen
by the true picture, which flatters them: ours takes its strength from the noise alone.
"""

from __future__ import annotations

import numpy as np
from skimage import data, restoration

from preimage.learning import Coded, Options, encode, fill_in, learn, psnr, split_slow

PARTS = {"camera": data.camera()[100:356, 120:376], "coins": data.coins()[20:276, 60:316]}
NOISE = 20 / 255


def painted(coded: Coded, slow: np.ndarray) -> np.ndarray:
    return np.clip(coded.painted[0] + slow, 0, 1)


def filled(stencils: np.ndarray, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    slow = fill_in(x * known, known)
    coded = encode([(x - slow) * known], stencils, Options(sparsity=0.02, steps=60), known=[known])
    return np.where(known, x, painted(coded, slow))


def denoised(stencils: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    slow, detail = split_slow(noisy)
    return painted(encode([detail], stencils, Options(sparsity=3 * NOISE, steps=60)), slow)


def best(method, noisy: np.ndarray, x: np.ndarray, strengths: tuple[float, ...]) -> float:
    return max(psnr(method(noisy[0], s)[None], x) for s in strengths)


def main() -> None:
    photograph = data.camera().astype(np.float32)[None] / 255
    stencils = learn([split_slow(photograph)[1]], Options()).stencils
    print("| picture | task | before | smooth part | preimage | scikit-image |\n|---|---|---|---|---|---|")
    for name, part in PARTS.items():
        x = part.astype(np.float32)[None] / 255
        rng = np.random.default_rng(0)
        for share in (0.3, 0.5):
            known = rng.random(x.shape[1:]) >= share
            known[126:130] = False  # and a bar of four rows
            peer = restoration.inpaint_biharmonic(x[0] * known, ~known)[None]
            row = [psnr(y, x, ~known) for y in (x * known, fill_in(x * known, known), filled(stencils, x, known), peer)]
            print(
                f"| {name} | {share:.0%} of the pixels missing | {' | '.join(f'{v:.1f}' for v in row)} (inpaint_biharmonic) |",
                flush=True,
            )
        noisy = (x + NOISE * rng.standard_normal(x.shape)).astype(np.float32)
        peers = {
            "denoise_nl_means": best(
                lambda y, s: restoration.denoise_nl_means(y, 5, 6, h=s * NOISE, sigma=NOISE, fast_mode=False),
                noisy,
                x,
                (0.6, 0.8, 1.0),
            ),
            "denoise_tv_chambolle": best(
                lambda y, s: restoration.denoise_tv_chambolle(y, weight=s), noisy, x, (0.06, 0.08, 0.1, 0.12)
            ),
            "denoise_wavelet": best(
                lambda y, s: restoration.denoise_wavelet(y, sigma=s * NOISE, rescale_sigma=True), noisy, x, (0.5, 0.75, 1.0)
            ),
        }
        ours = [psnr(y, x) for y in (noisy, split_slow(noisy)[0], denoised(stencils, noisy))]
        theirs = ", ".join(f"{v:.1f} ({n})" for n, v in peers.items())
        print(f"| {name} | noise of 20/255 | {' | '.join(f'{v:.1f}' for v in ours)} | {theirs} |", flush=True)


if __name__ == "__main__":
    main()
