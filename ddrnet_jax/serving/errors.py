"""The answers of a server that has no mask to give."""

from ddrnet_jax.errors import UserError


class ServeError(UserError):
    """The server cannot start; the message says what to do."""


class Refused(UserError):
    """A request that gets no mask; the message is the answer's line.

    status   of HTTP
    headers  of the answer
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers or {}
