#!/bin/sh
# Installs what some tests talk to or build with, where this machine allows it; says so where it does not.
packages=
command -v xrootd >/dev/null || packages="$packages xrootd-server"
command -v chromedriver >/dev/null || packages="$packages chromium-driver"
command -v curl-config >/dev/null || packages="$packages libcurl4-openssl-dev"
test -n "$packages" || exit 0
skipped() { echo "tests that need them will be skipped: $1 (Debian: apt-get install$packages)"; exit 0; }
command -v apt-get >/dev/null || skipped "no apt-get here"
if [ "$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; else skipped "neither root nor sudo"; fi
echo "installing for the tests:$packages"
$sudo apt-get update -qq >/dev/null 2>&1
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $packages >/dev/null 2>&1 ||
  skipped "apt-get could not install them"
