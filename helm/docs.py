"""Makes the chart's values.schema.json and the table in its README from the comments of values.yaml.

`python helm/docs.py` writes both; with --check it only says whether they are what this makes. Above each key stands

    # -- A description, of several lines where it needs them.
    # @schema {minimum: 1}        # JSON Schema, in YAML; it adds to what the default value tells

A mapping whose keys have descriptions is an object with these keys only. `poolsOf: SECTION` means: keys are names, and
each value may hold what SECTION holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "duet"
BEGIN, END = "<!-- values: made by helm/docs.py -->", "<!-- end of values -->"
NOT_OF_A_POOL = {"enabled", "pools", "token", "door"}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_PROBE = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold")


@dataclass
class Value:
    path: tuple[str, ...]
    default: Any
    description: str = ""
    schema: dict[str, Any] = field(default_factory=dict)
    children: dict[str, Value] = field(default_factory=dict)


def main() -> int:
    values = read(CHART / "values.yaml")
    schema = json.dumps(document(values), indent=2) + "\n"
    readme = CHART / "README.md"
    made = {CHART / "values.schema.json": schema, readme: with_table(readme.read_text(), table(values))}
    wrong = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in wrong:
            print(f"{path} is not what helm/docs.py makes: run `make chart-docs`", file=sys.stderr)
        return 1 if wrong else 0
    for path in wrong:
        path.write_text(made[path])
    return 0


def read(path: Path) -> Value:
    """The tree of values. Raises ValueError for a key without a description."""
    text = path.read_text()
    node = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path} must hold a mapping")
    root = _value((), node, text.splitlines())
    undescribed = [".".join(leaf.path) for leaf in leaves(root) if not leaf.description]
    if undescribed:
        raise ValueError(f"{path}: without a description: {', '.join(undescribed)}")
    return root


def _value(path: tuple[str, ...], node: yaml.Node, lines: list[str]) -> Value:
    value = Value(path, yaml.safe_load(yaml.serialize(node)))
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return value
    for key, inner in node.value:
        child = _value((*path, key.value), inner, lines)
        child.description, child.schema = _comment(lines, key.start_mark.line, key.start_mark.column)
        value.children[key.value] = child
    described = any(child.description or child.children for child in value.children.values())
    if not described:
        value.children = {}
    return value


def _comment(lines: list[str], line: int, column: int) -> tuple[str, dict[str, Any]]:
    """What the comment right above the line says: description and schema."""
    block = []
    while line and lines[line - 1].startswith(" " * column + "#"):
        line -= 1
        block.insert(0, lines[line].strip().removeprefix("#").strip())
    begins = [place for place, text in enumerate(block) if text.startswith("-- ")]
    if not begins:
        return "", {}
    block = block[begins[-1] :]
    schemas = [text.removeprefix("@schema ") for text in block if text.startswith("@schema ")]
    description = " ".join(text for text in block if not text.startswith("@schema ")).removeprefix("-- ")
    return description, yaml.safe_load(schemas[0]) if schemas else {}


def leaves(value: Value) -> Iterator[Value]:
    if not value.children:
        yield value
    for child in value.children.values():
        yield from leaves(child)


def document(values: Value) -> dict[str, Any]:
    made = schema_of(values, values)
    made["properties"]["global"] = {"type": "object"}  # Helm's own
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made}


def schema_of(value: Value, root: Value) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _TYPES[type(value.default)]}
    if value.description:
        schema["description"] = value.description
    if value.children:
        schema["additionalProperties"] = False
        schema["properties"] = {name: schema_of(child, root) for name, child in value.children.items()}
    elif value.path and value.path[-1].endswith("Probe"):
        schema["additionalProperties"] = False
        schema["properties"] = {name: {"type": "integer", "minimum": 0} for name in _PROBE}
    elif value.path and value.path[-1] == "resources":
        schema["additionalProperties"] = False
        quantities = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
        schema["properties"] = {"requests": quantities, "limits": quantities}
    added = dict(value.schema)
    if section := added.pop("poolsOf", None):
        keys = root.children[section].children
        pool = {name: schema_of(child, root) for name, child in keys.items() if name not in NOT_OF_A_POOL}
        schema["additionalProperties"] = {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": _without(pool, "required"),
        }
    return schema | added


def _without(schema: Any, word: str) -> Any:
    """A pool may give a part of what its section must give wholly."""
    if isinstance(schema, dict):
        return {
            key: _without(inner, word) for key, inner in schema.items() if key != word or not isinstance(inner, list)
        }
    return schema


def table(values: Value) -> str:
    rows = ["| key | default | what it is |", "| --- | --- | --- |"]
    for leaf in leaves(values):
        default = json.dumps(leaf.default) if len(json.dumps(leaf.default)) < 90 else "see values.yaml"
        cells = (f"`{'.'.join(leaf.path)}`", f"`{default}`" if default[0] != "s" else default, leaf.description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def with_table(readme: str, rows: str) -> str:
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{rows}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.exit(main())
