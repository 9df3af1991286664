"""Writes the JSON schemas beside this file from the type declarations of npm packages that are made from the CRDs.

    npm pack @kubernetes-models/prometheus-operator@6.0.0   # and keda@2.0.0, gateway-api@2.0.0 (MIT)
    python tests/helm/crds/convert.py FOLDER                # where the three are unpacked, one folder each

The packages hold no JSON schema, but one TypeScript interface for each type of the CRD, with its field names, types and
which are required: that is what a schema needs. Patterns, lengths and ranges are not in them. Types of Kubernetes' own
(label selectors and the like) are taken as any object.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

KINDS = {
    "monitoring.coreos.com/v1": ("ServiceMonitor", "PodMonitor", "PrometheusRule"),
    "keda.sh/v1alpha1": ("ScaledObject",),
    "gateway.networking.k8s.io/v1": ("HTTPRoute", "GRPCRoute"),
}
_COMMENT = re.compile(r"/\*\*.*?\*/", re.S)
_FIELD = re.compile(r'\s*(?:"([^"]+)"|(\w+))(\?)?:\s*')
_PLAIN = {"string": {"type": "string"}, "number": {"type": "number"}, "boolean": {"type": "boolean"}}


class Declarations:
    """The interfaces of one API group's folder, by their long names, turned into schemas as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._texts = {path.stem: _COMMENT.sub("", path.read_text()) for path in folder.glob("*.d.ts")}
        self._texts = {name.removesuffix(".d"): text for name, text in self._texts.items()}
        self.schemas: dict[str, Any] = {}

    def schema(self, name: str) -> dict[str, Any]:
        """A reference to the type's schema, which is made on the first call."""
        text = self._texts.get(name)
        if text is None:
            return {}  # of another package
        if name not in self.schemas:
            self.schemas[name] = {}  # types may hold themselves
            self.schemas[name] = self._declared(name, text)
        return {"$ref": f"#/definitions/{name}"}

    def _declared(self, name: str, text: str) -> dict[str, Any]:
        found = re.search(rf"interface I{name}\b[^{{]*", text)
        if found:
            schema = self._type(text[found.end() :])[0]
            for base in re.findall(r"[\w]+", found[0].partition(" extends ")[2]):
                self._inherit(schema, base)
            return schema
        alias = re.search(rf"type I{name} = ", text)
        return self._type(text[alias.end() :])[0] if alias else {}

    def _inherit(self, schema: dict[str, Any], base: str) -> None:
        reference = (self._named(base) or {}).get("$ref", "").rpartition("/")[2]
        for key in ("properties", "required"):
            inherited = self.schemas.get(reference, {}).get(key)
            if isinstance(inherited, dict):
                schema[key] = {**inherited, **schema.get(key, {})}
            elif inherited:
                schema[key] = sorted({*inherited, *schema.get(key, [])})

    def _type(self, text: str) -> tuple[dict[str, Any], str]:
        """The schema of the type that ``text`` begins with, and the rest."""
        alternatives = []
        while True:
            one, text = self._single(text.lstrip())
            alternatives.append(one)
            text = text.lstrip()
            if not text.startswith("|"):
                break
            text = text[1:]
        known = [one for one in alternatives if one is not None]
        if all("const" in one for one in known) and known:
            return {"enum": [one["const"] for one in known]}, text
        return (known[0] if len(known) == 1 else {"anyOf": known}), text

    def _single(self, text: str) -> tuple[dict[str, Any] | None, str]:
        if text.startswith("{"):
            return self._object(text[1:])
        if text.startswith("Array<"):
            items, rest = self._type(text[6:])
            return {"type": "array", "items": items}, rest.lstrip().removeprefix(">")
        if text.startswith("("):
            inner, rest = self._type(text[1:])
            return inner, rest.lstrip().removeprefix(")")
        if literal := re.match(r'"([^"]*)"', text):
            return {"const": literal[1]}, text[literal.end() :]
        word = re.match(r"[\w.\"/@()-]+?(?=[\s;>|),\[])", text)
        assert word, text[:80]
        rest = text[word.end() :]
        array = rest.startswith("[]")
        one = self._named(word[0])
        return ({"type": "array", "items": one}, rest[2:]) if array else (one, rest)

    def _named(self, word: str) -> dict[str, Any] | None:
        if word in ("null", "undefined"):
            return None
        if word in _PLAIN:
            return dict(_PLAIN[word])
        short = re.search(r".*V\d(?:alpha\d|beta\d)?([A-Z]\w*)$", word)
        return self.schema(short[1]) if short else {}

    def _object(self, text: str) -> tuple[dict[str, Any], str]:
        properties: dict[str, Any] = {}
        required = []
        schema: dict[str, Any] = {"type": "object", "additionalProperties": False}
        while not (text := text.lstrip().removeprefix(";").lstrip()).startswith("}"):
            if index := re.match(r"\[\w+: string\]:\s*", text):
                schema["additionalProperties"], text = self._type(text[index.end() :])
                continue
            field = _FIELD.match(text)
            assert field, text[:80]
            key = field[1] or field[2]
            properties[key], text = self._type(text[field.end() :])
            if not field[3]:
                required.append(key)
        if properties:
            schema["properties"] = properties
        if required:
            schema["required"] = required
        return schema, text[1:]


def main(packages: Path) -> None:
    for group, kinds in KINDS.items():
        [folder] = packages.glob(f"*/package/{group}")
        for kind in kinds:
            declarations = Declarations(folder)
            root = declarations.schema(kind)
            document = {"$schema": "http://json-schema.org/draft-07/schema#", **root}
            document["definitions"] = {name: declarations.schemas[name] for name in sorted(declarations.schemas)}
            document["definitions"].pop(f"{kind}Status", None)
            document["definitions"][kind]["properties"].pop("status", None)
            target = Path(__file__).with_name(f"{kind}.json")
            target.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
