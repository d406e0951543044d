"""Errors of the ground floor.

GearshiftError
├── NotFound               a model, variant, blob or key that does not exist
├── Conflict               the name is taken, or the state does not allow this
│   ├── Outdated           it was changed since the caller looked at it
│   └── BeingChanged       another gateway is at work on it
├── Invalid                a manifest, specification or settings file that says the wrong thing
│   └── ArtifactRejected   a file that must not be, or cannot be, loaded
├── TrialFailed            the throw-away process crashed, hung or ran out of memory
│   └── TrialCrashed       it ended by itself, without an answer
├── StorageFull            the disk does not take what was sent
├── StorageBroken          the disk does not keep what is written
└── RegistryUnavailable    the database does not answer; it may again
    ├── RegistryReadOnly   it takes no changes
    └── RegistryDamaged    what it holds makes no sense

HTTP status codes are chosen at the edge, never here.
"""


class GearshiftError(Exception):
    """Base of every error that Gearshift raises on purpose."""


class NotFound(GearshiftError):
    """A model, variant, blob or key that does not exist."""


class ModelNotFound(NotFound):
    """There is no such model, or the caller must not know of it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no model {name!r}")


class VariantNotFound(NotFound):
    """There is no such variant, or the caller must not know of it."""

    def __init__(self, model: str, name: str) -> None:
        super().__init__(f"no variant {name!r} of model {model!r}")


class Conflict(GearshiftError):
    """The name is taken by something else, or the present state does not allow the change."""


class Outdated(Conflict):
    """It was changed by somebody else since the caller looked at it."""


class BeingChanged(Conflict):
    """Another gateway is at work on it; it can be tried again soon."""


class Invalid(GearshiftError):
    """Input that can be read but says the wrong thing; `field` names the place where known."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ArtifactRejected(Invalid):
    """An artifact that must not be loaded: wrong format, unsafe content, or beyond the limits.

    `code` is one of the words in `variants.artifact.REJECTIONS`. The message may come from a
    library that quotes the file, so it is cut and holds nothing that cannot be printed.
    """

    MAX_MESSAGE = 1000

    def __init__(self, code: str, message: str) -> None:
        shown = "".join(c if c.isprintable() else " " for c in message[: self.MAX_MESSAGE])
        super().__init__(shown, field="artifact")
        self.code = code


class TrialFailed(GearshiftError):
    """The throw-away process that loads an artifact crashed, hung or ran out of memory."""


class TrialCrashed(TrialFailed):
    """The process ended without an answer, mostly by a signal."""


class StorageFull(GearshiftError):
    """The disk does not take what was sent."""


class StorageBroken(GearshiftError):
    """The disk is read-only, or fails to keep what is written."""


class RegistryUnavailable(GearshiftError):
    """The database does not answer now. The message holds no path or address."""


class RegistryReadOnly(RegistryUnavailable):
    """The database takes no changes now."""


class RegistryDamaged(RegistryUnavailable):
    """What the database holds makes no sense: restore a backup."""
