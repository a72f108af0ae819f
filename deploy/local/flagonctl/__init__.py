"""Runs Flagon on this machine: the commands behind the Makefile, for both modes."""
