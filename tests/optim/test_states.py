"""States of optimisers: torch's are taken, files give them back, and what does not fit changes nothing."""

import copy

import numpy as np
import pytest
from test_optimizers import CASES, IDS, loss_of, problem

import preimage as pre
from preimage import nn, optim
from preimage.errors import DTypeError, FileFormatError, OptionError, ShapeError
from preimage.io.files import load_weights, save_weights


def steps(optimizer, x, c, A, b, count):
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(A, b, x, c).backward()
        optimizer.step()


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_goes_on_from_torch(case):
    torch = pytest.importorskip("torch")
    ours, theirs, options = case
    A, b, x0, c0 = problem()
    X, C = torch.tensor(x0, requires_grad=True), torch.tensor(c0, requires_grad=True)
    other = getattr(torch.optim, theirs)([X, C], **options)
    steps(other, X, C, torch.tensor(A), torch.tensor(b), 7)
    x, c = nn.Parameter(X.detach().numpy().copy()), nn.Parameter(C.detach().numpy().copy())
    own = getattr(optim, ours)([x, c], lr=0.9)
    own.load_state_dict(copy.deepcopy(other.state_dict()))
    steps(own, x, c, A, b, 7)
    steps(other, X, C, torch.tensor(A), torch.tensor(b), 7)
    np.testing.assert_allclose(x.data, X.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(c.data, C.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_what_torch_means_otherwise_is_refused():
    torch = pytest.importorskip("torch")
    w, p = torch.ones(3, requires_grad=True), nn.Parameter(np.ones(3, np.float32))
    for theirs, options, ours, text in (
        (torch.optim.AdamW, {"weight_decay": 0.1}, optim.Adam, "decoupled"),
        (torch.optim.Adam, {"weight_decay": 0.1}, optim.AdamW, "added to the gradient"),
        (torch.optim.RMSprop, {"maximize": True}, optim.RMSprop, "no option maximize"),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, optim.Adam, "no option"),
    ):
        with pytest.raises(OptionError, match=text):
            ours([p]).load_state_dict(theirs([w], **options).state_dict())


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_files_give_states_back(case, ending, tmp_path):
    name, _, options = case
    A, b, x0, c0 = problem()
    x, c = nn.Parameter(x0), nn.Parameter(c0)
    first = getattr(optim, name)([{"params": [x], "lr": 0.01}, {"params": c}], **options)
    steps(first, x, c, A, b, 3)
    save_weights(first.state_dict(), tmp_path / f"o{ending}")
    state = load_weights(tmp_path / f"o{ending}")
    np.testing.assert_equal(state, first.state_dict())
    assert [{k: type(v) for k, v in g.items()} for g in state["groups"]] == [
        {k: type(v) for k, v in g.items()} for g in first.state_dict()["groups"]
    ]
    u, v = nn.Parameter(x.data.copy()), nn.Parameter(c.data.copy())
    second = getattr(optim, name)([{"params": [u]}, {"params": [v]}])
    second.load_state_dict(state)
    steps(first, x, c, A, b, 3)
    steps(second, u, v, A, b, 3)
    np.testing.assert_array_equal(x.data, u.data)
    np.testing.assert_array_equal(c.data, v.data)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_files_hold_no_objects(ending, tmp_path):
    path = tmp_path / f"o{ending}"
    for bad in (
        {"a": np.array([None])}, {"a": object()}, {"a": np.ma.ones(3)}, {"a": {1.5: 2}}, [1], {"a": lambda: 0}, {"a": [object()]},
        {"a": {"b": [1, {"c": b"bytes", "d": object()}]}}, {"a": np.array([1, "x"], object), "b": "w"},
    ):  # fmt: skip
        with pytest.raises(DTypeError):
            save_weights(bad, path)
        assert not path.exists()
    nested = {}
    nested["self"] = nested
    with pytest.raises(DTypeError, match="holds itself"):
        save_weights(nested, path)
    tree = {
        "a": {"b": np.arange(3), "c.d": np.arange(2.0)},
        "a.b": np.ones(1),
        "n": None,
        "t": (1, 2.5, ("x", True)),
        "i": {7: "seven"},
        "f": float("inf"),
    }
    save_weights(tree, path)
    np.testing.assert_equal(load_weights(path), tree)
    save_weights({"plain": np.ones(2), "list": [1.0, 2.0], "number": 3.0}, path)
    np.testing.assert_equal(load_weights(path), {"plain": np.ones(2), "list": np.array([1.0, 2.0]), "number": np.array(3.0)})


def test_damaged_descriptions(tmp_path):
    for text in (
        b"{",
        b'{"array":"gone"}',
        b'{"dict":[["a"]]}',
        b'{"dict":[[[],1]]}',
        b"3",
        b'{"what":1}',
        b'{"list":[1]}',
        b"[" * 9999,
        b"\xff",
    ):
        np.savez(tmp_path / "o.npz", **{"preimage.tree": np.frombuffer(text, np.uint8), "x": np.ones(2)})
        with pytest.raises(FileFormatError, match=r"o\.npz.*description of nested values"):
            load_weights(tmp_path / "o.npz")


def test_states_that_do_not_fit_change_nothing():
    p = nn.Parameter(np.ones(3, np.float32))
    opt = optim.Adam([p], lr=0.5)
    p.grad = np.ones(3)
    opt.step()
    good = opt.state_dict()

    def changed(**entries):
        state = copy.deepcopy(good)
        state["state"][0].update(entries)
        return state

    for bad, kind in (
        (None, OptionError), ({}, OptionError), ({"state": {}, "groups": 3}, OptionError), ({"state": {}, "groups": [{"lr": 1}]}, OptionError),
        (changed(mean=np.ones(2)), ShapeError), (changed(mean="abc"), DTypeError), (changed(mean=1j * np.ones(3)), DTypeError),
        (changed(mean=np.full(3, 1e300)), DTypeError), (changed(other=np.ones(3)), OptionError), (changed(step="x"), OptionError),
        (changed(step=1.5), OptionError), ({**good, "state": {0: 3}}, OptionError), ({**good, "state": {"x": {}}}, OptionError),
        ({**good, "groups": [{**good["groups"][0], "lr": "fast"}]}, OptionError), ({**good, "groups": [{**good["groups"][0], "wd": 1}]}, OptionError),
        ({**good, "groups": [{**good["groups"][0], "betas": (2, 0)}]}, OptionError), ({"param_groups": 3}, OptionError),
        ({"param_groups": [3], "state": {}}, OptionError), ({"param_groups": [{"params": [0]}], "state": {0: None}}, OptionError),
    ):  # fmt: skip
        with pytest.raises(kind):
            opt.load_state_dict(bad)
        np.testing.assert_equal(opt.state_dict(), good)


def test_numbers_of_any_kind_and_groups_added_later():
    p, q = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(2))
    opt = optim.Adam(p, lr=np.float32(0.5), betas=np.array([0.5, 0.75]), eps=np.array(1e-3))
    opt.add_param_group({"params": q, "lr": np.int64(1)})
    assert [g["lr"] for g in opt.param_groups] == [0.5, 1.0]
    assert opt.groups[1]["betas"] == (0.5, 0.75)
    opt.lr = np.array(0.25)
    assert opt.lr == 0.25
    for bad in (
        {"params": p},
        {"params": [p]},
        {"lr": 1},
        3,
        {"params": ["x"]},
        {"params": q * 1},
        {"params": nn.Parameter(1.0), "lr": -1},
    ):
        with pytest.raises(OptionError):
            opt.add_param_group(bad)
    assert len(opt.groups) == 2
    assert (optim.RMSprop, optim.Adagrad) == (optim.RMSProp, optim.AdaGrad)
    with pytest.raises(pre.PreimageError):
        optim.SGD(p, lr="fast")


