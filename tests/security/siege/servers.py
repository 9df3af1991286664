"""The servers behind the besieged gateway, in a process of their own: ``python -m tests.security.siege.servers``."""

from __future__ import annotations

import json
import sys

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.security.door import MODEL


def main() -> None:
    tensorflow, pytorch = FakeTFServing({MODEL: [1]}), FakeTorchServe({MODEL: ["1"]})
    print(json.dumps({"tensorflow": tensorflow.endpoint, "pytorch": pytorch.url}), flush=True)
    sys.stdin.read()  # until whoever started this is gone
    tensorflow.close()
    pytorch.close()


if __name__ == "__main__":
    main()
