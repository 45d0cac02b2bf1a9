"""The operator console: its routes by httpx, its pages in a real browser."""
