"""Sums over a batch: any division of it gives the bits of the whole."""

from itertools import pairwise

import numpy as np
import pytest

import preimage as pre
from preimage import contract, reduction
from preimage.errors import OptionError

VALUES = (np.random.default_rng(5).standard_normal((96, 7)) * 10.0 ** np.arange(96)[:, None] % 7).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6, 7, 8, 9, 31, 33, 96])
def test_the_sum_along_an_axis_is_the_tree_of_the_contract(batch):
    wanted = contract.image_tree(list(VALUES[:batch]))
    assert reduction.tree_sum(VALUES[:batch]).tobytes() == wanted.tobytes()
    assert reduction.tree_sum(VALUES[:batch].T, axis=-1).tobytes() == wanted.tobytes()
    assert reduction.TreeSum.of(VALUES[:batch]).total(batch).tobytes() == wanted.tobytes()


def test_the_order_shows_in_these_values():
    assert not np.array_equal(reduction.tree_sum(VALUES), np.add.reduce(VALUES))  # one after another


@pytest.mark.parametrize("parts", [*range(1, 9), 12, 16, 31])
def test_parts_in_any_order_give_the_bits_of_the_whole(parts):
    random = np.random.default_rng(parts)
    for edges in (np.linspace(0, 96, parts + 1).astype(int), np.sort([0, 96, *random.integers(0, 97, parts - 1)])):
        ranges = [(int(a), int(b)) for a, b in pairwise(edges)]
        done = [reduction.TreeSum.of(VALUES[a:b], a).nodes for a, b in ranges]
        assert [list(part) for part in done] == [reduction.part_nodes(a, b) for a, b in ranges]
        whole = reduction.TreeSum()
        for k in random.permutation(len(done)):
            whole.merge(done[k])
        assert whole.total(96).tobytes() == reduction.tree_sum(VALUES).tobytes()


def test_no_values_are_changed_and_no_values_sum_to_zero():
    before = VALUES.copy()
    reduction.TreeSum.of(VALUES).total()
    reduction.tree_sum(VALUES[:1])[:] = 0  # no view
    assert np.array_equal(before, VALUES)
    assert reduction.tree_sum(VALUES[:0]).tolist() == [0] * 7


def test_what_is_missing_or_comes_twice_is_an_error():
    tree = reduction.TreeSum.of(VALUES[:4])
    with pytest.raises(OptionError, match="images 3 to 3 cannot be added: 0 to 3 are in the sum"):
        tree.add(VALUES[3], 3)
    with pytest.raises(OptionError, match="the sum has 4 images; 5 were wanted"):
        tree.total(5)
    tree.add(VALUES[6], 6)
    with pytest.raises(OptionError, match="the sum lacks images 4 to 5"):
        tree.total()
    with pytest.raises(OptionError, match="the sum has 0 images; at least one was wanted"):
        reduction.TreeSum().total()
    with pytest.raises(OptionError, match="images 4 to 3 are no part"):
        reduction.part_nodes(4, 3)


LAYERS = {
    "dense": ((96, 5, 11, 9), (7, 5, 3, 2), {"padding": 1, "stride": (2, 1)}),
    "depthwise": ((96, 8, 7, 9), (8, 1, 3, 3), {"groups": 8}),
    "linear": ((96, 21), (13, 21), {}),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("engine", ["jit", "gemm"])
@pytest.mark.parametrize("layer", LAYERS)
def test_workers_share_a_batch_of_96(layer, engine, dtype):
    """Its gradient in 1 to 8, 12, 16 and 31 parts, merged: one digest."""
    shape, weights, options = LAYERS[layer]
    geometry, rng = pre.ConvGeometry.from_conv(shape, weights, **options), np.random.default_rng(96)
    x, y = (rng.standard_normal(s).astype(dtype) for s in (geometry.input_shape, geometry.output_shape))
    wide = x.astype(np.float32), y.astype(np.float32)
    with pre.config(engine=engine):
        whole = pre.conv_weight_grad(x, y, kernel_size=weights[2:], **options)
        for parts in (*range(1, 9), 12, 16, 31):
            edges = np.linspace(0, 96, parts + 1).astype(int)
            merged = reduction.TreeSum()
            for a, b in pairwise(edges.tolist()):

                def gradient(images, a=a, b=b):
                    return pre.conv_weight_grad(wide[0][a:b][images], wide[1][a:b][images], kernel_size=weights[2:], **options)

                sent = reduction.part_sum(gradient, b - a, first=a).nodes
                assert len(sent) <= 2 * 7
                merged.merge(sent)
            assert merged.total(96).astype(dtype).tobytes() == np.ascontiguousarray(whole).tobytes(), parts
