"""Orders that are reserved, charged and shipped, or undone."""
