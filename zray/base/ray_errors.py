"""Exceptions of Ray that zray never raises: programs name them in ``except`` clauses."""

from __future__ import annotations

from typing import Any

from zray.base.errors import RayError, RaySystemError


class ActorHandleNotFoundError(ValueError, RayError):
    """A handle of another cluster; zray raises RayActorError."""


class CrossLanguageError(RayError):
    """A task in another language failed."""


class PlasmaObjectNotAvailable(RayError):
    """An object that is not in the store was asked for without waiting."""


class UserCodeException(RayError):
    """User code of a library failed."""


class RpcError(RayError):
    """A call between processes of Ray failed; ``rpc_code`` says how."""

    def __init__(self, message: str = "", rpc_code: int | None = None):
        super().__init__(message)
        self.message = message
        self.rpc_code = rpc_code

    def __reduce__(self):
        return type(self), (self.message, self.rpc_code)


class _OfSystem(RaySystemError):
    def __init__(self, client_exc: Any = "", traceback_str: str | None = None):
        super().__init__(client_exc)
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __reduce__(self):
        return type(self), (self.client_exc, self.traceback_str)


class RayDirectTransportError(_OfSystem):
    """Tensors could not be sent from device to device."""


class StreamingGeneratorReplayInconsistentError(_OfSystem):
    """A generator that ran again gave other items."""
