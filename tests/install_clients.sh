#!/bin/sh
# Installs a client of TensorFlow Serving's that others have written, in an environment of its own: its protobuf is not ours.
test -x .venv/min-tfs-client/bin/python && exit 0
.venv/bin/python -m venv .venv/min-tfs-client &&
  .venv/min-tfs-client/bin/pip install -q --disable-pip-version-check min-tfs-client 'protobuf<3.21' && exit 0
rm -rf .venv/min-tfs-client
echo "the test with min-tfs-client will be skipped: pip could not install it"
