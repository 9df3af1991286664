"""Serves the user's own model, with no code: looks at it, tries it, and puts it where the servers pick it up."""
