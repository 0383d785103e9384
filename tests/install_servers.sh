#!/bin/sh
# Installs the XRootD server that some tests talk to, where this machine allows it; says so where it does not.
command -v xrootd >/dev/null && exit 0
skipped() { echo "tests that need an XRootD server will be skipped: $1 (Debian: apt-get install xrootd-server)"; exit 0; }
command -v apt-get >/dev/null || skipped "no apt-get here"
if [ "$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; else skipped "neither root nor sudo"; fi
echo "installing xrootd-server for the tests"
$sudo apt-get update -qq >/dev/null 2>&1
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends xrootd-server >/dev/null 2>&1 ||
  skipped "apt-get could not install it"
