"""Who asks: the name that the audit trail gets when no --operator says it."""

import getpass


def user() -> str:
    """The name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return "unknown"
