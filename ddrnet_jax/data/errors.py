"""The one exception of the data package."""


class DataError(ValueError):
    """Something is wrong with the user's data; the message names the file and what to do."""
