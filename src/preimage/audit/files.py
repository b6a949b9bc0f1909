"""Cases from JSON files: {"cases": [...]} or a list, one object a geometry.

Fields: kind ("conv" or "deconv"), batch (null: 2), groups, in_channels, out_channels, input, kernel, stride, padding
[[begin, end], ...], dilation (1 is dense), output_padding (deconv), and optionally output, name, expect_error, big. What a
file says of the output size is compared with what the audit derives; a case that expects an error must be refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preimage.audit.case import Case
from preimage.audit.invalid import Invalid
from preimage.errors import FileFormatError
from preimage.host import read_json

__all__ = ["CaseFile", "expected_invalid", "read_cases"]


@dataclass
class CaseFile:
    """What a file holds: cases to run, calls to be refused, and what was left out and why."""

    name: str
    cases: list[Case] = field(default_factory=list)
    expected_errors: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_cases(path: str | Path, *, most_macs: int | None = None, batch: int | None = None) -> CaseFile:
    """Read a file of cases.

    most_macs: a larger case first loses images (down to one), and is left out, by name, if that does not do. batch: the
    batch for cases that leave it open, 2 unless given.

    Raises: FileFormatError naming the file and the entry that cannot be read.
    """
    path = Path(path)
    data = read_json(path)
    rows = data.get("cases") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise FileFormatError(f"{path}: wanted a list of cases, or an object with one under 'cases'")
    result = CaseFile(path.name)
    for i, row in enumerate(rows):
        label = f"{path.stem}[{i}]" + (f" {row['name']}" if isinstance(row, dict) and row.get("name") else "")
        try:
            if row.get("expect_error"):
                result.expected_errors.append({**row, "label": label})
                continue
            case = _case(row, label, batch)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"{path}: entry {i}: {type(error).__name__}: {error}") from error
        if row.get("output") is not None and tuple(row["output"]) != _result_size(case, row):
            raise FileFormatError(
                f"{path}: entry {i}: says output {row['output']}, its numbers give {list(_result_size(case, row))}"
            )
        if row.get("big"):
            result.left_out.append(f"{label}: marked big")
            continue
        if most_macs is not None and case.macs > most_macs and case.batch > 1:
            case = case.with_(batch=max(1, case.batch * most_macs // case.macs))
        if most_macs is not None and case.macs > most_macs:
            result.left_out.append(f"{label}: {case.macs / 1e9:.1f} G multiply-adds")
            continue
        result.cases.append(case)
    return result


def _result_size(case: Case, row: dict[str, Any]) -> tuple[int, ...]:
    return case.output_size if row["kind"] == "conv" else case.input_size


def _case(row: dict[str, Any], label: str, batch: int | None) -> Case:
    pairs = tuple((int(lo), int(hi)) for lo, hi in row["padding"])
    sizes = {k: tuple(int(v) for v in row[k]) for k in ("input", "kernel", "stride", "dilation")}
    images = row.get("test_batch") or row.get("batch")
    images = int(images) if images is not None and row.get("batch") != 0 else (0 if row.get("batch") == 0 else batch or 2)
    common = (sizes["kernel"], sizes["stride"], pairs, sizes["dilation"])
    if row["kind"] == "conv":
        return Case.of_conv(images, row["in_channels"], row["out_channels"], row["groups"], sizes["input"], *common, label=label)
    if row["kind"] != "deconv":
        raise ValueError(f"kind is {row['kind']!r}, wanted 'conv' or 'deconv'")
    extra = tuple(row.get("output_padding") or (0,) * len(sizes["input"]))
    return Case.of_transpose(
        images, row["in_channels"], row["out_channels"], row["groups"], sizes["input"], *common, extra, label=label
    )


def expected_invalid(row: dict[str, Any]) -> Invalid | None:
    """The call of an entry that expects an error, or None where its numbers do not say what is wrong with it.

    Negative padding cuts in this library, so it is no error; too few or too many values of a bias, and dtypes that differ,
    are asked by `generate.invalid`.
    """
    groups = row["groups"]
    if any(v < 0 for pair in row["padding"] for v in pair):
        return None
    conv = row["kind"] == "conv"
    large, small = row["in_channels"], row["out_channels"]
    weight = (small, large // groups if groups else large) if conv else (large, small // groups if groups else small)
    try:
        _case(row, "", None)
    except (ValueError, ZeroDivisionError):
        sound = False
    else:
        extra = row.get("output_padding") or [0] * row["ndim"]
        slack = [max(s, d) for s, d in zip(row["stride"], row["dilation"], strict=True)]
        most = 2**40  # elements: what nothing allocates
        made = _case(row, "", None)
        size = max((*made.input_size, *made.output_size), default=0)
        sound = (
            groups > 0
            and large % groups == 0
            and small % groups == 0
            and all(e < s for e, s in zip(extra, slack, strict=True))
            and size < most
        )
    if sound:
        return None
    arguments: dict[str, Any] = {
        "stride": tuple(row["stride"]),
        "padding": tuple(lo for lo, _ in row["padding"]),
        "dilation": tuple(row["dilation"]),
        "groups": groups,
    }
    if not conv and row.get("output_padding"):
        arguments["output_padding"] = tuple(row["output_padding"])
    images = row["batch"] or 1
    return Invalid(
        str(row["expect_error"]),
        "conv" if conv else "conv_transpose",
        (images, large, *row["input"]),
        (*weight, *row["kernel"]),
        None,
        arguments,
    )
