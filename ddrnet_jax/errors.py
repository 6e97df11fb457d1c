"""The errors that a user can mend: they end in one line instead of a traceback."""


class UserError(ValueError):
    """The message says what was given, what was expected and what to do."""


class TryAgain(UserError):
    """A trouble that passes by itself, such as a network that is away: exit code 75, and the same command goes on."""
