"""How does a convolution layer learn? A story in four steps, beside a fully connected layer on the same task.

    python examples/how_a_layer_learns.py [PICTURE.png]

Somebody slides a secret 3x3 stencil over pictures and shows us only what goes in and what comes out. Both layers start from
random weights and learn the stencil by gradient descent: first from 3x3 patches that map to a single point, then from whole
images. It prints the story, and writes a picture if matplotlib is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import preimage as pre
from preimage import nn, optim

SECRET = np.array([[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
SIZE = 12  # images are 12 x 12; a 3x3 stencil has 10 x 10 places on them
PLACES = SIZE - 2


def answers(images):
    """What the stencil gives: the pictures' secret. (N, 1, H, W) -> (N, 1, H - 2, W - 2)"""
    return pre.conv(images, SECRET[None, None])


def learn(layer, inputs, targets, rate, steps):
    """Plain gradient descent on the squared error, summed over an image and averaged over images; the error at every step."""
    optimizer = optim.SGD(layer.parameters(), lr=rate)
    errors = []
    for _ in range(steps):
        loss = nn.mse_loss(layer(inputs), targets, reduction="sum") / len(inputs)
        errors.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return errors


def rms(layer, inputs, targets):
    """The root mean square error of one output."""
    with pre.no_grad():
        return float(np.sqrt(nn.mse_loss(layer(inputs), targets).item()))


def stencil_of(layer):
    return layer.weight.data.reshape(3, 3)


def show(matrix, indent="    "):
    return "\n".join(indent + "  ".join(f"{round(v, 2) + 0.0:6.2f}" for v in row) for row in matrix)


def one_point(rng):
    """Step 1: nine numbers in, one number out. Here the two layers are the same thing."""
    print("1. A 3x3 patch maps to a single point")
    conv = nn.Conv2d(1, 1, 3, bias=False, dtype=np.float64, rng=0)
    dense = nn.Linear(9, 1, bias=False, dtype=np.float64)
    dense.weight.assign(conv.weight.data.reshape(1, 9))
    patches = rng.standard_normal((64, 1, 3, 3))
    points = answers(patches)
    print("   The layer multiplies nine values by nine weights and adds up: conv and fully connected agree, 9 weights each.")
    same = np.abs(conv(patches).data.ravel() - dense(patches.reshape(64, 9)).data.ravel()).max()
    print(f"   Largest difference of their answers to 64 patches: {same:.1e}")

    first, target = patches[:1], points[:1]
    error = conv(first) - target
    gradient = pre.grad((error**2).sum() / 2, conv.weight)
    alike = np.abs(gradient.data[0, 0] - error.item() * first[0, 0]).max()
    print(f"   The gradient from one pair is the error times the patch itself (difference {alike:.1e}): a weight is blamed")
    print("   as far as its pixel was bright. One pair only tells about one direction; nine different patches tell all.")
    errors = learn(conv, patches, points, rate=0.1, steps=60)
    learn(dense, patches.reshape(64, 9), points.reshape(64, 1), rate=0.1, steps=60)
    print(f"   After 60 steps on 64 patches: error {errors[0]:.2f} -> {errors[-1]:.1e}; the stencil that was learned:")
    print(show(stencil_of(conv)))
    return {
        "same": same, "alike": alike, "errors": errors, "conv": stencil_of(conv).copy(), "dense": dense.weight.data.reshape(3, 3).copy(),
    }  # fmt: skip


def one_weight(rng):
    """Step 2: on a whole image every place shares the nine weights, so each one's gradient is a sum over all places."""
    print(f"\n2. On a whole image ({SIZE}x{SIZE}) the same nine weights serve all {PLACES * PLACES} places")
    layer = nn.Conv2d(1, 1, 3, bias=False, dtype=np.float64, rng=1)
    image = rng.standard_normal((1, 1, SIZE, SIZE))
    error = layer(image) - answers(image)
    gradient = pre.grad((error**2).sum() / 2, layer.weight).data[0, 0]
    kh, kw = 0, 2
    terms = error.data[0, 0] * image[0, 0, kh : kh + PLACES, kw : kw + PLACES]
    by_hand = terms.sum()
    print(f"   gradient of weight ({kh}, {kw}) = sum over places (oh, ow) of error[oh, ow] * image[oh + {kh}, ow + {kw}]")
    print(f"   by hand {by_hand:.12f} from {terms.size} terms, by backward() {gradient[kh, kw]:.12f}")
    all_nine = pre.conv_weight_grad(image, error.data, kernel_size=3)[0, 0]
    print(
        f"   All nine at once are the third contraction, conv_weight_grad(image, error): difference {np.abs(all_nine - gradient).max():.1e}"
    )
    return {"by_hand": by_hand, "gradient": gradient[kh, kw], "terms": terms}


