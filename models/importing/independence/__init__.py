"""Whether a model answers each row of its batch by that row alone, concluded from its graph."""
