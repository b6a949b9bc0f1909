"""Write src/preimage/io/onnx/definitions.txt: what ONNX's own definitions say of operators, as far as reading a model asks.

    python tools/onnx_definitions.py            # with the newest onnx installed

A line is an operator from some opset on: its name, the opset, the most inputs, and its attributes, each with the number of its type
(AttributeProto.AttributeType). Opsets that change none of it have no line; the first line of an operator says what held at the oldest
opset that is read.
"""

from __future__ import annotations

from pathlib import Path

from onnx import defs

PLACE = Path(__file__).parents[1] / "src/preimage/io/onnx/definitions.txt"
OLDEST = 6


def lines() -> list[str]:
    """The lines of the table, as the installed onnx has them."""
    found: dict[str, list[tuple[int, str]]] = {}
    schemas = [each for each in defs.get_all_schemas_with_history() if each.domain in ("", "ai.onnx")]
    for schema in sorted(schemas, key=lambda each: (each.name, each.since_version)):
        attributes = [f"{each.name}:{int(each.type)}" for _, each in sorted(schema.attributes.items())]
        said = " ".join([str(schema.max_input), *attributes])
        known = found.setdefault(schema.name, [])
        if schema.since_version <= OLDEST:
            known.clear()
        if not known or known[-1][1] != said:
            known.append((schema.since_version, said))
    return [f"{name} {since} {said}" for name, rows in found.items() for since, said in rows]


if __name__ == "__main__":
    PLACE.write_text("\n".join(lines()) + "\n")
