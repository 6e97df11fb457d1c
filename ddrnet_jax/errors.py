"""The errors that a user can mend: they end in one line instead of a traceback."""


class UserError(ValueError):
    """The message says what was given, what was expected and what to do."""


class TryAgain(UserError):
    """What passes by itself, such as a network that is away: the same command goes on. It ends with exit code 75."""
