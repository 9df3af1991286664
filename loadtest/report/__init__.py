"""The report: one page that needs nothing but itself, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.failures import LoadFailed
from loadtest.report import page

PAGE, DATA = "report.html", "report.json"


def write(results: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """The page's path; the JSON lies beside it. Raises LoadFailed; nothing has changed then."""
    content = {DATA: json.dumps({"results": list(results)}, indent=1) + "\n", PAGE: page.render(results)}
    try:
        for name, text in content.items():
            (folder / f".{name}.new").write_text(text)
        for name in content:
            (folder / f".{name}.new").replace(folder / name)
    except OSError as error:
        raise LoadFailed(f"cannot write the report in {folder}: {error.strerror}") from None
    return folder / PAGE
