#!/usr/bin/env bash
# Prints whether the server is live and ready, and the inputs and outputs of the model `emotion`.
# Usage: health.sh [HOST:PORT]      (the HTTP endpoint, default localhost:8000)
set -euo pipefail

server="http://${1:-localhost:8000}"

check() { # NAME PATH: prints one line; fails unless the response is 200
    if curl --silent --fail --max-time 5 --output /dev/null "${server}$2"; then
        echo "$1: yes"
    else
        echo "$1: no (GET ${server}$2)" >&2
        return 1
    fi
}

check live /v2/health/live
check ready /v2/health/ready
check "model ready" /v2/models/emotion/ready
echo "metadata: $(curl --silent --show-error --fail --max-time 5 "${server}/v2/models/emotion")"
