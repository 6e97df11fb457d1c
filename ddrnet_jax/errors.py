"""What a user can mend: the base of everything that ends in one line instead of a traceback."""


class UserError(ValueError):
    """The message says what was given, what was expected and what to do."""
