#!/bin/sh
set -e
set -- -Xmx512m -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -Djava.io.tmpdir=/tmp -Dlog4j.configurationFile=file:///etc/torchserve/log4j2.xml
ts=$(python -c 'from importlib.util import find_spec; print(find_spec("ts").submodule_search_locations[0])')
exec java "$@" "-Dmodel_server_home=${ts%/ts}" -cp "$ts/frontend/model-server.jar" org.pytorch.serve.ModelServer \
  --python "$(command -v python)" -f /etc/torchserve/config.properties -s "$MODEL_STORE" -ncs