def test_module_states_from_torch_and_hostile_ones():
    torch = pytest.importorskip("torch")
    ours, theirs = (
        nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
        torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)),
    )
    ours.load_state_dict({**dict(theirs.named_parameters()), **dict(theirs.named_buffers())})
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], value.numpy())
    ours.load_state_dict(theirs.bfloat16().state_dict())
    before = ours.state_dict()
    for key, value, kind in (
        ("0.bias", np.array([1j, 0]), DTypeError), ("0.bias", ["a", "b"], DTypeError), ("0.bias", np.array([None, 1]), DTypeError),
        ("0.bias", np.array([1e300, 0]), DTypeError),
        ("0.bias", None, DTypeError), ("0.bias", np.ma.ones(2), DTypeError), ("0.bias", 3.0, ShapeError),
        ("1.num_batches_tracked", 1.5, DTypeError), ("1.num_batches_tracked", np.nan, DTypeError),
        ("0.weight", [[1.0], [2.0, 3.0]], ShapeError),
    ):  # fmt: skip
        with pytest.raises(kind, match=key.replace(".", r"\.")):
            ours.load_state_dict({**before, key: value})
        np.testing.assert_equal(ours.state_dict(), before)
    ours.load_state_dict({**before, "1.num_batches_tracked": 4.0, "0.bias": [1, 2]})
    with pytest.raises(OptionError, match="a state is a dict"):
        ours.load_state_dict([1])
