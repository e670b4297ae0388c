#!/bin/sh
# The image's functions as symbols.c reads them: a line "ADDRESS NAME" each, addresses ascending.
#
# usage: symbols.sh NM IMAGE OUTPUT
set -eu

"$1" -n "$2" | awk '$2 ~ /^[tTwW]$/ && $3 !~ /^metal_text_(start|end)$/ { print $1, $3 }' >"$3"
[ -s "$3" ]
