#!/bin/sh
# Writes lines `place: finding` as a table.
sed 's/^\([^:]*\): */| \1 | /; s/$/ |/' "$1"
