"""How what a user wrote is shown in a message that refuses it."""

_MOST = 200


def shown(value: object) -> str:
    """Return its repr, cut when it is long; also of what has none, such as a number of 5,000 digits."""
    try:
        text = repr(value)
    except Exception as error:  # a repr may raise anything, and the message is about something else
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"
