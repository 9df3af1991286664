"""The report on the documented models: one page that needs nothing but itself, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models import export
from models.artifacts import Store
from models.report import facts, page
from models.spec import ModelSpec

PAGE, DATA = "report.html", "report.json"


def write(store: Store, specs: Sequence[ModelSpec]) -> Path:
    """The page's path; the JSON lies beside it. Raises OSError, NotInstalledError; nothing has changed then."""
    found = facts.collect(store, specs)
    content = {DATA: facts.as_json(found), PAGE: page.render(found).encode()}
    with export.staging(store.root) as folder:
        for name, text in content.items():
            (folder / name).write_bytes(text)
        for name in content:
            export.replace(folder / name, store.root / "report" / name)
    return store.root / "report" / PAGE
