"""``python -m serving.embedded --port=8500 --model_config_file=FILE``: flags as tensorflow_model_server's."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version

from serving.embedded.flags import FlagError, parse, usage


def main() -> int:
    try:
        flags = parse(sys.argv[1:])
    except FlagError as error:
        print(f"{error}\n{usage()}", file=sys.stderr)
        return 255
    if flags.version:
        print(f"TensorFlow ModelServer: embedded\nTensorFlow Library: {version('tensorflow')}")
        return 0
    # Before the import, which takes seconds and would print about processor features and GPUs that are not there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from serving.embedded.server import serve

    return serve(flags)


if __name__ == "__main__":
    sys.exit(main())