def whole_images(rng):
    """Step 3: a single image is enough for the convolution, and not nearly for the fully connected layer."""
    n_in, n_out = SIZE * SIZE, PLACES * PLACES
    print("\n3. Learning from whole images")
    print(f"   {'':18}weights   one output sees   weights of its own per output")
    print(f"   convolution     {9:10,}   {9:3} pixels        none: all places share them")
    print(f"   fully connected {n_in * n_out:10,}   {n_in:3} pixels        {n_in}")
    train, test = rng.standard_normal((600, 1, SIZE, SIZE)), rng.standard_normal((100, 1, SIZE, SIZE))
    results = {}
    for count in (1, 600):
        images, wanted = train[:count], answers(train[:count])
        conv = nn.Conv2d(1, 1, 3, bias=False, dtype=np.float64, rng=2)
        dense = nn.Sequential(nn.Flatten(), nn.Linear(n_in, n_out, bias=False, dtype=np.float64, rng=2))
        start = [stencil_of(conv).copy()]
        conv_errors = learn(conv, images, wanted, rate=2e-3, steps=5)
        start.append(stencil_of(conv).copy())
        conv_errors += learn(conv, images, wanted, rate=2e-3, steps=55)
        flat = wanted.reshape(count, n_out)
        dense_errors = learn(dense, images, flat, rate=1 / (2 * n_in) if count == 1 else 0.15, steps=60)
        row = dense[1].weight.data.reshape(PLACES, PLACES, SIZE, SIZE)
        results[count] = {
            "conv_errors": conv_errors, "dense_errors": dense_errors, "stencils": [*start, stencil_of(conv).copy()], "rows": row.copy(),
            "conv": (rms(conv, images, wanted), rms(conv, test, answers(test))),
            "dense": (rms(dense, images, flat), rms(dense, test, answers(test).reshape(len(test), n_out))),
        }  # fmt: skip
        r = results[count]
        print(f"   from {count:3} image{'s' if count > 1 else ' '}: root mean square error on these images, and on 100 new ones")
        print(f"      convolution      {r['conv'][0]:.1e}   {r['conv'][1]:.1e}")
        print(f"      fully connected  {r['dense'][0]:.1e}   {r['dense'][1]:.1e}")
    print(
        f"   One image is {n_out} equations for the 9 weights of the convolution, but one equation for the {n_in} weights of each"
    )
    print("   output of the other: it learned the image by heart, and nothing about the stencil.")
    return results


def locality(results):
    """Step 4: what 600 images teach the fully connected layer is the stencil, once per place."""
    print("\n4. What the fully connected layer knows about one place, after 600 images")
    rows = results[600]["rows"]
    kept, near = [], []
    for oh in range(PLACES):
        for ow in range(PLACES):
            window = rows[oh, ow, oh : oh + 3, ow : ow + 3]
            kept.append(np.abs(window - SECRET).max())
            near.append(np.sum(window**2) / np.sum(rows[oh, ow] ** 2))
    print("   Its weights for output (4, 5), cut out where the stencil lay:")
    print(show(rows[4, 5, 4:7, 5:8]))
    print(f"   It had to find out for each of the {PLACES * PLACES} places by itself that only 9 of {SIZE * SIZE} pixels matter")
    print(
        f"   ({min(near):.2%} or more of its squared weights lie there), and that they are the same 9 numbers (largest difference {max(kept):.1e})."
    )
    print("   A convolution layer is built with both: locality, and shared weights.")
    return {"near": min(near), "off": max(kept)}


def draw(path, weight, results):
    """The story as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(13, 6.4), layout="constrained")

    def picture(ax, values, title, limit=2.2, numbers=False):
        ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(title, fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
        if numbers:
            for (r, c), v in np.ndenumerate(values):
                ax.text(
                    c, r, f"{round(v, 1) + 0.0:.1f}", ha="center", va="center", fontsize=9, color="w" if abs(v) > 1.5 else "k"
                )

    one, many = results[1], results[600]
    picture(axes[0, 0], SECRET, "the secret stencil", numbers=True)
    for ax, stencil, title in zip(
        axes[0, 1:], one["stencils"], ("random start", "after 5 steps", "after 60 steps on one image"), strict=True
    ):
        picture(ax, stencil, title, numbers=True)
    picture(
        axes[1, 0],
        weight["terms"],
        f"gradient of weight (0, 2):\nthe sum of these {weight['terms'].size} terms",
        limit=np.abs(weight["terms"]).max(),
    )
    picture(axes[1, 1], one["rows"][4, 5], "fully connected, output (4, 5):\nafter one image", limit=0.3)
    picture(axes[1, 2], many["rows"][4, 5], "the same after 600 images:\nthe stencil, at that place")
    ax = axes[1, 3]
    for key, label, style in (("conv_errors", "convolution", "-"), ("dense_errors", "fully connected", "--")):
        for count, colour in ((1, "tab:red"), (600, "tab:blue")):
            ax.semilogy(
                np.maximum(results[count][key], 1e-12),
                style,
                color=colour,
                label=f"{label}, {count} image{'s' if count > 1 else ''}",
            )
    ax.set_title("error on the images learned from", fontsize=10)
    ax.set_xlabel("step")
    ax.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(picture: Path | None = None):
    """Tell the story; gives its figures."""
    rng = np.random.default_rng(0)
    point, weight, results = one_point(rng), one_weight(rng), whole_images(rng)
    local = locality(results)
    if picture is not None:
        try:
            draw(picture, weight, results)
            print(f"\nThe picture: {picture}")
        except ImportError:
            print("\n(no picture: matplotlib is not installed)")
    return {"point": point, "weight": weight, "images": results, "local": local}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "how_a_layer_learns.png"))
