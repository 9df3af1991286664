# The gateway, and the door in front of TorchServe: no compiler, no framework, no root.
#   docker build -t duet-gateway:0.1.0 .
# Give the base by digest where you build for others: --build-arg BASE=python@sha256:...
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && python3 -m venv /opt/duet
COPY requirements-gateway.txt pyproject.toml README.md LICENSE ./
COPY gateway gateway
# Every package by its hash; then our own, which needs nothing more to be built.
RUN /opt/duet/bin/python -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
        --require-hashes -r requirements-gateway.txt \
    && /opt/duet/bin/python -m pip install --no-cache-dir --no-compile --disable-pip-version-check \
        --no-index --no-deps --no-build-isolation . \
    && /opt/duet/bin/python -m pip uninstall --yes --quiet pip setuptools \
    # What nobody runs: tests of packages, headers and stubs for compilers, numpy's own compilers and its random numbers,
    # pydantic's first version.
    && find /opt/duet -depth -type d \( -name tests -o -name include -o -path '*/numpy/distutils' -o -path '*/numpy/f2py' \
        -o -path '*/numpy/random' -o -path '*/pydantic/v1' \) -exec rm -rf {} + \
    && find /opt/duet -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.a' \
        -o -path '*/numpy/_core/_simd*.so' -o -path '*/numpy/_core/*_tests*.so' \) -delete \
    # Some packages come with symbols for debuggers, 25 MB of them.
    && find /opt/duet -name 'loop.cpython*.so' -o -name 'rapidjson*.so' -o -name '_yaml*.so' -o -name '_rust.abi3.so' \
        -o -path '*/httptools/parser/*.so' | xargs strip --strip-unneeded \
    # The root is read-only later: compiled once, here.
    && /opt/duet/bin/python -m compileall -q /opt/duet/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="duet-gateway" \
      org.opencontainers.image.description="One front door for TensorFlow Serving and TorchServe" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/duet /opt/duet
ENV PATH=/opt/duet/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002
ENTRYPOINT []
CMD ["python", "-m", "gateway", "--config", "/etc/duet/duet.yaml"]
