"""The model configuration, read again while the server runs (--model_config_file_poll_wait_seconds)."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from serving.embedded import config
from serving.embedded.errors import ServingError
from serving.embedded.lifecycle import Lifecycle, LoadFailed


def poll_config(path: Path, lifecycle: Lifecycle, seconds: float, stop: threading.Event) -> None:
    """Apply ``path`` in the background whenever its text differs. A text that cannot be used changes nothing."""

    def run() -> None:
        last = _text(path)
        while not stop.wait(seconds):
            text = _text(path)
            if text is None or text == last:
                continue
            last = text
            try:
                lifecycle.configure(config.parse(text))
            except (config.ConfigError, LoadFailed, ServingError) as error:
                print(f"{path}: {error}", file=sys.stderr, flush=True)

    threading.Thread(target=run, name="config", daemon=True).start()


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None  # replaced at this moment, or gone: the models stay
