"""``python -m serving.embedded --port=8500 --model_config_file=FILE``: flags as tensorflow_model_server's."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from serving.embedded.flags import FlagError, parse, usage


def main() -> int:
    try:
        flags = parse(sys.argv[1:])
    except FlagError as error:
        print(error, file=sys.stderr)
        print(usage())
        return 255
    if flags.version:
        print(f"TensorFlow ModelServer: embedded\nTensorFlow Library: {version('tensorflow')}")
        return 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _silent_unless_it_fails():
        from serving.embedded.server import serve

    return serve(flags)


@contextmanager
def _silent_unless_it_fails() -> Iterator[None]:
    """TensorFlow's import prints about processor features and GPUs that are not there, whatever the log level is."""
    with tempfile.TemporaryFile() as told:
        stderr = os.dup(2)
        os.dup2(told.fileno(), 2)
        try:
            yield
        except BaseException:
            told.seek(0)
            os.write(stderr, told.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


if __name__ == "__main__":
    sys.exit(main())
