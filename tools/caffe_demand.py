"""How much of a folder of prototxt files is read: nets, layer types that are not known, and what else speaks against loading them.

    python tools/caffe_demand.py FOLDER

A file counts as loading where its TEST or TRAIN net assembles, or where only something is missing that its user gives to `load`: the
shape of data that lie elsewhere (input_shapes) or the class of a Python layer (python_layers). Nothing is allocated or run.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from preimage.errors import PreimageError
from preimage.io.caffe import Limits, Message
from preimage.io.caffe.assemble import LAYERS, assemble
from preimage.io.caffe.load import read_net

#: Types of forks' layers that are asked for.
DEMANDED = [
    "Python", "ROIPooling", "SmoothL1Loss", "PSROIPooling", "Upsample", "BN", "Yolov3DetectionOutput", "DetectionEvaluate", "Interp",
    "DenseImageData", "Axpy", "ReLU6", "MultiBoxLoss", "Reorg", "ShuffleChannel", "CropCenter",
]  # fmt: skip
_GIVEN = re.compile(r"is not in the file|A Python layer runs code")


def outcome(net: Message) -> str:
    """ "loads", "given" (its user gives what is missing) or why not."""
    why = ""
    for phase in ("TEST", "TRAIN"):
        try:
            assemble(net, phase, limits=Limits(1 << 50, 1 << 60))
            return "loads"
        except PreimageError as problem:
            found = str(problem)
            why = found if not why or _GIVEN.search(found) else why
    only_python = not {layer.type for layer in net.layer} - LAYERS.keys()
    return "given" if _GIVEN.search(why) and only_python else why


def main(folder: str) -> None:
    """Print the counts as tables."""
    root, counts = Path(folder), Counter[str]()
    holding, fine, missing, others = defaultdict(set), defaultdict(set), defaultdict(set), Counter[str]()
    for path in sorted(root.rglob("*.prototxt")):
        if not re.search(r"\blayers?\s*:?\s*\{", path.read_text(errors="replace")):
            continue
        counts["nets"] += 1
        try:
            net = read_net(path)
        except PreimageError as problem:
            others[re.sub(r"^.*, line \d+: ", "", str(problem))[:100]] += 1
            continue
        counts["read"] += 1
        types = {layer.type for layer in net.layer}
        for name in types - LAYERS.keys():
            missing[name].add(path)
        counts["all types known"] += not types - LAYERS.keys()
        found = outcome(net)
        for name in types:
            holding[name].add(path)
            if found in ("loads", "given"):
                fine[name].add(path)
        if found in ("loads", "given"):
            counts[found] += 1
        elif not types - LAYERS.keys():
            others[re.sub(r"'[^']*'", "'...'", found)[:100]] += 1
    repositories = len({path.relative_to(root).parts[0] for path in root.rglob("*.prototxt")})
    print(
        f"{counts['nets']} nets in {repositories} repositories: {counts['read']} are read, {counts['all types known']} have known types alone;"
    )
    print(
        f"{counts['loads']} load as they are, {counts['given']} more once shapes of data or classes of Python layers are given\n"
    )
    print("| layer type | files | of these load |\n|---|---|---|")
    for name in DEMANDED:
        print(f"| {name} | {len(holding[name])} | {len(fine[name])} |")
    print(
        "\nnot known: "
        + ", ".join(f"{name} ({len(paths)})" for name, paths in sorted(missing.items(), key=lambda row: -len(row[1])))
    )
    for why, count in others.most_common():
        print(f"{count} x {why}")


if __name__ == "__main__":
    main(sys.argv[1])
