"""Proof that the instrument is right on this machine: servers whose times are known, measured like any other."""
