"""The errors that a user can mend: they end in one line instead of a traceback."""


class UserError(ValueError):
    """The message says what was given, what was expected and what to do."""


class TryAgain(UserError):
    """It passes by itself, as a network that is away: the same command goes on. Ends with exit code 75."""
