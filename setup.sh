#!/bin/sh
# Makes .venv in the checkout with the pinned, hashed dependencies. Uses uv where it is there, else pip.
set -eu
cd "$(dirname "$0")"
start=$(date +%s)

python=""
for name in python3.11 python3.12 python3.13 python3.14 python3 python; do
  if command -v "$name" >/dev/null 2>&1 && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$name
    break
  fi
done
if [ -z "$python" ]; then
  echo "setup: Backtrack needs Python 3.11 or newer, and none was found on the PATH." >&2
  exit 2
fi

rm -f .venv/.ready
echo "setup: installing the pinned packages into .venv (once, about two minutes)"
if command -v uv >/dev/null 2>&1; then
  uv venv --quiet --allow-existing --python "$python" .venv
  uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.txt
  uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
else
  if ! "$python" -m venv .venv; then
    echo "setup: '$python -m venv' failed; on Debian and Ubuntu install the package python3-venv." >&2
    exit 2
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
fi
.venv/bin/python -m service.compile
.venv/bin/python -m lab.compile
touch .venv/.ready
echo "setup: done in $(($(date +%s) - start)) s"
