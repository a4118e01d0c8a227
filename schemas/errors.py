"""Every error wamloom raises, in one tree.

    WamloomError                     something a user can act on; carries where, hint and a reason code
    ├── UsageError                   the command line asks for something that makes no sense      (exit 2)
    ├── RecipeError                  a recipe is wrong                                            (exit 2)
    ├── CardError                    a card is wrong, or disagrees with the data                  (exit 2)
    ├── SourceError                  a recording cannot be read                                   (exit 3)
    │   ├── MissingFile              something the recording names is not there
    │   └── CorruptEpisode           what is there is damaged or contradicts itself
    ├── DecodeError                  a video cannot be decoded strictly
    ├── LayoutError                  vectors and layouts do not fit
    ├── LakeError                    the lake cannot be opened, or what it holds is damaged
    ├── ReleaseError                 a release cannot be written or read
    │   ├── ReleaseMismatch          the folder holds another build
    │   └── AlreadyPublished         this very release is already there
    ├── FingerprintMismatch          statistics, tokens or latents of another recipe
    ├── UnitLost                     a worker died or hung and its unit gave no result
    └── RejectEpisode                not a failure but an outcome: the recipe does not want this episode

Every class takes the same facts (message, where, hint, reason), passes all of them to ``Exception.__init__`` so that the
error survives pickling through any executor with its type, and composes its text in ``__str__``.
"""

from typing import ClassVar


class WamloomError(Exception):
    """An error a user can act on: ``message`` says what, ``where`` the file and place, ``hint`` the mend."""

    default_reason: ClassVar[str] = "error"

    def __init__(self, message: str, where: str = "", hint: str = "", reason: str = "") -> None:
        super().__init__(message, where, hint, reason)
        self.message = message
        self.where = where
        self.hint = hint
        self.reason = reason or self.default_reason
        """Short code for the ledger, such as ``truncated``; stable, so that counts can be grouped by it."""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\nhint: {self.hint}" if self.hint else text


class UsageError(WamloomError):
    """The command line asks for something that makes no sense."""

    default_reason = "usage"


class RecipeError(WamloomError):
    """A recipe is wrong: unknown key, wrong type, contradiction."""

    default_reason = "recipe"


class CardError(WamloomError):
    """A card is wrong, or the data disagrees with it."""

    default_reason = "card"


class SourceError(WamloomError):
    """A recording cannot be read."""

    default_reason = "unreadable"


class MissingFile(SourceError):
    """Something the recording names is not there."""

    default_reason = "missing_file"


class CorruptEpisode(SourceError):
    """What is there is damaged or contradicts itself."""

    default_reason = "corrupt"


class DecodeError(WamloomError):
    """A video cannot be decoded strictly; ``reason`` is one of not_video, truncated, count_mismatch, too_large,
    corrupt_frame, bad_times, deadline, memory_limit, decoder_crashed, unsupported_codec."""

    default_reason = "undecodable"


class LayoutError(WamloomError):
    """Vectors and layouts do not fit: wrong width, unknown channel."""

    default_reason = "layout"


class LakeError(WamloomError):
    """The lake cannot be opened, or what it holds is damaged."""

    default_reason = "lake"


class ReleaseError(WamloomError):
    """A release cannot be written or read."""

    default_reason = "release"


class ReleaseMismatch(ReleaseError):
    """The folder holds another build."""

    default_reason = "other_release"


class AlreadyPublished(ReleaseError):
    """This very release is already there."""

    default_reason = "already_published"


class FingerprintMismatch(WamloomError):
    """Statistics, tokens or latents were made by another recipe; always an error, never a warning."""

    default_reason = "fingerprint"


class UnitLost(WamloomError):
    """A worker died or hung and its unit gave no result."""

    default_reason = "worker_died"


class RejectEpisode(WamloomError):
    """Not a failure but an outcome: the recipe does not want this episode."""

    default_reason = "rejected"
