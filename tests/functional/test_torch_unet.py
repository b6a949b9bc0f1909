"""A U-Net written for PyTorch, with the weights of its .pt file: it runs, and trains, when its three imports are changed."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre

torch = pytest.importorskip("torch")
SOURCE = Path(__file__).with_name("torch_unet.py")
CHANGES = {
    "import torch\n": "import preimage.functional as torch\n",
    "import torch.nn as nn\n": "import preimage.nn as nn\n",
    "import torch.nn.functional as F": "import preimage.functional as F",
}


def module_of(text: str, name: str) -> Any:
    made = types.ModuleType(name)
    exec(compile(text, name, "exec"), made.__dict__)
    return made


@pytest.mark.parametrize("bilinear", [False, True])
def test_it_runs_and_trains_after_its_imports_are_changed(bilinear: bool, tmp_path: Path) -> None:
    text = changed = SOURCE.read_text()
    for theirs, ours in CHANGES.items():
        assert theirs in changed
        changed = changed.replace(theirs, ours)
    torch.manual_seed(0)
    theirs, ours = module_of(text, "theirs"), module_of(changed, "ours")
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((2, 3, 21, 18)).astype(np.float32), rng.integers(0, 4, (2, 21, 18))

    net = theirs.UNet(3, 4, bilinear=bilinear)
    for p in net.parameters():  # no weight is the one that it began with
        p.data += 0.05 * torch.randn(p.shape)
    net.train()
    net.dropout.p = 0.0
    net(torch.from_numpy(x))  # the running values move
    torch.save(net.state_dict(), tmp_path / "unet.pt")

    twin = ours.UNet(3, 4, bilinear=bilinear)
    twin.load_state_dict(pre.load_weights(tmp_path / "unet.pt"))  # torch.load(...) was here
    wanted = net.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(twin.eval()(x), wanted, rtol=1e-3, atol=2e-5)

    net.train()
    twin.train()
    twin.dropout.p = 0.0
    loss = theirs.loss_of(net(torch.from_numpy(x)), torch.from_numpy(labels))
    loss.backward()
    mine = ours.loss_of(twin(pre.Tensor(x)), labels)
    mine.backward()
    assert abs(mine.item() - loss.item()) < 1e-5
    gradients = dict(twin.named_parameters())
    for name, p in net.named_parameters():
        np.testing.assert_allclose(gradients[name].grad.data, p.grad.numpy(), rtol=2e-2, atol=2e-5, err_msg=name)

    pre.save_weights(twin.state_dict(), tmp_path / "back.pt")
    again = theirs.UNet(3, 4, bilinear=bilinear)
    again.load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True))
    assert all(
        torch.equal(v, net.state_dict()[k]) for k, v in again.state_dict().items() if "running" not in k and "tracked" not in k
    )
