"""Servers that fail on purpose. They speak the real wire on a real socket."""
