"""Faults R1 to R23 against the gateway as a real process, under open-loop load whose every answer is checked."""
