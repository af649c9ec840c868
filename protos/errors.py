"""Exceptions, sorted by whose fault it is.

    MaskserveError                says what is wrong and what to do; the command line prints it without a traceback
    ├── ConfigError               the operator's: a setting, a port, a missing program or archive
    ├── DataError                 the labelled data's: names file and shape
    ├── RequestError              the sender's of this image: has a code and perhaps a field
    └── maskserve.client.errors.ServerError    the server's: not ready, overloaded, timed out, broken

Everything else that is raised is a bug and flies.
"""

from maskserve.protos.types import ErrorCode


class MaskserveError(Exception):
    """An error whose text is for a person: what is wrong, where, and what to do about it."""


class ConfigError(MaskserveError):
    """Something the operator set up is wrong or missing."""


class DataError(MaskserveError):
    """The labelled data cannot be used as it is; the text names file, shape or line."""


class RequestError(MaskserveError):
    """One image's request cannot be answered; `message` is for its sender.

    Args:
        code: the stable reason.
        message: what is wrong and what to do, one sentence or two.
        field: the option at fault, or "".
    """

    def __init__(self, code: ErrorCode, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
